package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Errors of writes. What got another error may be stored, or be so later.
var (
	ErrExists = errors.New("changed meanwhile")  // the condition does not hold
	ErrFull   = errors.New("the stream is full") // nothing was stored
)

// streamStoreFailed is an error code of JetStream that its client has no name for.
const streamStoreFailed = 10077

// answered reports whether an error is the server's answer.
func answered(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api)
}

// storeFailed reports whether a stream answered that it could not store a message.
func storeFailed(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == streamStoreFailed
}

// WriteError makes ErrExists or ErrFull of an error of a publish, if it is one of
// these.
func WriteError(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return ErrExists
	case streamStoreFailed:
		if strings.Contains(api.Description, "maximum") { // not for a failing disk
			return ErrFull
		}
	}
	return err
}

// Remove removes a message of a stream; one that is not there is no error.
func Remove(ctx context.Context, stream jetstream.Stream, seq uint64) error {
	err := stream.DeleteMsg(ctx, seq)
	if err == nil || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) && notThere(err.Error()) {
		return nil
	}
	return fmt.Errorf("remove message %d: %w", seq, err)
}

// notThere knows an answer by its text, as that is all that the client hands on.
func notThere(text string) bool {
	for _, sign := range []string{"not found", "no message found", "stream store EOF"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}
