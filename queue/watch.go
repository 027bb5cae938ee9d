package queue

import (
	"context"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mayfly-run/mayfly"
)

// maxMessage is how many bytes of a progress message are kept.
const maxMessage = 512

// Wait blocks until a task has ended or was buried, and returns it.
func (q *Queue) Wait(ctx context.Context, space, id string) (mayfly.Task, error) {
	return q.await(ctx, space, id, q.waiters, func(t mayfly.Task) bool { return t.State.Ended() })
}

// Watch blocks until the state, the attempt or the progress of a task differs
// from what was seen, and returns the task as it is then. What happened between
// two calls may be passed over, but never the last of it. A task that has ended
// for good is returned at once.
func (q *Queue) Watch(ctx context.Context, space, id string, seen mayfly.Task) (mayfly.Task, error) {
	return q.await(ctx, space, id, q.watchers, func(t mayfly.Task) bool {
		return t.State != seen.State || t.Attempt != seen.Attempt || !sameProgress(t.Progress, seen.Progress) ||
			t.State.Ended() && t.State != mayfly.TaskBuried
	})
}

func sameProgress(a, b *mayfly.Progress) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Percent == b.Percent && a.Message == b.Message && a.Time.Equal(b.Time)
}

// bells are rung for those who wait for something to happen to a task: by space
// and id. They are guarded by the queue's mutex.
type bells map[string][]chan struct{}

func (b bells) ring(key string) {
	for _, ch := range b[key] {
		close(ch)
	}
	delete(b, key)
}

func (b bells) leave(key string, ch chan struct{}) {
	list := b[key]
	for i := range list {
		if list[i] == ch {
			list[i] = list[len(list)-1]
			b[key] = list[:len(list)-1]
			break
		}
	}
	if len(b[key]) == 0 {
		delete(b, key)
	}
}

// await looks at a task each time that a bell rings, until it is as wanted.
func (q *Queue) await(ctx context.Context, space, id string, at bells, wanted func(mayfly.Task) bool) (mayfly.Task, error) {
	if err := checkID(space, id); err != nil {
		return mayfly.Task{}, err
	}
	for {
		key, ch := entryKey(space, id), make(chan struct{})
		q.mu.Lock()
		at[key] = append(at[key], ch)
		q.mu.Unlock()
		task, err := q.Get(ctx, space, id)
		if err == nil && !wanted(task) {
			select {
			case <-ch:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			case <-q.quit:
				err = errClosed
			}
		}
		q.mu.Lock()
		at.leave(key, ch)
		q.mu.Unlock()
		return task, err
	}
}

// tell wakes those who wait for a task to change as it has, other tasks too.
func (q *Queue) tell(task mayfly.Task) { q.tellEnd(task, false) }

// tellEnd is tell, of a task that was buried before and is purged too.
func (q *Queue) tellEnd(task mayfly.Task, purged bool) {
	q.mu.Lock()
	q.changed(task)
	if task.State.Ended() && len(q.waiters) > 0 {
		q.waiters.ring(entryKey(task.Space, task.ID))
	}
	if key := (parentKey{task.Space, task.ID}); over(task) && q.isParent(key) {
		q.lookAt(key)
	}
	if task.Callback != "" && task.State.Ended() {
		q.calls.due(call{key: callKey{task.Space, task.ID}, url: task.Callback, at: time.Now()})
	}
	onEnd, ends := q.onEnd, q.ends
	q.mu.Unlock()
	if onEnd != nil && task.State.Ended() {
		onEnd(task)
	}
	if task.State.Ended() {
		for _, end := range ends {
			end(task, purged)
		}
	}
}

// OnEnd has every end of a task told, and that it was buried, once it is on disk;
// purged says that it was buried, which was told before. Whoever is told does not
// wait for anything. It is called before Run.
func (q *Queue) OnEnd(told func(task mayfly.Task, purged bool)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ends = append(q.ends, told)
}

// changed wakes those who watch a task.
func (q *Queue) changed(task mayfly.Task) {
	if len(q.watchers) > 0 {
		q.watchers.ring(entryKey(task.Space, task.ID))
	}
}

// Progress notes how far the program of a running attempt says that it is. It
// is kept in memory, and the last one in the task's outcome; a long message is
// cut. An attempt that is not the one that runs is a Conflict.
func (q *Queue) Progress(ctx context.Context, space, id string, attempt int, p mayfly.Progress) error {
	if err := checkID(space, id); err != nil {
		return err
	}
	if math.IsNaN(p.Percent) || p.Percent < 0 || p.Percent > 100 {
		return mayfly.Errorf(mayfly.Invalid, "progress of %v percent is not between 0 and 100", p.Percent)
	}
	p.Message = cut(p.Message, maxMessage)
	if p.Time.IsZero() {
		p.Time = now()
	}
	if q.progress(entryKey(space, id), attempt, p) {
		return nil
	}
	task, err := q.Get(ctx, space, id)
	if err != nil {
		return err
	}
	return mayfly.Errorf(mayfly.Conflict, "attempt %d of task %s does not run: the task is at attempt %d and %s", attempt, id, task.Attempt, task.State)
}

func (q *Queue) progress(key string, attempt int, p mayfly.Progress) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[key]
	if e == nil || e.grant == nil || e.grant.ended || e.grant.Attempt.Number != attempt {
		return false
	}
	e.grant.progress = &p
	q.changed(e.task)
	return true
}

// cut shortens a text to so many bytes, of whole characters.
func cut(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if r, size := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && size == 1 {
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
