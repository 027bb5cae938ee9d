package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/manifest"
)

// keeper keeps one replica running, on its own goroutine:
//
//	                     ┌──────────────── not ready ──────────────┐
//	waiting ──> starting ──> ready (standby) <──> unready          │
//	   ^            └────────────┴──────────────────┴─> end ─> backoff ─> waiting
//	   |                                                 └───> completed, failed
//	any ── its assignment says stop ──> draining ──> stopping ──> stopped
//
// The record of the replica (store.Replicas) is its alone to write.
type keeper struct {
	r    *replicas
	node *Node
	a    mayfly.Assignment
	rel  mayfly.Release

	stop     chan struct{} // closed when it is to stop
	gone     chan struct{} // closed when its assignment is no more
	took     chan struct{} // closed when it attends to what it took over, or there was nothing
	ended    chan struct{} // closed when run has returned
	stopOnce sync.Once
	goneOnce sync.Once
	tookOnce sync.Once
	why      string               // why it is to stop; set before stop is closed
	over     <-chan struct{}      // closed when the daemon ends: nobody records ends any more
	unspoken bool                 // under the mutex of r
	life     atomic.Pointer[life] // what it attends to; nil between two

	status mayfly.Replica
	rev    uint64
	owes   time.Time // when to write the record, which is not as status is; zero if it is
	failed bool      // that it could not be written is why it is owed
	wrote  string    // the reason on record
	told   string    // what was last waited for that became news, as awaited says it
	turns  int       // how often in a row what another has was waited for
}

func newKeeper(r *replicas, a mayfly.Assignment) *keeper {
	k := &keeper{
		r: r, node: r.node, a: a,
		stop: make(chan struct{}), gone: make(chan struct{}), took: make(chan struct{}), ended: make(chan struct{}),
	}
	if rec, ok := r.node.store.Replicas.Find(a.Space, a.ID); ok {
		k.status, k.rev, k.wrote = rec.Value, rec.Revision, rec.Value.Reason
	} else {
		k.status = mayfly.Replica{
			Assignment: a.ID, Space: a.Space, Workload: a.Workload, Release: a.Release, Number: a.Replica, Node: r.node.opts.Name,
		}
	}
	return k
}

func (k *keeper) tellStop(why string) {
	k.stopOnce.Do(func() { k.why = why; close(k.stop) })
}

func (k *keeper) tellGone() {
	k.tellStop("its assignment is gone")
	k.goneOnce.Do(func() { close(k.gone) })
}

func (k *keeper) tellTook() { k.tookOnce.Do(func() { close(k.took) }) }

func (k *keeper) stopping() bool { return isClosed(k.stop) || isClosed(k.r.down) }

// run keeps the replica until its assignment is gone, the node goes down or ctx
// ends.
func (k *keeper) run(ctx context.Context) {
	defer close(k.ended)
	defer k.tellTook()
	defer k.r.spoke(k)
	k.over = ctx.Done()
	if err := k.keep(ctx); err != nil && ctx.Err() == nil {
		k.node.opts.Log.Error("keep a replica", "workload", k.a.Workload, "replica", k.a.Replica, "err", err)
		k.set(ctx, mayfly.ReplicaFailed, err.Error())
	}
	k.r.spoke(k)
	k.settle(ctx)
	select {
	case <-k.r.down: // the record stays for the next daemon
		return
	case <-ctx.Done():
		return
	case <-k.stop:
	}
	if ctx.Err() != nil { // what is to stop may still run
		return
	}
	k.set(ctx, mayfly.ReplicaStopped, k.why)
	k.settle(ctx)
	select {
	case <-k.gone:
		k.node.forgetReplica(ctx, k.a.Space, k.a.ID, k.rev)
		k.r.forget(k)
	case <-k.r.down:
	case <-ctx.Done():
	}
}

// keep runs one container after the other. It returns when there shall be no
// further one.
func (k *keeper) keep(ctx context.Context) error {
	rel, err := k.node.store.Release(ctx, k.a.Space, k.a.Workload, k.a.Release)
	for mayfly.KindOf(err) == mayfly.Unavailable && ctx.Err() == nil { // what runs is not to be given up for that
		k.node.opts.Log.Error("read a release; it is tried again", "workload", k.a.Workload, "release", k.a.Release, "err", err)
		select {
		case <-time.After(recordAgain):
		case <-ctx.Done():
		}
		rel, err = k.node.store.Release(ctx, k.a.Space, k.a.Workload, k.a.Release)
	}
	if mayfly.KindOf(err) == mayfly.NotFound {
		return k.endDeleted(ctx)
	}
	if err != nil {
		return err
	}
	k.rel = rel
	l := k.adopt(ctx)
	if l == nil {
		k.tellTook()
		k.r.spoke(k)
		if e, healthy := k.missed(); e != nil && !k.follows(ctx, *e, healthy) {
			return nil
		}
	}
	k.r.node.thinEnded(ctx, k)
	switch k.status.State {
	case mayfly.ReplicaCompleted, mayfly.ReplicaFailed, mayfly.ReplicaStopped:
		if l == nil {
			return nil
		}
	}
	for {
		if l == nil {
			if !k.await(ctx) {
				return nil
			}
			if l, err = k.begin(ctx); err != nil {
				if k.stopping() || ctx.Err() != nil {
					return nil
				}
				if mayfly.KindOf(err) == mayfly.Conflict {
					k.awaitTurn(ctx, err)
					continue
				}
				exit := mayfly.Exit{Code: 125, Reason: mayfly.Rejected, Detail: err.Error(), Time: time.Now()}
				if never := new(neverRan); errors.As(err, &never) {
					exit = never.exit
				}
				if !k.follows(ctx, exit, 0) {
					return nil
				}
				continue
			}
		}
		k.life.Store(l)
		k.tellTook()
		end := l.attend(ctx)
		k.life.Store(nil)
		if ctx.Err() != nil {
			l.leave()
			return nil
		}
		goOn := l.end(ctx, end)
		l = nil
		if !goOn {
			k.node.thinEnded(ctx, k)
			return nil
		}
	}
}

// endDeleted ends what is left of a replica whose release was deleted and is known
// to nobody since there was another daemon. The drain that that one had begun goes on.
func (k *keeper) endDeleted(ctx context.Context) error {
	svc := &mayfly.Service{}
	if d := k.status.Drain; d != nil {
		svc.DrainWait, svc.StopGrace = d.Wait, d.Grace
	}
	k.rel.Workload = mayfly.Workload{Space: k.a.Space, Name: k.a.Workload, Service: svc}
	l := k.adopt(ctx)
	k.tellTook()
	k.r.spoke(k)
	if l != nil {
		l.late = true
		l.end(ctx, ending{reason: "its service was deleted", stop: true})
	}
	return nil
}

// follows decides what comes after an end that nobody asked for, healthy being
// how long the container was ready. It reports whether another one follows.
func (k *keeper) follows(ctx context.Context, e mayfly.Exit, healthy time.Duration) bool {
	if healthy >= goodHealth {
		k.status.Failures = 0
	}
	k.status.Failures++
	k.status.Exit = &e
	svc := k.rel.Workload.Service
	said := ended(e)
	switch after(svc.Restart, e, k.status.Failures) {
	case completed:
		k.news("service.completed", "it "+said)
		k.set(ctx, mayfly.ReplicaCompleted, said)
		return false
	case givenUp:
		reason := fmt.Sprintf("it %s, and its restart policy (%s) gives up", said, policy(svc.Restart))
		k.news("service.failed", reason)
		k.set(ctx, mayfly.ReplicaFailed, reason)
		return false
	}
	wait := backoff(k.status.Failures)
	k.status.Restarts++
	if wait == 0 {
		k.news("service.crashed", fmt.Sprintf("it %s; it is started again at once", said))
		return true
	}
	k.status.Next = time.Now().Add(wait).UTC()
	k.news("service.crashed", fmt.Sprintf("it %s; after %d failures in a row it is started again in %s", said, k.status.Failures, manifest.DurationText(wait)))
	k.set(ctx, mayfly.ReplicaBackoff, fmt.Sprintf("it %s, %d times in a row", said, k.status.Failures))
	return true
}

func policy(r mayfly.Restart) string {
	p := r.Policy
	if p == "" {
		p = mayfly.RestartAlways
	}
	if r.Max > 0 {
		p += fmt.Sprintf(", at most %d times", r.Max)
	}
	return p
}

// ended says how something ended, as the end of a sentence.
func ended(e mayfly.Exit) string {
	text := string(e.Reason)
	switch {
	case e.Reason == mayfly.Succeeded:
		text = "ended with exit code 0"
	case e.Reason == mayfly.ExitedNonZero:
		text = fmt.Sprintf("failed with exit code %d", e.Code)
	case e.Reason == mayfly.Rejected:
		text = "could not be started"
	default:
		text = "ended: " + text
	}
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text
}

// set records a state. The reason is one line for a person.
func (k *keeper) set(ctx context.Context, state mayfly.ReplicaState, reason string) {
	if k.status.State == state && !k.failed {
		switch {
		case k.status.Reason == reason:
			return
		case state == mayfly.ReplicaReady:
			k.remark(reason)
			return
		}
	}
	if k.status.State != state || k.status.Since.IsZero() {
		k.status.Since = time.Now().UTC()
	}
	if state == mayfly.ReplicaReady && k.status.State != mayfly.ReplicaReady {
		k.status.Ready = k.status.Since
	}
	k.status.State, k.status.Reason = state, reason
	if state != mayfly.ReplicaBackoff {
		k.status.Next = time.Time{}
	}
	if state != mayfly.ReplicaDraining && state != mayfly.ReplicaStopping {
		k.status.Drain = nil
	}
	k.record(ctx)
}

// recordSoon is when a reason is written that alone has changed: what is lacking
// comes back, often within milliseconds, and consumers are told of it meanwhile.
const recordSoon = 200 * time.Millisecond

// remark changes what is said of a replica that is ready. However often that changes,
// the first time counts for when it is written.
func (k *keeper) remark(reason string) {
	k.status.Reason = reason
	switch {
	case reason == k.wrote:
		k.owes = time.Time{}
	case k.owes.IsZero():
		k.owes = time.Now().Add(recordSoon)
	}
}

// record writes the status down as it is.
func (k *keeper) record(ctx context.Context) {
	table := k.node.store.Replicas
	rev, err := table.Put(ctx, k.a.Space, k.a.ID, k.status, k.rev)
	if mayfly.KindOf(err) == mayfly.Conflict { // with a write of our own whose answer did not come
		_, err = table.Update(ctx, k.a.Space, k.a.ID, func(mayfly.Replica, bool) (mayfly.Replica, bool, error) { return k.status, true, nil })
		rec, _ := table.Find(k.a.Space, k.a.ID)
		rev = rec.Revision
	}
	if err == nil {
		k.rev, k.owes, k.failed, k.wrote = rev, time.Time{}, false, k.status.Reason
		return
	}
	k.owes, k.failed = time.Now().Add(recordAgain), true
	if !errors.Is(err, context.Canceled) {
		k.node.opts.Log.Error("record a replica", "workload", k.a.Workload, "replica", k.a.Replica, "err", err)
	}
}

// forgetReplica deletes the record of a replica, again until that is done or ctx
// ends. rev is the revision that is known of it.
func (n *Node) forgetReplica(ctx context.Context, space, id string, rev uint64) {
	for {
		err := n.store.Replicas.Delete(ctx, space, id, rev)
		if err == nil || ctx.Err() != nil {
			return
		}
		rec, ok := n.store.Replicas.Find(space, id)
		if !ok {
			return
		}
		if rec.Revision != rev { // a write whose answer did not come
			rev = rec.Revision
			continue
		}
		n.opts.Log.Error("forget a replica; it is tried again", "id", id, "err", err)
		select {
		case <-time.After(recordAgain):
		case <-ctx.Done():
			return
		}
	}
}

// recordAgain is when a record is written that could not be.
const recordAgain = 2 * time.Second

// due gets a value when the record is to be written, if it is.
func (k *keeper) due() <-chan time.Time {
	if k.owes.IsZero() {
		return nil
	}
	return time.After(time.Until(k.owes))
}

// settle returns when the record is as the status is, or the daemon ends.
func (k *keeper) settle(ctx context.Context) {
	for !k.owes.IsZero() {
		select {
		case <-k.due():
			k.record(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// news tells what happened to the replica.
func (k *keeper) news(kind, text string) { k.node.store.RecordNews(k.newsOf(kind, text)) }

// newsOfTelling tells that its container was told of something.
func (k *keeper) newsOfTelling(text string) {
	k.node.store.RecordNewsLater(k.newsOf("service.told", text))
}

func (k *keeper) newsOf(kind, text string) mayfly.News {
	return mayfly.News{
		Space: k.a.Space, Type: kind, Subject: k.a.Workload, Release: k.a.Release, Replica: k.a.Replica,
		Instance: k.status.Instance, Node: k.node.opts.Name, Text: text,
	}
}
