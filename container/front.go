package container

import (
	"context"
	"sync"
	"time"
)

// front is what a Pool and a SharedPool have in common: those who wait at them, those
// who make what they wait for, and how they end.
type front[S Pooled] struct {
	maker Maker[S]
	slots chan struct{} // one for each that is being made, shared by the pools of a node
	wake  chan struct{} // Run is to look at the pool

	mu      sync.Mutex
	waiters waitingLine[S]
	making  int
	failed  int       // tries in a row
	retry   time.Time // when it failed: nothing is made before that nobody waits for
	drained bool      // Drain was called
	closed  bool
	outlook outlook
	size    int64 // bytes that the last one took
}

func newFront[S Pooled](m Maker[S], slots chan struct{}, size int64) front[S] {
	return front[S]{maker: m, slots: slots, wake: make(chan struct{}, 1), size: size}
}

// await waits for what somebody in the line is given. When ctx ends first, he leaves
// it, and what he was given in the same moment goes to back.
func (f *front[S]) await(ctx context.Context, given <-chan result[S], back func(S)) (S, error) {
	wake(f.wake)
	select {
	case r := <-given:
		return r.s, r.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	f.waiters.leave(given)
	f.mu.Unlock()
	select {
	case r := <-given:
		if r.err == nil {
			back(r.s)
		}
	default:
	}
	var none S
	return none, context.Cause(ctx)
}

// Drain lets the pool end: nothing is kept that nobody has asked for, those who have
// asked are still served, and then Run returns.
func (f *front[S]) Drain() {
	f.mu.Lock()
	f.drained = true
	f.mu.Unlock()
	wake(f.wake)
}

// Expect has the pool look how many tasks wait, until none does.
func (f *front[S]) Expect(b Backlog) {
	f.mu.Lock()
	f.outlook.expect(b)
	f.mu.Unlock()
	wake(f.wake)
}

// run has balance look at the pool each time that something has changed or the timer
// says so, until it reports that the pool is over.
func (f *front[S]) run(ctx context.Context, balance func(*time.Timer) bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for balance(timer) {
		select {
		case <-f.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// over reports whether there is nothing more to do. f.mu is held.
func (f *front[S]) over(ctx context.Context) bool {
	return ctx.Err() != nil || f.drained && len(f.waiters)+f.making == 0
}

// makeOne makes one when there is a slot for it. take gets it, and how long that took;
// the mutex is held. An error is for who waits longest.
func (f *front[S]) makeOne(ctx context.Context, take func(S, time.Duration)) {
	var s S
	var took time.Duration
	var err error
	select {
	case f.slots <- struct{}{}:
		start := time.Now()
		s, err = f.maker.Make(ctx)
		took = time.Since(start)
		<-f.slots
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	f.mu.Lock()
	defer wake(f.wake)
	defer f.mu.Unlock()
	f.making--
	if err != nil {
		f.retry = time.Now().Add(retryAfter(f.failed))
		f.failed++
		f.waiters.give(result[S]{err: err})
		return
	}
	f.failed, f.retry = 0, time.Time{}
	take(s, took)
}

// retryLongest bounds the wait between tries to make what is to be there always.
const retryLongest = time.Minute

// retryAfter is how long nothing is made that nobody waits for after so many
// tries before that failed too.
func retryAfter(failed int) time.Duration { return min(time.Second<<min(failed, 10), retryLongest) }
