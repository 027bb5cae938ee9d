package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrNoMessage means that nothing stored matches.
var ErrNoMessage = errors.New("no message")

// Message is one message of a stream.
type Message struct {
	Subject  string
	Sequence uint64
	Header   nats.Header
	Data     []byte
}

// From says where and how much to read. Sequence and Time exclude each other;
// with neither, reading begins at the oldest message.
type From struct {
	Subject  string    // wildcards allowed
	Sequence uint64    // this one or later
	Time     time.Time // stored then or later
	Limit    int       // messages, 2 or more
}

// Bounds of one read.
const (
	readMaxBytes = 8 << 20          // bytes held in memory
	readTimeout  = 10 * time.Second // until the stream has answered
)

// getRequest is the body of JetStream's direct get, of which the client
// library offers the single-message half only.
type getRequest struct {
	Seq       uint64     `json:"seq,omitempty"`
	LastFor   string     `json:"last_by_subj,omitempty"`
	NextFor   string     `json:"next_by_subj,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
	StartTime *time.Time `json:"start_time,omitempty"`
	MultiLast []string   `json:"multi_last,omitempty"`
}

// Last returns the newest message of stream on subject, which may hold
// wildcards, or ErrNoMessage. The answer comes from the stream itself.
func (b *Bus) Last(ctx context.Context, stream, subject string) (Message, error) {
	return b.get(ctx, stream, getRequest{LastFor: subject})
}

// Next returns the first message of stream on subject that has the sequence
// from or a later one, or ErrNoMessage. With a wildcard the server looks at each
// message before it, or, where from is not beyond the first message of the
// stream, counts all that match.
func (b *Bus) Next(ctx context.Context, stream, subject string, from uint64) (Message, error) {
	return b.get(ctx, stream, getRequest{Seq: from, NextFor: subject})
}

func (b *Bus) get(ctx context.Context, stream string, req getRequest) (Message, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return Message{}, fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	reply, err := b.conn.RequestWithContext(ctx, directSubject(stream), body)
	if err != nil {
		return Message{}, fmt.Errorf("read stream %s: %w", stream, err)
	}
	msg, _, err := parseReply(reply)
	if err != nil && !errors.Is(err, ErrNoMessage) {
		err = fmt.Errorf("read stream %s: %w", stream, err)
	}
	return msg, err
}

// Read returns messages of stream in their order, fewer than the limit when
// there are no more or when they are large, and whether more follow. It makes
// no consumer.
func (b *Bus) Read(ctx context.Context, stream string, from From) (msgs []Message, more bool, err error) {
	req := getRequest{Seq: from.Sequence, NextFor: from.Subject, Batch: max(from.Limit, 2), MaxBytes: readMaxBytes}
	if !from.Time.IsZero() {
		t := from.Time.UTC()
		req.StartTime = &t
	}
	return b.batch(ctx, stream, req, req.Batch)
}

func directSubject(stream string) string { return "$JS.API.DIRECT.GET." + stream }

// parseReply reads one answer; end is true for the one that closes a batch.
func parseReply(reply *nats.Msg) (msg Message, end bool, err error) {
	switch status := reply.Header.Get("Status"); status {
	case "":
	case "204":
		return Message{}, true, nil
	case "404":
		return Message{}, false, ErrNoMessage
	default:
		return Message{}, false, fmt.Errorf("status %s %s", status, reply.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(reply.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return Message{}, false, fmt.Errorf("answer without a sequence: %w", err)
	}
	return Message{
		Subject:  reply.Header.Get("Nats-Subject"),
		Sequence: seq,
		Header:   reply.Header,
		Data:     reply.Data,
	}, false, nil
}
