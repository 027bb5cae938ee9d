package node

import (
	"cmp"
	"context"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// openPool makes the pool of a function, as its isolation and its scale ask for.
func (f *function) openPool() {
	n, w := f.node, &f.release.Workload
	s := w.Scale
	idle := cmp.Or(s.Idle, n.opts.PoolIdle)
	if w.Isolation == mayfly.IsolationInstance {
		if n.opts.MaxWaiting < 0 {
			idle = time.Nanosecond // none waits
		}
		f.shared = container.NewSharedPool(f, container.SharedOptions[*ready]{
			Each: w.PerInstance(), Least: s.Min, Most: cmp.Or(s.Max, cap(n.running)), Idle: idle, Cooldown: s.Cooldown, MaxQueue: s.Queue,
			Making: n.making, Budget: n.budget, Cost: waitingMemory, Retire: f.retire,
		})
		return
	}
	f.pool = container.NewPool(f, container.PoolOptions{
		Max: n.opts.MaxWaiting, Least: s.Min, Most: s.Max, Idle: idle, MaxQueue: s.Queue,
		Making: n.making, Budget: n.budget, Cost: waitingMemory,
	})
}

// retire ends an instance that has served its last run. Its image is in use until
// then.
func (f *function) retire(r *ready) {
	key := keyOf(f.release)
	r.crowd.Close()
	if f.node.use(key) != nil { // the node ends
		f.node.retire(r.Sandbox, func() {})
		return
	}
	f.node.retire(r.Sandbox, func() { f.node.done(key) })
}

func (f *function) run(ctx context.Context) {
	if f.shared != nil {
		f.shared.Run(ctx)
		return
	}
	f.pool.Run(ctx)
}

func (f *function) drain() {
	if f.shared != nil {
		f.shared.Drain()
		return
	}
	f.pool.Drain()
}

// expect says that tasks wait in the queue, for which instances are to be ready.
func (f *function) expect(b container.Backlog) {
	if f.shared != nil {
		f.shared.Expect(b)
		return
	}
	f.pool.Expect(b)
}

// next waits for a sandbox, or for a place in one.
func (f *function) next(ctx context.Context) (*ready, error) {
	if f.shared != nil {
		return f.shared.Get(ctx)
	}
	return f.pool.Get(ctx)
}

// back gives back what next gave, unused.
func (f *function) back(r *ready) {
	if f.shared != nil {
		f.shared.Put(r, true)
		return
	}
	f.pool.Put(r)
}

// refuse throws away what next gave.
func (f *function) refuse(r *ready) {
	if f.shared != nil {
		f.shared.Put(r, false)
		return
	}
	f.pool.Gone()
	r.Remove()
}

// weighShared weighs an instance that serves many runs now and then.
func (f *function) weighShared(r *ready) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.weigh()
}

// load is what the function has to do on this node.
func (f *function) load() mayfly.Load {
	if f.shared != nil {
		return f.shared.Load()
	}
	return f.pool.Load()
}

// keepLeast has those functions begin that are to have instances before anybody
// asks, until ctx ends.
func (n *Node) keepLeast(ctx context.Context) error {
	for {
		snap := n.store.Snapshot()
		var again <-chan time.Time
		for _, w := range snap.WorkloadsIn("") {
			if w.Workload.Service != nil || w.Workload.Scale.Min == 0 {
				continue
			}
			if _, err := n.function(ctx, &w.Release); err != nil && ctx.Err() == nil {
				n.opts.Log.Error("keep instances waiting; it is tried again", "workload", w.Workload.Name, "err", err)
				again = time.After(askAgain)
			}
		}
		for _, key := range n.superseded() {
			n.drop(ctx, key)
		}
		if !n.awaitDeploy(ctx, snap.Deployed, again) {
			return nil
		}
	}
}

// superseded is the functions here that are to have instances before anybody
// asks, and whose release is not active any more: one may have begun just as
// another was deployed.
func (n *Node) superseded() (keys []functionKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for key, f := range n.functions {
		if f.release.Workload.Scale.Min > 0 && n.users[key] == 0 && !n.active(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// awaitDeploy returns when something was deployed after what was seen, when a
// function was dropped, or when it is time to try again; and false when ctx has
// ended.
func (n *Node) awaitDeploy(ctx context.Context, seen uint64, again <-chan time.Time) bool {
	for {
		snap := n.store.Snapshot()
		if snap.Deployed != seen {
			return true
		}
		select {
		case <-snap.Changed():
		case <-n.dropped:
			return true
		case <-again:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// FunctionLoad is what a function has to do on this node, in the active release
// and those before it whose runs go on.
func (n *Node) FunctionLoad(space, name string) (sum mayfly.Load) {
	n.mu.Lock()
	var all []*function
	for key, f := range n.functions {
		if key.space == space && key.name == name {
			all = append(all, f)
		}
	}
	n.mu.Unlock()
	for _, f := range all {
		l := f.load()
		sum.InFlight += l.InFlight
		sum.Waiting += l.Waiting
		sum.Oldest = max(sum.Oldest, l.Oldest)
		sum.Instances += l.Instances
		sum.Starting += l.Starting
		sum.Capacity += l.Capacity
		sum.Wanted += l.Wanted
	}
	return sum
}
