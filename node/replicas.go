package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
)

// replicas keeps running what the reconciler assigned to this node: one keeper
// for each assignment. When the daemon ends, keepers end and containers go on;
// the next daemon's keepers take them over.
type replicas struct {
	node *Node
	dir  *discovery.Discovery

	mu       sync.Mutex
	keepers  map[string]*keeper // by assignment
	unspoken int                // keepers that took over a container and have not said yet what it provides
	silent   chan struct{}      // closed when there is none
	settled  chan struct{}      // closed after that, when what is outside was asked too
	followed chan struct{}      // closed when there are keepers for all that was assigned before
	outside  <-chan struct{}    // closed when it was; nil: nothing is outside
	down     chan struct{}      // closed when everything is to stop, for the node goes down
	isDown   bool
}

func newReplicas(n *Node, dir *discovery.Discovery) *replicas {
	return &replicas{
		node: n, dir: dir, keepers: make(map[string]*keeper),
		silent: make(chan struct{}), settled: make(chan struct{}), followed: make(chan struct{}), down: make(chan struct{}),
	}
}

// run follows the assignments until ctx ends.
func (r *replicas) run(ctx context.Context) error {
	if r == nil {
		return nil
	}
	var settling sync.WaitGroup
	defer settling.Wait()
	settling.Go(func() { r.settle(ctx) })
	first := true
	for {
		changed := r.node.store.Assignments.Changed()
		r.follow(first)
		first = false
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow starts a keeper for each new assignment and tells those of others what
// has become of theirs. Those that take over a container are all known before
// the first of them speaks.
func (r *replicas) follow(first bool) {
	have := make(map[string]bool)
	var begin []*keeper
	for _, rec := range r.node.store.Assignments.List("") {
		a := rec.Value
		if a.Node != r.node.opts.Name {
			continue
		}
		have[a.ID] = true
		r.mu.Lock()
		k := r.keepers[a.ID]
		if k == nil && !r.isDown {
			k = newKeeper(r, a)
			r.keepers[a.ID] = k
			begin = append(begin, k)
			if first && k.hasContainer() {
				k.unspoken = true
				r.unspoken++
			}
		}
		r.mu.Unlock()
		if k != nil && a.Stop {
			k.tellStop(a.Reason)
		}
	}
	r.mu.Lock()
	for id, k := range r.keepers {
		if !have[id] {
			k.tellGone()
		}
	}
	if first && r.unspoken == 0 {
		close(r.silent)
	}
	r.mu.Unlock()
	r.node.dropRedirects(have)
	for _, k := range begin {
		if !r.node.goTask(k.run) {
			return
		}
	}
	if first {
		close(r.followed)
		r.forgetStrangers(have)
	}
}

// forgetStrangers ends instances and records of assignments that are no more.
func (r *replicas) forgetStrangers(have map[string]bool) {
	n := r.node
	n.mu.Lock()
	var gone []*instance
	for _, in := range n.instances {
		if in.Assigned != "" && !have[in.Assigned] {
			gone = append(gone, in)
		}
	}
	n.mu.Unlock()
	for _, in := range gone {
		n.goTask(func(ctx context.Context) {
			if in.ended() {
				return // kept for its log
			}
			in.sandbox.Blame(mayfly.Cancelled, "its assignment is gone")
			in.sandbox.Stop(ctx, stopSignal(in), stopGrace)
		})
	}
	for _, rec := range n.store.Replicas.List("") {
		if rec.Value.Node == n.opts.Name && !have[rec.Name] {
			n.goTask(func(ctx context.Context) { n.forgetReplica(ctx, rec.Space, rec.Name, rec.Revision) })
		}
	}
}

// spoke notes that a keeper has said what the container that it took over
// provides, or that there is none.
func (r *replicas) spoke(k *keeper) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !k.unspoken {
		return
	}
	k.unspoken = false
	if r.unspoken--; r.unspoken == 0 {
		close(r.silent)
	}
}

// outsideTime is how long consumers are kept waiting for what is outside.
const outsideTime = 5 * time.Second

// settle lets consumers be told when all is known: what is not known then is gone.
func (r *replicas) settle(ctx context.Context) {
	select {
	case <-r.silent:
	case <-ctx.Done():
		return
	}
	if r.outside != nil {
		select {
		case <-r.outside:
		case <-time.After(outsideTime):
		case <-ctx.Done():
			return
		}
	}
	r.dir.Settle()
	close(r.settled)
}

// renew has the container of a replica ended as for an update, and another one
// follow. It waits for the keeper that takes it over from an earlier daemon's. It
// reports false for what is none of a replica.
func (r *replicas) renew(ctx context.Context, in *instance, why string) bool {
	if r == nil || in.Assigned == "" || in.Sidecar != "" || !reaches(ctx, r.followed, in) {
		return false
	}
	r.mu.Lock()
	k := r.keepers[in.Assigned]
	r.mu.Unlock()
	if k == nil || !reaches(ctx, k.took, in) {
		return false
	}
	l := k.life.Load()
	if l == nil || l.in != in {
		return false
	}
	l.ask(ending{reason: why})
	return true
}

// reaches waits until a channel is closed. It reports false where the instance ended
// or ctx was over before.
func reaches(ctx context.Context, c <-chan struct{}, in *instance) bool {
	select {
	case <-c:
		return true
	case <-in.recorded:
	case <-ctx.Done():
	}
	return false
}

// forget lets go of a keeper that has ended.
func (r *replicas) forget(k *keeper) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keepers, k.a.ID)
}

// stopAll stops every replica, for the node goes down: nobody is waited for, and
// the next daemon starts them again. It returns when all have ended.
func (r *replicas) stopAll(ctx context.Context, progress func(string)) {
	if r == nil {
		return
	}
	r.mu.Lock()
	if !r.isDown {
		r.isDown = true
		close(r.down)
	}
	var all []*keeper
	for _, k := range r.keepers {
		all = append(all, k)
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *keeper) int {
		return cmp.Or(cmp.Compare(a.a.Workload, b.a.Workload), cmp.Compare(a.a.Replica, b.a.Replica))
	})
	for _, k := range all {
		if k.hasContainer() {
			progress(fmt.Sprintf("stopping %s/%d", k.a.Workload, k.a.Replica))
		}
	}
	for _, k := range all {
		select {
		case <-k.ended:
		case <-ctx.Done():
			return
		}
	}
}
