package queue

import (
	"context"
	"time"

	"github.com/mayfly-run/mayfly"
)

// leastAge is the least time for which outcomes may be kept. A key is known for
// as long as the outcome of its task is.
const leastAge = time.Second

// keep has outcomes kept as the options say.
func (q *Queue) keep(ctx context.Context) error {
	age, count := q.opts.KeepAge, q.opts.KeepCount
	if age < leastAge || count < 1 {
		return mayfly.Errorf(mayfly.Invalid, "outcomes cannot be kept for %s, nor %d of them", age, count).
			WithHint("keep them for %s at least, and 1 at least", leastAge)
	}
	if err := q.bus.KeepOutcomes(ctx, age); err != nil {
		return unavailable("set how long outcomes are kept", err)
	}
	return nil
}
