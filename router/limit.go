package router

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// limit lets so many runs of a workload through at once, the others in the
// order in which they came.
type limit struct {
	mu      sync.Mutex
	max     int // 0: no limit
	running int
	queue   []held
}

// held is a run that waits.
type held struct {
	turn  chan struct{}
	since time.Time
}

// acquire waits for a place. release gives it back.
func (l *limit) acquire(ctx context.Context, max, maxQueue int) error {
	l.mu.Lock()
	l.max = max
	l.admit()
	if len(l.queue) == 0 && (max == 0 || l.running < max) {
		l.running++
		l.mu.Unlock()
		return nil
	}
	if len(l.queue) >= maxQueue {
		l.mu.Unlock()
		return mayfly.Errorf(mayfly.Busy, "%d runs are under way and %d wait", max, maxQueue)
	}
	turn := make(chan struct{})
	l.queue = append(l.queue, held{turn, time.Now()})
	l.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		l.leave(turn)
		return context.Cause(ctx)
	}
}

// leave takes a waiter off the queue, or gives back the place that it got in
// the same moment.
func (l *limit) leave(turn chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, h := range l.queue {
		if h.turn == turn {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			return
		}
	}
	l.running--
	l.admit()
}

// Held is how many runs of a function wait for its concurrency, and how long the
// first of them has.
func (r *Router) Held(space, workload string) (n int, oldest time.Duration) {
	r.mu.Lock()
	l := r.limits[store.Key{Space: space, Name: workload}]
	r.mu.Unlock()
	if l == nil {
		return 0, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 {
		oldest = time.Since(l.queue[0].since)
	}
	return len(l.queue), oldest
}

func (l *limit) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.admit()
}

// admit lets those at the head of the queue through. l.mu is held.
func (l *limit) admit() {
	for len(l.queue) > 0 && (l.max == 0 || l.running < l.max) {
		l.running++
		close(l.queue[0].turn)
		l.queue = l.queue[1:]
	}
}
