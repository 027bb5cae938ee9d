package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Grant is the right, and the duty, to run one attempt of a task, until Done.
type Grant struct {
	Task     mayfly.Task     // as it is starting
	Release  *mayfly.Release // that the task pins, not to be written to; nil for one of an image
	Payload  []byte          // nil when it is large; OpenPayload has either
	Attempt  mayfly.Attempt
	Deadline time.Time         // of the attempt, when the task has a timeout; the runner's to keep
	Results  map[string][]byte // of the tasks that this one came after, by id; the runner's to fetch

	entry     *entry
	payloads  *payloads
	cancelled chan struct{}
	charged   time.Duration
	since     time.Time // when it was granted, by the clock that nobody sets
	started   time.Time // guarded by the queue's mutex, as is what follows
	progress  *mayfly.Progress
	ending    bool // Done is at work
	ended     bool
}

// Cancelled is closed when the task is cancelled: the attempt is to be stopped,
// and Done to be called nevertheless.
func (g *Grant) Cancelled() <-chan struct{} { return g.cancelled }

// asker is one call of Next that waits.
type asker struct{ ch chan *entry }

// Next blocks until a task is granted to the node, in fair order, or ctx ends.
func (q *Queue) Next(ctx context.Context, node string) (*Grant, error) {
	for {
		e, err := q.ask(ctx)
		if err != nil {
			return nil, err
		}
		g, err := q.grant(ctx, e, node)
		if err == nil && g != nil {
			g, err = q.equip(ctx, g)
		}
		if err != nil || g != nil {
			return g, err
		}
	}
}

func (q *Queue) ask(ctx context.Context) (*entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := &asker{ch: make(chan *entry, 1)}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, errClosed
	}
	q.askers = append(q.askers, a)
	q.match()
	q.mu.Unlock()
	select {
	case e := <-a.ch:
		if e == nil {
			return nil, errClosed
		}
		return e, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.askers, a); i >= 0 {
		q.askers = slices.Delete(q.askers, i, i+1)
	} else if e := <-a.ch; e != nil {
		q.putBack(e)
	}
	return nil, ctx.Err()
}

// match gives tasks to those who ask, while there are both, and room to record
// how they end.
func (q *Queue) match() {
	for q.running && !q.scanning && len(q.askers) > 0 {
		if q.bus.Room() == bus.NoRoom {
			q.matchLater()
			return
		}
		e := q.pick()
		if e == nil {
			return
		}
		a := q.askers[0]
		q.askers[0] = nil
		q.askers = q.askers[1:]
		q.hold(e)
		a.ch <- e
		q.tellBacklog(e.lane.flow)
	}
}

// matchLater has match called again in a while.
func (q *Queue) matchLater() {
	if !q.stalled {
		q.stalled = true
		q.addTimer(timer{at: time.Now().Add(retryRead), stalled: true})
	}
}

// hold makes an entry granted, to nobody yet.
func (q *Queue) hold(e *entry) {
	e.grant = &Grant{entry: e, payloads: q.payloads, cancelled: make(chan struct{}), charged: e.lane.flow.usual}
}

// putBack undoes a grant that did not reach anybody.
func (q *Queue) putBack(e *entry) {
	f, charged := e.lane.flow, e.grant.charged
	cancelled := e.grant.ended
	e.grant = nil
	q.uncount(e)
	f.bucket.tokens++
	q.charge(f, -charged)
	if !cancelled {
		q.enqueue(e)
		q.changed(e.task)
	}
	q.match()
}

// grant completes what the dispatcher gave: nil when the task was cancelled
// meanwhile.
func (q *Queue) grant(ctx context.Context, e *entry, node string) (*Grant, error) {
	g := e.grant
	payload, err := q.payloadOf(ctx, e)
	if err != nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.putBack(e)
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if g.ended {
		q.putBack(e)
		return nil, nil
	}
	g.Payload = payload
	g.since = time.Now()
	g.Attempt = mayfly.Attempt{Number: e.task.Attempt, Node: node, Granted: now()}
	g.Task = e.view()
	q.changed(g.Task)
	if e.task.Timeout > 0 {
		g.Deadline = g.since.Add(e.task.Timeout) // whatever the wall clock does
	}
	return g, nil
}

// payloadOf returns an entry's payload, from the stream if it is not held. There
// is none when the task was cancelled meanwhile.
func (q *Queue) payloadOf(ctx context.Context, e *entry) ([]byte, error) {
	if e.held {
		return e.payload, nil
	}
	list, err := q.tasks.Get(ctx, []uint64{e.seq})
	if err != nil {
		return nil, unavailable("read the payload of task "+e.task.ID, err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list[0].Data, nil
}

// equip gives a grant the release that its task pins. Where that is gone the
// task ends, and there is no grant.
func (q *Queue) equip(ctx context.Context, g *Grant) (*Grant, error) {
	var err error
	if g.Release, err = q.pinned(ctx, g.Task); err == nil {
		return g, nil
	}
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil, q.reject(ctx, g, fmt.Sprintf("release %d of workload %q is gone: it, or the workload, was deleted while the task waited", g.Task.Release, g.Task.Workload))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.putBack(g.entry)
	return nil, err
}

// Started says that the program of a grant runs, and in which container.
func (q *Queue) Started(g *Grant, instance string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	g.Attempt.Instance = instance
	if g.started.IsZero() {
		g.started = now()
	}
	q.changed(g.Task)
}

// view is the entry's task as it is now.
func (e *entry) view() mayfly.Task {
	task := e.task
	g := e.grant
	switch {
	case g == nil:
		task.State = mayfly.TaskQueued
		return task
	case g.started.IsZero():
		task.State = mayfly.TaskStarting
	default:
		task.State = mayfly.TaskRunning
	}
	if g.progress != nil {
		task.Progress = g.progress
	}
	attempt := g.Attempt
	attempt.Started = g.started
	if attempt.Number > 0 {
		addAttempt(&task, attempt)
	}
	return task
}

// Adopt grants a task whose attempt survived the process that was granted it,
// out of turn and whatever its limits are. It is called before Run. A task whose
// release is gone runs on, without Release. An attempt
// that is not the task's present one, or a task that has ended, is a Conflict:
// what survived is to be stopped.
func (q *Queue) Adopt(ctx context.Context, space, id string, attempt mayfly.Attempt) (*Grant, error) {
	if err := checkID(space, id); err != nil {
		return nil, err
	}
	defer q.lockID(space, id)()
	got, err := q.find(ctx, space, id, "*")
	if err != nil {
		return nil, err
	}
	if got.place != inPending || got.task.Attempt != attempt.Number {
		return nil, mayfly.Errorf(mayfly.Conflict, "attempt %d of task %s cannot go on: it is at attempt %d and %s",
			attempt.Number, id, got.task.Attempt, got.task.State)
	}
	rel, err := q.pinned(ctx, got.task)
	if err != nil && mayfly.KindOf(err) != mayfly.NotFound {
		return nil, err
	}
	payload := got.data // needed for the next attempt
	if payload == nil {
		again, err := q.findPending(ctx, space, id, "*")
		if err != nil {
			return nil, err
		}
		payload = again.data
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running || q.closed {
		return nil, mayfly.Errorf(mayfly.Conflict, "tasks are granted already; adopt before that")
	}
	e := q.entries[entryKey(space, id)]
	if e == nil {
		e = &entry{task: got.task, seq: got.seq, lane: q.lane(got.task), index: -1}
		q.entries[entryKey(space, id)] = e
	}
	if e.grant != nil {
		return nil, mayfly.Errorf(mayfly.Conflict, "task %s was adopted already", id)
	}
	q.withdraw(e)
	q.hold(e)
	e.grant.charged = 0
	q.count(e)
	q.update(e.lane.flow)
	g := e.grant
	g.since = time.Now().Add(-max(0, time.Since(attempt.Granted)))
	g.Attempt, g.started = attempt, attempt.Started
	g.Task = e.view()
	g.Release, g.Payload = rel, payload
	return g, nil
}

func formatSeq(seq uint64) string { return strconv.FormatUint(seq, 10) }
