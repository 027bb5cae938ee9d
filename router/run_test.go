package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

func TestExplain(t *testing.T) {
	ended := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		return ctx
	}
	late := ended(errDeadline(time.Second))
	oom := &exitError{exit: mayfly.Exit{Code: 137, Reason: mayfly.OutOfMemory, Detail: "the memory limit was reached"}}
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		noLease bool
		err     error
		reason  mayfly.Reason
		detail  string
		kind    mayfly.Kind
	}{
		{"it took too long", late, false, errors.New("read: i/o timeout"), mayfly.DeadlinePassed, "timeout of 1s", mayfly.TimedOut},
		{"it took too long and was killed for it", late, false, oom, mayfly.DeadlinePassed, "timeout of 1s", mayfly.TimedOut},
		{"no room in time", late, true, mayfly.Errorf(mayfly.Busy, "no sandbox was free"), mayfly.Rejected, "no sandbox was free", mayfly.Busy},
		{"no sandbox could be made", t.Context(), true, mayfly.Errorf(mayfly.NotFound, "no image"), mayfly.Rejected, "no image", mayfly.NotFound},
		{"the client left", ended(context.Canceled), false, errCutOff, mayfly.Cancelled, "the client left", mayfly.Internal},
		{"the client left while it waited", ended(context.Canceled), true, context.Canceled, mayfly.Cancelled, "the client left", mayfly.Internal},
		{"the daemon stops", ended(mayfly.Errorf(mayfly.Unavailable, "the daemon is stopping")), false, errCutOff, mayfly.Cancelled, "is stopping", mayfly.Unavailable},
		{"a broken body", t.Context(), false, &bodyError{errors.New("malformed chunked encoding")}, mayfly.Rejected, "the body broke off: malformed", mayfly.Invalid},
		{"too much", t.Context(), false, &bodyError{&http.MaxBytesError{Limit: 5}}, mayfly.Rejected, "the 5 bytes that function f takes", mayfly.TooLarge},
		{"out of memory", t.Context(), false, fmt.Errorf("x: %w", oom), mayfly.OutOfMemory, "the memory limit was reached", mayfly.Failed},
		{"ours", t.Context(), false, errors.New("no pipe"), mayfly.ExitedNonZero, "no pipe", mayfly.Internal},
	} {
		x := &run{router: &Router{opts: Options{Log: slog.New(slog.DiscardHandler)}}, release: &mayfly.Release{Workload: mayfly.Workload{Name: "f"}}}
		if !tt.noLease {
			x.lease = &container.Lease{}
		}
		e, told := x.explain(tt.ctx, tt.err)
		if e.Reason != tt.reason || !strings.Contains(e.Detail, tt.detail) || mayfly.KindOf(told) != tt.kind {
			t.Errorf("%s: %+v, told %v", tt.name, e, told)
		}
	}
}
