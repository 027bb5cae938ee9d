package queue

import (
	"context"
	"errors"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// bury writes a task to the dead letters.
func (q *Queue) bury(ctx context.Context, g *Grant, task mayfly.Task) error {
	msg, err := parkedMessage(deadSubject(task), task, g.Payload)
	if err != nil {
		return err
	}
	if err := q.intendCallback(ctx, task); err != nil {
		return err
	}
	expect(msg, 0)
	if _, err = q.js.PublishMsg(ctx, msg); err == nil {
		return nil
	}
	if err = writeError(err); !errors.Is(err, bus.ErrExists) {
		return err
	}
	got, lookErr := q.look(ctx, inDead, msg.Subject, task.ID)
	if lookErr != nil {
		return lookErr
	}
	if got.task.Attempt >= task.Attempt {
		return nil // an earlier answer of the stream was lost
	}
	expect(msg, got.seq)
	if _, err = q.js.PublishMsg(ctx, msg); err != nil {
		return writeError(err)
	}
	return nil
}

// Retry brings a buried task back, with all its retries, under its id.
func (q *Queue) Retry(ctx context.Context, space, id string) (mayfly.Task, error) {
	if err := checkID(space, id); err != nil {
		return mayfly.Task{}, err
	}
	defer q.lockID(space, id)()
	dead, err := q.findDead(ctx, space, id)
	if err != nil {
		return mayfly.Task{}, err
	}
	task := dead.task
	task.State, task.Attempt, task.Retried = mayfly.TaskQueued, task.Attempt+1, 0
	task.NotBefore, task.Ended, task.Progress = now(), time.Time{}, nil
	return q.revive(ctx, task, dead)
}

// revive writes a buried task to pending, and then removes the dead letter.
func (q *Queue) revive(ctx context.Context, task mayfly.Task, dead found) (mayfly.Task, error) {
	rec, err := journalRecord(task, dead.data)
	if err != nil {
		return task, err
	}
	seq, err := q.putOver(ctx, rec, task)
	if err != nil {
		return task, err
	}
	err = q.unpark(ctx, dead.seq)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.offer(task, seq, dead.data)
	q.changed(task)
	return task, err
}

// putOver writes a task to pending, where a crash can have left its last attempt,
// which a reader may free at this moment.
func (q *Queue) putOver(ctx context.Context, rec bus.Record, task mayfly.Task) (uint64, error) {
	for {
		old, err := q.findPending(ctx, task.Space, task.ID, "*")
		switch {
		case err != nil && mayfly.KindOf(err) != mayfly.NotFound:
			return 0, err
		case old.task.Attempt >= task.Attempt:
			return old.seq, nil // an earlier call gave up
		}
		seq, err := q.tasks.Put(ctx, rec, old.seq)
		switch {
		case errors.Is(err, bus.ErrExists):
		case err != nil:
			return 0, fullError(err)
		default:
			return seq, nil
		}
	}
}

// Purge ends a buried task: its last attempt's failure is its outcome.
func (q *Queue) Purge(ctx context.Context, space, id string) (mayfly.Task, error) {
	if err := checkID(space, id); err != nil {
		return mayfly.Task{}, err
	}
	defer q.lockID(space, id)()
	dead, err := q.findDead(ctx, space, id)
	if err != nil {
		return mayfly.Task{}, err
	}
	task := dead.task
	task.State, task.Ended = mayfly.TaskFailed, now()
	if n := len(task.Attempts); n > 0 && task.Attempts[n-1].Exit != nil {
		task.State = endState(task.Attempts[n-1].Exit.Reason)
	}
	if err := q.conclude(ctx, task, nil); err != nil {
		return task, err
	}
	q.tellEnd(task, true)
	q.waiting.add(-1, 0)
	return task, q.unpark(ctx, dead.seq)
}

func (q *Queue) findDead(ctx context.Context, space, id string) (found, error) {
	got, err := q.find(ctx, space, id, "*")
	if err == nil && got.place != inDead {
		err = mayfly.Errorf(mayfly.Conflict, "task %s is not buried but %s", id, got.task.State)
	}
	return got, err
}
