package queue

import (
	"time"

	"github.com/mayfly-run/mayfly"
)

// MaxResult is how much of a standard output, or of an answer, is read as a
// task's result, in bytes; Options.Output may keep less. A byte more tells Done
// that there was more.
const MaxResult = 1 << 20

// NotBegun is the end of an attempt that did not come to be. What cannot change,
// such as that the payload is gone, is the task's own failure; anything else is
// none, and the attempt is repeated.
func NotBegun(err error) mayfly.Result {
	exit := mayfly.Exit{Reason: mayfly.Rejected, Detail: err.Error(), Time: time.Now()}
	switch mayfly.KindOf(err) {
	case mayfly.Failed, mayfly.Invalid, mayfly.NotFound:
		exit.Reason, exit.Code = mayfly.ExitedNonZero, 125 // trying at once again does not help
	}
	return mayfly.Result{Exit: exit}
}
