package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// MaxLast is the limit of subjects of one LastOf.
const MaxLast = 1000

// Get returns the messages of stream that have the sequences, in ascending
// order; those that are not there are left out. It holds all of them in memory.
// A message costs the same wherever it is and however many there are.
func (b *Bus) Get(ctx context.Context, stream string, sequences []uint64) ([]Message, error) {
	requests := make([]getRequest, len(sequences))
	for i, seq := range sequences {
		requests[i].Seq = seq
	}
	if len(requests) == 1 {
		msg, err := b.get(ctx, stream, requests[0])
		if errors.Is(err, ErrNoMessage) {
			return nil, nil
		}
		return []Message{msg}, err
	}
	msgs := make([]Message, 0, len(requests))
	err := b.ask(ctx, stream, len(requests), requests, func(reply *nats.Msg) (done bool, err error) {
		msg, _, err := parseReply(reply)
		if errors.Is(err, ErrNoMessage) {
			return false, nil
		}
		msgs = append(msgs, msg)
		return false, err
	})
	slices.SortFunc(msgs, func(x, y Message) int { return cmp.Compare(x.Sequence, y.Sequence) })
	return msgs, err
}

// LastOf returns the newest message of each of the subjects that has one, in no
// order. They are at most MaxLast, and one with wildcards is to mean one message.
func (b *Bus) LastOf(ctx context.Context, stream string, subjects []string) ([]Message, error) {
	var all []Message
	for len(subjects) > 0 {
		// As many as the server sends in one answer.
		msgs, more, err := b.batch(ctx, stream, getRequest{MultiLast: subjects, MaxBytes: readMaxBytes}, len(subjects))
		if err != nil {
			return nil, err
		}
		all = append(all, msgs...)
		if !more || len(msgs) == 0 {
			break
		}
		answered := make(map[string]bool, len(msgs))
		for _, msg := range msgs {
			answered[msg.Subject] = true
		}
		subjects = slices.DeleteFunc(slices.Clone(subjects), func(s string) bool {
			return answered[s] || strings.Contains(s, "*") && slices.ContainsFunc(msgs, func(m Message) bool { return matches(s, m.Subject) })
		})
	}
	return all, nil
}

// matches reports whether a subject is one of those that a wildcard means.
func matches(wild, subject string) bool {
	a, b := strings.Split(wild, "."), strings.Split(subject, ".")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != "*" && a[i] != b[i] {
			return false
		}
	}
	return true
}

// batch asks for many messages, at most so many, and reports whether more follow.
func (b *Bus) batch(ctx context.Context, stream string, req getRequest, most int) (msgs []Message, more bool, err error) {
	err = b.ask(ctx, stream, most+1, []getRequest{req}, func(reply *nats.Msg) (done bool, err error) {
		msg, end, err := parseReply(reply)
		switch {
		case errors.Is(err, ErrNoMessage):
			return true, nil
		case err != nil:
			return true, err
		case end:
			pending, _ := strconv.Atoi(reply.Header.Get("Nats-Num-Pending"))
			more = pending > 0
			return true, nil
		}
		msgs = append(msgs, msg)
		return false, nil
	})
	return msgs, more, err
}

// ask sends requests at once and hands on so many answers, or fewer when one of
// them is the last.
func (b *Bus) ask(ctx context.Context, stream string, answers int, requests []getRequest, take func(*nats.Msg) (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	replies := make(chan *nats.Msg, answers)
	sub, err := b.conn.ChanSubscribe(b.conn.NewRespInbox(), replies)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer sub.Unsubscribe()
	for _, req := range requests {
		body, err := json.Marshal(req)
		if err == nil {
			err = b.conn.PublishRequest(directSubject(stream), sub.Subject, body)
		}
		if err != nil {
			return fmt.Errorf("read stream %s: %w", stream, err)
		}
	}
	for range answers {
		select {
		case reply := <-replies:
			if done, err := take(reply); err != nil {
				return fmt.Errorf("read stream %s: %w", stream, err)
			} else if done {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("read stream %s: %w", stream, ctx.Err())
		}
	}
	return nil
}
