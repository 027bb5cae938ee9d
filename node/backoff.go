package node

import (
	"time"

	"github.com/mayfly-run/mayfly"
)

// When a replica that failed is started again.
const (
	atOnce      = 3                // restarts in a row that do not wait
	firstWait   = 30 * time.Second // doubling
	longestWait = 16 * time.Minute
	goodHealth  = 5 * time.Minute // ready for so long, what was before is forgotten
)

// backoff is how long to wait before a restart, failures being how often in a
// row it has failed.
func backoff(failures int) time.Duration {
	if failures <= atOnce {
		return 0
	}
	return min(firstWait<<min(failures-atOnce-1, 10), longestWait)
}

// next is what follows the end of an instance or a process.
type next int

const (
	again next = iota
	completed
	givenUp
)

// after says what follows an end by a policy. failures counts this end, if it
// is one.
func after(r mayfly.Restart, e mayfly.Exit, failures int) next {
	failed := e.Reason != mayfly.Succeeded
	switch {
	case r.Policy == mayfly.RestartNever && failed:
		return givenUp
	case !failed && (r.Policy == mayfly.RestartNever || r.Policy == mayfly.RestartOnFailure):
		return completed
	case r.Max > 0 && failures > r.Max:
		return givenUp
	default:
		return again
	}
}
