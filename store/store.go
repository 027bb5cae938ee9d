// Package store is the record: which releases and workloads there are, which
// instances run and where they shall, what was called and what happened. It is the
// only meeting place of the parts of Mayfly.
//
// Every write is compare-and-set: it names the revision it is based on, and
// loses with a Conflict error when somebody else wrote meanwhile. What a write
// returned for is on disk. Reads of workloads and instances come from memory,
// which one watch of the whole record keeps current; who wrote sees its own
// write in every later read. Call history is different: it is written in the
// background, bounded, and its last entries may be lost in a crash.
//
// Values are JSON. Unknown fields are ignored and not kept: what an older
// Mayfly rewrites loses the fields that it does not know.
//
// Deciding what should be is left to others; the store only refuses what would
// contradict itself: a name or a route taken twice, a release written twice.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// maxValue bounds one value, in bytes, headers being apart.
const maxValue = bus.MaxMessage - 16<<10

// Options tune a Store. The zero value is fit for production.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
}

// Store is the record. Its methods are safe for concurrent use.
type Store struct {
	bus    *bus.Bus
	log    *slog.Logger
	mirror *mirror
	watch  jetstream.ConsumeContext
	cons   jetstream.Consumer
	news   news
	runs   runsWaiting
	Tables

	// Deploys of this process wait for each other here instead of losing to
	// each other and trying again. Correctness does not depend on it.
	deploys sync.Mutex
}

// Open reads the record into memory and follows it until Close.
func Open(ctx context.Context, b *bus.Bus, opts Options) (*Store, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{bus: b, log: opts.Log, mirror: newMirror(), news: news{own: make(map[string]bool)}, runs: runsWaiting{open: make(map[runsOf]*runBatch)}}
	s.Tables = newTables(s)
	err := s.follow(ctx)
	if err == nil {
		err = s.followNews(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close stops following the record. What waits for a change fails. The bus
// stays open; it is closed after the store. A second Close does nothing.
func (s *Store) Close() {
	s.publishWaiting()
	s.publishRuns()
	s.mirror.close()
	for _, watch := range []jetstream.ConsumeContext{s.watch, s.news.watch} {
		if watch != nil {
			watch.Stop()
			<-watch.Closed()
		}
	}
}

// condition is what a write is based on: the newest message on subject (the
// written key's own when empty) has the sequence last, 0 meaning none.
type condition struct {
	last    uint64
	subject string
}

// errLost means that the condition of a write did not hold.
var errLost = errors.New("changed meanwhile")

// write stores value under a key of the state if cond holds, and returns the
// new revision once this store's memory has it too. A nil value removes the key.
func (s *Store) write(ctx context.Context, key string, value any, cond condition) (uint64, error) {
	rev, err := s.publish(ctx, bus.StateSubject(key), value, cond)
	if err == nil {
		// The write is done, so the end of ctx is no failure any more.
		_ = s.mirror.wait(ctx, rev)
	}
	return rev, err
}

func (s *Store) publish(ctx context.Context, subject string, value any, cond condition) (uint64, error) {
	msg := &nats.Msg{Subject: subject, Header: nats.Header{}}
	opts := make([]jetstream.PublishOpt, 0, 2)
	if value == nil {
		msg.Header.Set("KV-Operation", "PURGE")
		msg.Header.Set("Nats-Rollup", "sub")
		if bus.EverNew(subject) {
			opts = append(opts, jetstream.WithMsgTTL(bus.MarkerTTL))
		}
	} else {
		data, err := json.Marshal(value)
		if err != nil {
			return 0, fmt.Errorf("encode %s: %w", subject, err)
		}
		if len(data) > maxValue {
			return 0, mayfly.Errorf(mayfly.TooLarge, "the record of %s has %d bytes, and the limit is %d", subject, len(data), maxValue)
		}
		msg.Data = data
	}
	if cond.subject == "" {
		cond.subject = msg.Subject
	}
	opts = append(opts, jetstream.WithExpectLastSequenceForSubject(cond.last, cond.subject))
	ack, err := s.bus.JetStream().PublishMsg(ctx, msg, opts...)
	if err != nil {
		return 0, writeError(subject, err)
	}
	return ack.Sequence, nil
}

// create stores value under a key that is absent or was removed.
func (s *Store) create(ctx context.Context, key string, value any) (uint64, error) {
	rev, err := s.write(ctx, key, value, condition{})
	if !errors.Is(err, errLost) {
		return rev, err
	}
	last, err := s.bus.Last(ctx, bus.StateStream, bus.StateSubject(key))
	if errors.Is(err, bus.ErrNoMessage) {
		last.Sequence = 0 // its marker has just expired
	} else if err != nil {
		return 0, unavailable("read "+key, err)
	} else if !removed(last.Header) {
		return 0, errLost
	}
	return s.write(ctx, key, value, condition{last: last.Sequence})
}

// removed reports whether a message is the marker of a removed key.
func removed(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get("Nats-Marker-Reason") != ""
}

func writeError(subject string, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return errLost
		}
	}
	return unavailable("write "+subject, err)
}

// unavailable wraps an error of the engine; what did not answer may do so later.
func unavailable(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return mayfly.Errorf(mayfly.Unavailable, "%s: %w", doing, err)
}

const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// checkID returns an Invalid error unless id has the form of mayfly.NewID.
func checkID(what, id string) error {
	if len(id) == 20 && strings.Trim(id, idAlphabet) == "" {
		return nil
	}
	return mayfly.Errorf(mayfly.Invalid, "%s id %q is not an id", what, id)
}

func checkNames(space, what, name string) error {
	return errors.Join(mayfly.CheckName("space", space), mayfly.CheckName(what, name))
}
