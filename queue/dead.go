package queue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// bury writes a task to the dead letters.
func (q *Queue) bury(ctx context.Context, g *Grant, task mayfly.Task) error {
	msg, err := encode(deadSubject(task), task, g.Payload)
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
	if err = writeError(err); !errors.Is(err, errExists) {
		return err
	}
	got, lookErr := q.look(ctx, inDead, bus.ParkedStream, msg.Subject, task.ID)
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
	msg, err := encode(pendingSubject(task), task, dead.data)
	if err != nil {
		return task, err
	}
	flight := q.begin()
	ack, err := q.publishOver(ctx, msg, task)
	if err == nil {
		err = q.remove(ctx, q.parked, dead.seq)
	} else if errors.Is(err, errFull) {
		err = full()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flights.end(flight)
	if ack == nil {
		return task, err
	}
	q.offer(task, ack.Sequence, dead.data)
	q.changed(task)
	return task, err
}

// publishOver writes a task to pending, where what is left of its last attempt
// may still be, or be removed at this moment.
func (q *Queue) publishOver(ctx context.Context, msg *nats.Msg, task mayfly.Task) (*jetstream.PubAck, error) {
	for {
		var last uint64
		old, err := q.look(ctx, inPending, bus.TasksStream, msg.Subject, task.ID)
		if err == nil {
			last = old.seq
		} else if mayfly.KindOf(err) != mayfly.NotFound {
			return nil, err
		}
		expect(msg, last)
		ack, err := q.js.PublishMsg(ctx, msg)
		if err == nil {
			return ack, nil
		}
		if err = writeError(err); !errors.Is(err, errExists) {
			return nil, err
		}
		if old.task.Attempt >= task.Attempt {
			return nil, err // an earlier answer of the stream was lost
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
	q.tell(task)
	q.waiting.add(-1, 0)
	return task, q.remove(ctx, q.parked, dead.seq)
}

func (q *Queue) findDead(ctx context.Context, space, id string) (found, error) {
	got, err := q.find(ctx, space, id, "*")
	if err == nil && got.place != inDead {
		err = mayfly.Errorf(mayfly.Conflict, "task %s is not buried but %s", id, got.task.State)
	}
	return got, err
}
