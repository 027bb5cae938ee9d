package queue

import (
	"context"
	"time"

	"github.com/mayfly-run/mayfly/bus"
)

// scanFirst is how many places Open looks at; the rest follow while tasks are
// accepted.
const scanFirst = 10_000

// arrival is a task that was written while what is older was still looked at.
type arrival struct {
	lane *lane
	seq  uint64
}

// scan learns, in one pass, which lanes have tasks from before Open and where
// they are. What arrives meanwhile comes after them, so that the order is kept.
func (q *Queue) scan(ctx context.Context) {
	for {
		err := q.scanSome(ctx, -1)
		if err == nil || !q.tryAgain(ctx, "the queue", err) {
			return
		}
	}
}

// loadOutcomes learns of which tasks there is an outcome.
func (q *Queue) loadOutcomes(ctx context.Context) {
	for {
		err := q.outcomes.Load(ctx, func([]bus.Place) bool { return true })
		if err == nil || !q.tryAgain(ctx, "the queue", err) {
			return
		}
	}
}

// tryAgain waits before a stream that could not be read is read again.
func (q *Queue) tryAgain(ctx context.Context, what string, err error) bool {
	if ctx.Err() == nil {
		q.log.Error(what+" cannot be read; it is tried again", "error", err)
	}
	select {
	case <-time.After(retryRead):
		return true
	case <-ctx.Done():
		return false
	}
}

// scanSome goes on with the pass, for so many places or to its end.
func (q *Queue) scanSome(ctx context.Context, most int) error {
	err := q.tasks.Load(ctx, func(list []bus.Place) bool {
		q.takeScan(list)
		if most > 0 {
			most = max(0, most-len(list))
		}
		return most != 0
	})
	if err != nil {
		return unavailable("look which tasks wait", err)
	}
	select {
	case <-q.tasks.Loaded():
	default:
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.scanning {
		return nil
	}
	q.scanning = false
	close(q.scanned)
	q.waiting.add(int64(q.tasks.Len()-len(q.arrivals)), 0)
	for _, a := range q.arrivals {
		q.leave(a.lane, a.seq)
	}
	q.arrivals = nil
	q.readCond.Broadcast()
	q.match()
	q.tellBacklogs()
	return nil
}

// takeScan notes what was found.
func (q *Queue) takeScan(list []bus.Place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range list {
		key, priority, ok := parseLabel(p)
		if !ok {
			q.log.Error("a task that cannot be read is passed over", "task", p.Key, "label", p.Label)
			continue
		}
		l := q.flow(key).lane(priority)
		l.unread.insert(p.Position)
		q.update(l.flow)
		q.wantRead(l)
	}
}
