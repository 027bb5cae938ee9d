package queue

import (
	"container/heap"
	"context"

	"github.com/mayfly-run/mayfly"
)

// Cancel ends a task: one that waits at once, one that runs by telling its
// runner, which stops it. Either way the outcome is on disk when Cancel returns.
// A task that has ended, or was buried, is a Conflict.
func (q *Queue) Cancel(ctx context.Context, space, id string) (mayfly.Task, error) {
	if err := checkID(space, id); err != nil {
		return mayfly.Task{}, err
	}
	defer q.lockID(space, id)()
	got, err := q.find(ctx, space, id, "*")
	if err != nil {
		return mayfly.Task{}, err
	}
	task := got.task
	if task.State.Ended() {
		return task, mayfly.Errorf(mayfly.Conflict, "task %s is %s already", id, task.State)
	}
	e := q.claim(&got)
	if e != nil {
		task = got.task
	}
	task.State, task.Ended = mayfly.TaskCancelled, now()
	if n := len(task.Attempts); n > 0 && task.Attempts[n-1].Exit == nil {
		a := &task.Attempts[n-1]
		a.Ended, a.Exit = task.Ended, &mayfly.Exit{Reason: mayfly.Cancelled, Time: task.Ended}
	}
	if err := q.conclude(ctx, task, nil); err != nil {
		q.unclaim(e, got)
		return mayfly.Task{}, err
	}
	q.cancelled(e, got)
	q.tell(task)
	if got.place == inLater || got.place == inHeld {
		err = q.unpark(ctx, got.seq)
	}
	return task, err
}

// claim keeps a task that waits from being granted. It returns the task's entry
// when it is in memory.
func (q *Queue) claim(got *found) *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[entryKey(got.task.Space, got.task.ID)]
	switch {
	case e != nil:
		q.withdraw(e)
		got.task, got.seq, got.place = e.view(), e.seq, inPending
	case got.place == inPending:
		q.claimed[entryKey(got.task.Space, got.task.ID)] = true
	}
	return e
}

// withdraw takes an entry out of what can be granted, or comes to be.
func (q *Queue) withdraw(e *entry) {
	e.timed = false
	switch {
	case e.index < 0:
	case e.blocked != nil:
		heap.Remove(&e.blocked.window, e.index)
		e.blocked = nil
	default:
		heap.Remove(&e.lane.window, e.index)
		if e.task.LimitKey != "" {
			q.nextOfKey(e.lane.flow, e.task.LimitKey)
		}
		q.update(e.lane.flow)
		q.wantRead(e.lane)
	}
}

func (q *Queue) unclaim(e *entry, got found) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case e != nil && e.grant == nil:
		q.enqueue(e)
	case e == nil && got.place == inPending:
		delete(q.claimed, entryKey(got.task.Space, got.task.ID))
		q.leave(q.lane(got.task), got.seq)
	}
}

// cancelled ends the entry of a task whose outcome is written.
func (q *Queue) cancelled(e *entry, got found) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case e == nil && got.place == inPending:
		key := entryKey(got.task.Space, got.task.ID)
		delete(q.claimed, key)
		q.tasks.Free(key, got.seq)
		q.waiting.add(-1, 0)
	case e == nil:
		q.waiting.add(-1, 0)
	case e.grant != nil:
		e.grant.ended = true
		close(e.grant.cancelled)
		q.forget(e)
	default:
		q.forget(e)
	}
}
