package container

import (
	"context"
	"time"
)

// waitingLine has those who wait for a sandbox of a pool, in the order in which
// they came. The mutex of the pool is held.
type waitingLine[S Pooled] []waiter[S]

type waiter[S Pooled] struct {
	given chan result[S]
	since time.Time
}

type result[S Pooled] struct {
	s   S
	err error
}

// join adds somebody, to whom what he waits for is given over the channel.
func (l *waitingLine[S]) join(now time.Time) <-chan result[S] {
	given := make(chan result[S], 1)
	*l = append(*l, waiter[S]{given, now})
	return given
}

// leave takes somebody off who may have been given something meanwhile.
func (l *waitingLine[S]) leave(given <-chan result[S]) {
	for i, w := range *l {
		if w.given == given {
			*l = append((*l)[:i], (*l)[i+1:]...)
			return
		}
	}
}

// give lets the first one go with a result. It reports false if nobody waits.
func (l *waitingLine[S]) give(r result[S]) bool {
	if len(*l) == 0 {
		return false
	}
	(*l)[0].given <- r
	*l = (*l)[1:]
	return true
}

// refuse lets all go with an error.
func (l *waitingLine[S]) refuse(err error) {
	for l.give(result[S]{err: err}) {
	}
}

// oldest is how long the first one has waited; 0 if nobody waits.
func (l waitingLine[S]) oldest() time.Duration {
	if len(l) == 0 {
		return 0
	}
	return time.Since(l[0].since)
}

// await waits for what somebody in the line is given. When ctx ends first, abandon
// takes him off it, and what he was given in the same moment goes to back.
func await[S Pooled](ctx context.Context, given <-chan result[S], abandon func(), back func(S)) (S, error) {
	select {
	case r := <-given:
		return r.s, r.err
	case <-ctx.Done():
	}
	abandon()
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

// makeIn makes one when there is a slot for it, and says how long that took.
func makeIn[S Pooled](ctx context.Context, slots chan struct{}, m Maker[S]) (s S, took time.Duration, err error) {
	select {
	case slots <- struct{}{}:
		start := time.Now()
		s, err = m.Make(ctx)
		took = time.Since(start)
		<-slots
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return s, took, err
}

// retryLongest bounds the wait between tries to make what is to be there always.
const retryLongest = time.Minute

// retryAfter is how long nothing is made that nobody waits for after so many
// tries before that failed too.
func retryAfter(failed int) time.Duration { return min(time.Second<<min(failed, 10), retryLongest) }

// wake puts something into a channel that holds one, unless there is something.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
