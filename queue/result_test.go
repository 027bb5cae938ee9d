package queue

import (
	"errors"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// An attempt that did not come to be is the task's failure only where another
// would fare no better.
func TestNotBegun(t *testing.T) {
	for _, test := range []struct {
		err    error
		reason mayfly.Reason
		code   int
	}{
		{mayfly.Errorf(mayfly.NotFound, "the payload is gone"), mayfly.ExitedNonZero, 125},
		{mayfly.Errorf(mayfly.Invalid, "no such user"), mayfly.ExitedNonZero, 125},
		{mayfly.Errorf(mayfly.Failed, "the loader failed"), mayfly.ExitedNonZero, 125},
		{mayfly.Errorf(mayfly.Busy, "no room"), mayfly.Rejected, 0},
		{mayfly.Errorf(mayfly.Unavailable, "the disk is away"), mayfly.Rejected, 0},
		{errors.New("a defect"), mayfly.Rejected, 0},
	} {
		got := NotBegun(test.err).Exit
		if got.Reason != test.reason || got.Code != test.code || got.Detail != test.err.Error() || got.Time.IsZero() {
			t.Errorf("%v: %+v", test.err, got)
		}
	}
}
