package queue

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Delays where a task names none.
const (
	firstBackoff = time.Second
	maxBackoff   = time.Hour
	lostBackoff  = time.Second // of an attempt that the platform itself lost or had no room for
	lostLongest  = 64 * lostBackoff
)

// after decides what follows an attempt: the returned task is queued again
// for a later time, buried, or has ended.
func (q *Queue) after(g *Grant, res mayfly.Result) mayfly.Task {
	task := q.attempted(g, res)
	ended := task.Attempts[len(task.Attempts)-1].Ended
	delay, again := next(&task, res.Exit, rand.Float64())
	if again {
		task.NotBefore, task.Progress = ended.Add(delay), nil
	} else {
		task.Ended = ended
	}
	return task
}

// attempted is the task of a grant with the attempt that has ended now.
func (q *Queue) attempted(g *Grant, res mayfly.Result) mayfly.Task {
	task := g.entry.task
	q.mu.Lock()
	attempt := g.Attempt
	attempt.Started = g.started
	task.Progress = g.progress
	q.mu.Unlock()
	exit := res.Exit
	attempt.Ended, attempt.Exit, attempt.Instance = now(), &exit, cmp.Or(res.Instance, attempt.Instance)
	addAttempt(&task, attempt)
	return task
}

// next sets the task's state after an exit, and what the next attempt needs if
// there is to be one. Chance is between 0 and 1.
func next(task *mayfly.Task, exit mayfly.Exit, chance float64) (delay time.Duration, again bool) {
	r := task.Retries
	repeat := func(d time.Duration) (time.Duration, bool) {
		task.State = mayfly.TaskQueued
		task.Attempt++
		return d, true
	}
	task.State = endState(exit.Reason)
	switch {
	case task.State == mayfly.TaskSucceeded || task.State == mayfly.TaskCancelled:
		return 0, false
	case exit.Reason == mayfly.Lost || exit.Reason == mayfly.Rejected:
		lost := task.Attempt - 1 - task.Retried // no fault of the task's, so it is repeated for ever
		return repeat(min(lostLongest, lostBackoff<<min(lost, 10)))
	case exit.Reason == mayfly.ExitedNonZero && slices.Contains(r.Final, exit.Code):
		return 0, false
	case exit.Reason == mayfly.OutOfMemory && r.MemoryUpTo > 0 && task.Memory >= r.MemoryUpTo:
		return 0, false // the same memory would not do
	case r.Max == 0:
		return 0, false
	case task.Retried >= r.Max:
		task.State = mayfly.TaskBuried
		return 0, false
	}
	if exit.Reason == mayfly.OutOfMemory && r.MemoryUpTo > 0 {
		task.Memory = min(2*task.Memory, r.MemoryUpTo)
	}
	d := backoff(r, task.Retried, chance)
	task.Retried++
	return repeat(d)
}

func endState(reason mayfly.Reason) mayfly.TaskState {
	switch reason {
	case mayfly.Succeeded:
		return mayfly.TaskSucceeded
	case mayfly.Cancelled:
		return mayfly.TaskCancelled
	case mayfly.DeadlinePassed:
		return mayfly.TaskTimedOut
	case mayfly.OutOfMemory:
		return mayfly.TaskOutOfMemory
	default:
		return mayfly.TaskFailed
	}
}

// backoff is the delay before a retry, of which retried have been.
func backoff(r mayfly.Retries, retried int, chance float64) time.Duration {
	longest := cmp.Or(r.Longest, maxBackoff)
	d := cmp.Or(r.Backoff, firstBackoff)
	if len(r.Delays) > 0 {
		d = r.Delays[min(retried, len(r.Delays)-1)]
	} else {
		for range retried {
			if d = 2 * d; d > longest || d < 0 {
				break
			}
		}
		if d > longest || d < 0 {
			d = longest
		}
	}
	return d - time.Duration(r.Jitter*chance*float64(d))
}

// again queues a task for its next attempt: one write, in its place.
func (q *Queue) again(ctx context.Context, g *Grant, next *mayfly.Task) error {
	e := g.entry
	rec, err := journalRecord(*next, g.Payload)
	if err != nil {
		return err
	}
	seq, err := q.tasks.Put(ctx, rec, e.seq)
	if errors.Is(err, bus.ErrExists) {
		// It may have been written after an earlier call gave up.
		got, lookErr := q.findPending(ctx, next.Space, next.ID, "*")
		if lookErr == nil && got.task.Attempt == next.Attempt {
			seq, err = got.seq, nil
			*next = got.task
		}
	}
	if err != nil {
		return writeError(err)
	}
	q.mu.Lock()
	g.ended = true
	q.drop(e)
	q.release(e, g.charged, q.ran(g))
	q.mu.Unlock()
	moved := false
	if later(*next) {
		err := q.postpone(ctx, *next, seq, g.Payload)
		if moved = err == nil; !moved {
			q.log.Warn("a task waits for its retry in memory", "task", next.ID, "error", err)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if moved {
		q.timeRetry(*next)
	} else {
		q.offer(*next, seq, g.Payload)
	}
	return nil
}
