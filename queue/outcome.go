package queue

import (
	"context"
	"errors"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Done records how a granted attempt ended, and what follows: the outcome,
// another attempt, or the dead letters. It returns the task as it is then. When
// Done fails with an Unavailable or Busy error, the grant is still held, and
// Done is to be called again. An attempt that was cancelled leaves the outcome
// as it is.
func (q *Queue) Done(ctx context.Context, g *Grant, res mayfly.Result) (mayfly.Task, error) {
	return q.endAttempt(ctx, g, res, q.after)
}

// reject ends a task that can never run.
func (q *Queue) reject(ctx context.Context, g *Grant, why string) error {
	exit := mayfly.Exit{Reason: mayfly.Rejected, Detail: why, Time: now()}
	task, err := q.endAttempt(ctx, g, mayfly.Result{Exit: exit}, func(g *Grant, res mayfly.Result) mayfly.Task {
		task := q.attempted(g, res)
		task.State, task.Ended = mayfly.TaskFailed, exit.Time
		return task
	})
	if mayfly.KindOf(err) == mayfly.Conflict {
		return nil // it is elsewhere
	}
	if err != nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.putBack(g.entry)
		return err
	}
	q.log.Warn("a task cannot run", "task", task.ID, "reason", why)
	return nil
}

// endAttempt records how an attempt ended, and what follows decides.
func (q *Queue) endAttempt(ctx context.Context, g *Grant, res mayfly.Result, follow func(*Grant, mayfly.Result) mayfly.Task) (mayfly.Task, error) {
	if err := q.beginDone(g); err != nil {
		return mayfly.Task{}, err
	}
	e := g.entry
	defer q.lockID(e.task.Space, e.task.ID)()
	q.mu.Lock()
	cancelled := g.ended
	q.mu.Unlock()
	if cancelled {
		q.finish(g)
		got, err := q.find(ctx, e.task.Space, e.task.ID, queueOf(e.task))
		return got.task, err
	}
	next := follow(g, res)
	var err error
	switch next.State {
	case mayfly.TaskQueued:
		err = q.again(ctx, g, &next)
	case mayfly.TaskBuried:
		if err = q.bury(ctx, g, next); err == nil {
			q.finish(g)
			q.waiting.add(1, 0)
		}
	default:
		if err = q.conclude(ctx, next, res.Output); err == nil {
			q.finish(g)
		}
	}
	if errors.Is(err, bus.ErrExists) {
		q.finish(g)
		return mayfly.Task{}, mayfly.Errorf(mayfly.Conflict, "attempt %d of task %s came too late: the task has moved on", g.Attempt.Number, e.task.ID)
	}
	if err != nil {
		q.mu.Lock()
		g.ending = false
		q.mu.Unlock()
		if errors.Is(err, bus.ErrFull) {
			err = full()
		}
		return mayfly.Task{}, err
	}
	q.tell(next)
	return next, nil
}

func (q *Queue) beginDone(g *Grant) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if g.ending || q.closed {
		if q.closed {
			return errClosed
		}
		return mayfly.Errorf(mayfly.Conflict, "attempt %d of task %s was ended already", g.Attempt.Number, g.entry.task.ID)
	}
	g.ending = true
	return nil
}

// conclude creates the outcome of a task. One that is there already is kept,
// with bus.ErrExists, unless it is of the same attempt: then an earlier answer of
// the stream was lost.
func (q *Queue) conclude(ctx context.Context, task mayfly.Task, output []byte) error {
	if len(output) > q.opts.Output {
		output, task.Cut = output[:q.opts.Output], true
	}
	rec, err := journalRecord(task, output)
	if err != nil {
		return err
	}
	if err := q.intendCallback(ctx, task); err != nil {
		return err
	}
	if _, err = q.outcomes.Put(ctx, rec, 0); err == nil {
		q.dropPayload(task)
		return nil
	}
	if err = writeError(err); !errors.Is(err, bus.ErrExists) {
		return err
	}
	got, lookErr := q.findOutcome(ctx, task.Space, task.ID)
	if lookErr == nil && sameAttempt(got.task, task) {
		q.dropPayload(task)
		return nil
	}
	return err
}

// sameAttempt reports whether two records were written for the same attempt.
func sameAttempt(a, b mayfly.Task) bool {
	if a.Attempt != b.Attempt || a.State != b.State || len(a.Attempts) != len(b.Attempts) || len(a.Attempts) == 0 {
		return false
	}
	x, y := a.Attempts[len(a.Attempts)-1], b.Attempts[len(b.Attempts)-1]
	return x.Number == y.Number && x.Node == y.Node && x.Granted.Equal(y.Granted)
}

// finish ends a grant whose task is elsewhere by now.
func (q *Queue) finish(g *Grant) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := g.entry
	if !g.ended {
		g.ended = true
		q.forget(e)
	}
	q.release(e, g.charged, q.ran(g))
}

func (q *Queue) ran(g *Grant) time.Duration { return time.Since(g.since) }

// forget ends an entry: its record is to be removed.
func (q *Queue) forget(e *entry) {
	q.drop(e)
	q.tasks.Free(entryKey(e.task.Space, e.task.ID), e.seq)
	q.waiting.add(-1, 0)
	q.wantRead(e.lane)
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
