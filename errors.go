package mayfly

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of failure an error is, so that every layer above can
// answer it the same way: an exit code, an HTTP status, a decision to retry.
// The list is closed.
type Kind string

// The kinds, and the HTTP status that the api answers each with.
const (
	Invalid     Kind = "invalid"     // 400: the request is wrong and will stay wrong
	Denied      Kind = "denied"      // 403: the caller may not do this
	NotFound    Kind = "not-found"   // 404: no such thing
	Conflict    Kind = "conflict"    // 409: it exists, is in use, or was changed meanwhile
	TooLarge    Kind = "too-large"   // 413: over a size limit
	Busy        Kind = "busy"        // 429: no room now; try again later
	Failed      Kind = "failed"      // 502: the user's program failed
	Unavailable Kind = "unavailable" // 503: a part of the platform is away
	TimedOut    Kind = "timed-out"   // 504: a deadline passed
	Internal    Kind = "internal"    // 500: a defect of ours, or of the machine
)

// Status is the HTTP status that an error of this kind is answered with.
func (k Kind) Status() int {
	switch k {
	case Invalid:
		return 400
	case Denied:
		return 403
	case NotFound:
		return 404
	case Conflict:
		return 409
	case TooLarge:
		return 413
	case Busy:
		return 429
	case Failed:
		return 502
	case Unavailable:
		return 503
	case TimedOut:
		return 504
	default:
		return 500
	}
}

// Error is a failure that a person will read: one line that names what is
// wrong and, where there is one, what to do about it.
type Error struct {
	Kind Kind
	Text string // what is wrong, with its place; no trailing period
	Hint string // what to do; empty when Text says it all
	Err  error  // the cause, or nil

	After time.Duration // Busy: when trying again is expected to help; 0: nobody knows
}

func (e *Error) Error() string {
	s := e.Text
	if e.Err != nil {
		if s != "" {
			s += ": "
		}
		s += e.Err.Error()
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error of the kind. The format may wrap a cause with %w.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	if cause := errors.Unwrap(err); cause != nil {
		return &Error{Kind: kind, Err: err}
	}
	return &Error{Kind: kind, Text: err.Error()}
}

// WithHint sets what the reader can do about the error and returns it.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithRetry sets when trying again is expected to help and returns the error.
func (e *Error) WithRetry(after time.Duration) *Error {
	e.After = after
	return e
}

// RetryAfter is what the outermost Error in err's chain says of when trying
// again is expected to help, in whole seconds, as HTTP has it: from 1 to 300.
func RetryAfter(err error) int {
	var e *Error
	if !errors.As(err, &e) {
		return 1
	}
	return int(min(max((e.After+time.Second-1)/time.Second, 1), 300))
}

// KindOf returns the kind of the outermost Error in err's chain, and Internal
// for any other error. The kind of nil is empty.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
