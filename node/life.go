package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/store"
)

// life is one container of a replica, with what is beside it.
type life struct {
	k     *keeper
	in    *instance
	side  []*instance        // sidecars, in the order of their start
	req   *required          // what it requires, watched
	wired string             // the files that tell of it, as the container has them
	told  map[string][]wired // the same, by requirement; nil until it was told anew
	owed  map[string][]wired // what on_change was last done for, where it was not for that; else nil

	tasks  sync.WaitGroup // of its goroutines
	checks *checks
	turn   *turn       // nil: every replica is active
	asks   chan ending // to end it

	endpoints []mayfly.Endpoint // that it could have; published are those of checks
	published map[string]bool   // by id
	late      bool              // it was to stop already when it was taken over: nothing of it is published again
	ready     time.Time         // since when; zero: it is not
	healthy   time.Duration     // how long it was ready, before ready
}

// ending is why a container shall end, or has ended.
type ending struct {
	reason    string
	failure   bool // it counts as a crash
	completed bool // nothing is left to do
	stop      bool // no other one follows
	hurry     bool // nobody is told: the node goes down
}

// adopt takes over the container that an earlier daemon's keeper left.
func (k *keeper) adopt(ctx context.Context) *life {
	main, side := k.node.instancesOf(k.a.ID)
	if main == nil {
		for _, in := range side {
			k.node.stopInstance(ctx, in, "what it was beside is gone", stopGrace)
		}
		return nil
	}
	l := k.newLife(main)
	l.side = side
	if s := main.state(); s == mayfly.Starting || s == mayfly.Created {
		l.abandon(context.WithoutCancel(ctx)) // that daemon did not come to start it
		return nil
	}
	w := &k.rel.Workload
	if v, err := k.node.material.Resolve(w.Space, w.Secrets, w.Configs); err == nil {
		main.sandbox.KeepPrivate(v.Private)
	} else {
		k.node.opts.Log.Error("read what a container was given", "instance", main.Name, "err", err)
	}
	if err := l.rewire(); err != nil {
		k.node.opts.Log.Error("watch what a container requires", "instance", main.Name, "err", err)
	}
	k.status.Instance = main.ID
	return l
}

// missed is how the container ended that an earlier daemon's keeper attended to,
// and for how long it was ready, when that keeper did not come to say what follows.
// It is nil if an end was asked for, or if it is the machine that ended.
func (k *keeper) missed() (e *mayfly.Exit, healthy time.Duration) {
	s := &k.status
	switch s.State {
	case mayfly.ReplicaStarting, mayfly.ReplicaReady, mayfly.ReplicaStandby, mayfly.ReplicaUnready:
	default:
		return nil, 0
	}
	k.node.mu.Lock()
	in := k.node.instances[s.Instance]
	k.node.mu.Unlock()
	if in == nil {
		return nil, 0
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if e = in.Exit; e == nil || e.Reason == mayfly.Lost || e.Reason == mayfly.Cancelled || e.Reason == mayfly.Rejected {
		return nil, 0
	}
	if s.State == mayfly.ReplicaReady {
		healthy = e.Time.Sub(s.Ready)
	}
	return e, healthy
}

// hasContainer reports whether there is one of its that has not ended.
func (k *keeper) hasContainer() bool {
	main, _ := k.node.instancesOf(k.a.ID)
	return main != nil
}

// instancesOf returns the container of an assignment that has not ended, nil if
// there is none, and its sidecars.
func (n *Node) instancesOf(assignment string) (main *instance, side []*instance) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, in := range n.instances {
		if in.Assigned != assignment || in.sandbox == nil || isClosed(in.recorded) {
			continue
		}
		switch {
		case in.Sidecar != "":
			side = append(side, in)
		case main == nil || in.ID > main.ID:
			main = in
		}
	}
	return main, side
}

func (k *keeper) newLife(in *instance) *life {
	return &life{k: k, in: in, asks: make(chan ending, 8), published: make(map[string]bool)}
}

// begin makes and starts a container. On an error nothing of it runs.
func (k *keeper) begin(ctx context.Context) (_ *life, err error) {
	w := &k.rel.Workload
	id := mayfly.NewID()
	k.status.Instance = id
	k.status.Address, k.status.Ports = "", nil
	if k.turns == 0 { // else it goes on waiting unless it comes further
		k.set(ctx, mayfly.ReplicaStarting, "its container is made")
	}
	l := k.newLife(newInstance(store.Instance{Instance: mayfly.Instance{
		ID: id, Space: k.a.Space, Name: fmt.Sprintf("%s-%d-%s", shortened(w.Name), k.a.Replica, id[len(id)-5:]), Workload: w.Name, Release: k.a.Release,
		Node: k.node.opts.Name, Image: imageOf(w), Digest: k.rel.Image, State: mayfly.Starting, Created: time.Now(), App: w.App,
		Replica: k.a.Replica, Assigned: k.a.ID, Labels: w.Labels, Resources: w.Resources, StopSignal: w.Service.StopSignal,
	}}))
	defer func() {
		if err != nil {
			k.life.Store(nil)
			l.abandon(context.WithoutCancel(ctx))
		}
	}()
	if l.req, err = k.watchRequired(false, nil); err != nil {
		return nil, err
	}
	o, err := l.order(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.node.make(ctx, l.in, o); err != nil {
		return nil, err
	}
	k.status.Address, k.status.Ports = l.in.Address, l.in.Ports
	if err := l.startSidecars(ctx); err != nil {
		return nil, err
	}
	k.life.Store(l) // who finds it running may have it ended
	if err := l.startPrograms(ctx); err != nil {
		return nil, err
	}
	k.told, k.turns = "", 0
	k.set(ctx, mayfly.ReplicaStarting, "")
	return l, nil
}

// shortened leaves room for what makes an instance's name of a workload's.
func shortened(name string) string { return name[:min(len(name), 50)] }

func imageOf(w *mayfly.Workload) string {
	if w.Stack != "" {
		return build.StackImage(w.Stack)
	}
	return w.Image
}

// abandon takes back what there is of a container that was not started.
func (l *life) abandon(ctx context.Context) {
	l.stopSidecars(ctx)
	if l.in.sandbox != nil {
		l.in.sandbox.Blame(mayfly.Rejected, "it could not be started")
		l.in.sandbox.Kill()
		l.awaitRecord(l.in)
	}
	l.leave()
}

// awaitRecord waits until the end of an instance is on record, which is not to be
// when the daemon ends: then the next one records it.
func (l *life) awaitRecord(in *instance) {
	select {
	case <-in.recorded:
	case <-l.k.over:
	}
}

// leave ends the watching of a container that goes on without the daemon.
func (l *life) leave() { l.req.close() }

// attend watches a container until it has ended or shall end, and says why.
// When ctx ends, the container goes on.
func (l *life) attend(ctx context.Context) ending {
	live, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		l.tasks.Wait()
	}()
	l.lookAfter(live)
	if l.late = l.adopted() && isClosed(l.k.stop); l.late {
		l.k.r.spoke(l.k)
	}
	var dies <-chan struct{} // its main program is gone; the kernel may have much to take down yet
	if main := l.in.sandbox.Main(); main != nil {
		dies = main.Done()
	}
	dying := false
	for {
		if !dying && !l.late {
			l.judge(ctx)
		}
		select {
		case <-dies:
			l.withdraw()
			dying, dies = true, nil
		case <-l.in.sandbox.Ended():
			l.withdraw()
			e := l.in.sandbox.Exit()
			return ending{reason: ended(e), failure: true}
		case <-l.checks.changed:
		case <-l.k.due():
			l.k.record(ctx)
		case end := <-l.asks:
			return end
		case <-l.k.stop:
			return ending{reason: l.k.why, stop: true}
		case <-l.k.r.down:
			return ending{reason: "the node goes down", stop: true, hurry: true}
		case <-ctx.Done():
			return ending{}
		}
	}
}

// ask has the container ended.
func (l *life) ask(e ending) {
	select {
	case l.asks <- e:
	default: // others have asked
	}
}

// end ends a container, unless it has ended, and what is beside it. It reports
// whether another one follows.
func (l *life) end(ctx context.Context, e ending) bool {
	k, live := l.k, ctx
	ctx = context.WithoutCancel(ctx)
	if !l.ready.IsZero() {
		l.healthy += time.Since(l.ready)
	}
	grace := k.rel.Workload.Service.StopGrace
	if grace == 0 {
		grace = stopGrace
	}
	if !l.in.ended() && !isClosed(l.in.sandbox.Ended()) {
		if !e.hurry {
			l.drain(live, e.reason)
		}
		if live.Err() != nil { // the next daemon ends it
			l.leave()
			return false
		}
		k.set(ctx, mayfly.ReplicaStopping, e.reason)
		if e.stop && !k.node.stopOrLeave(live, l.in, e.reason, grace) { // the next daemon goes on
			l.leave()
			return false
		}
		k.node.stopInstance(ctx, l.in, e.reason, grace)
	}
	l.withdraw()
	l.turn.release(ctx)
	l.stopSidecars(ctx)
	l.awaitRecord(l.in)
	l.leave()
	if !isClosed(l.in.recorded) {
		return false
	}
	exit := l.in.sandbox.Exit()
	switch {
	case e.hurry:
		k.status.Exit = &exit
		k.set(ctx, mayfly.ReplicaWaiting, "the node was taken down")
		return false
	case e.stop:
		k.status.Exit = &exit
		k.news("service.stopped", e.reason)
		return false
	case e.completed:
		return k.follows(ctx, mayfly.Exit{Reason: mayfly.Succeeded, Detail: e.reason, Time: time.Now()}, l.healthy)
	case !e.failure:
		k.status.Exit = &exit
		k.status.Restarts++
		k.news("service.restarted", e.reason)
		return true
	}
	if e.reason != ended(exit) { // it was ended because of something
		exit.Reason, exit.Detail = mayfly.ExitedNonZero, e.reason
	}
	return k.follows(ctx, exit, l.healthy)
}

// wake puts something into a channel that holds one, unless there is something.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stopSignal is what an instance is asked to end with.
func stopSignal(in *instance) syscall.Signal {
	if sig, ok := mayfly.ParseSignal(in.StopSignal); ok {
		return sig
	}
	return syscall.SIGTERM
}

// stopInstance asks an instance to end, kills it when the grace or ctx is over, and
// returns when it has ended.
func (n *Node) stopInstance(ctx context.Context, in *instance, why string, grace time.Duration) {
	if !n.stopOrLeave(ctx, in, why, grace) {
		in.sandbox.Kill()
		<-in.sandbox.Ended()
	}
}

// stopOrLeave is stopInstance, but that an instance goes on that has not ended when
// ctx is over. It reports whether it has.
func (n *Node) stopOrLeave(ctx context.Context, in *instance, why string, grace time.Duration) bool {
	if in.sandbox == nil || in.ended() || isClosed(in.sandbox.Ended()) {
		return true
	}
	in.sandbox.Blame(mayfly.Cancelled, why)
	if !in.sandbox.Stop(ctx, stopSignal(in), grace) {
		return false
	}
	<-in.sandbox.Ended()
	return true
}

// keepEnded is how many containers of a service that have ended are kept, for
// their logs.
const keepEnded = 3

// thinLater is how long after a start ended containers are thinned out: not while
// others are being told of it.
const thinLater = time.Second

func (l *life) thinEnded(ctx context.Context) {
	select {
	case <-time.After(thinLater):
		l.k.node.thinEnded(ctx, l.k)
	case <-ctx.Done():
	}
}

// thinEnded forgets containers of a service that ended, but for the newest.
func (n *Node) thinEnded(ctx context.Context, k *keeper) {
	n.mu.Lock()
	var over []*instance
	for _, in := range n.instances {
		if in.Space == k.a.Space && in.Workload == k.a.Workload && in.Assigned != "" && isClosed(in.recorded) {
			over = append(over, in)
		}
	}
	n.mu.Unlock()
	slices.SortFunc(over, func(a, b *instance) int { return cmp.Compare(b.ID, a.ID) }) // newest first
	for _, in := range over[min(len(over), keepEnded):] {
		err := n.forget(context.WithoutCancel(ctx), in)
		if err != nil && mayfly.KindOf(err) != mayfly.NotFound { // another replica's keeper may have done so
			n.opts.Log.Error("forget instance", "id", in.ID, "err", err)
		}
	}
}
