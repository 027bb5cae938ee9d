package container

import "time"

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

// wake puts something into a channel that holds one, unless there is something.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
