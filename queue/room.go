package queue

import (
	"context"
	"time"
)

// measureAge is how old what the streams said may be when there seems to be no
// room.
const measureAge = 100 * time.Millisecond

// roomFor reports whether so many bytes more may wait. What has ended counts
// until the streams are asked, which is when there seems to be no room.
func (q *Queue) roomFor(ctx context.Context, bytes int64) bool {
	full := func() bool { return q.waiting.bytes.Load()+q.payloads.used.Load()+bytes > q.opts.MaxBytes }
	if !full() {
		return true
	}
	q.measureMu.Lock()
	defer q.measureMu.Unlock()
	if time.Since(q.measured) > measureAge {
		if err := q.tasks.Tidy(ctx); err != nil {
			q.log.Warn("tasks that have ended are not removed yet", "error", err)
		}
		if err := q.measure(ctx); err != nil {
			q.log.Warn("what the queue takes is not known", "error", err)
		}
		q.measured = time.Now()
	}
	return !full()
}

// measure asks the streams what they take.
func (q *Queue) measure(ctx context.Context) error {
	tasks, err := q.tasks.Bytes(ctx)
	if err != nil {
		return unavailable("look what the queue takes", err)
	}
	parked, err := q.parked.Info(ctx)
	if err != nil {
		return unavailable("look what the queue takes", err)
	}
	q.waiting.bytes.Store(tasks + int64(parked.State.Bytes))
	return nil
}
