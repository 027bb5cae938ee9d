package store

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly/bus"
)

// follow starts the one watch of the record and returns when memory holds what
// was there at the start. Releases are not in it: the active one is part of its
// workload's record, and the others are read when asked for.
func (s *Store) follow(ctx context.Context) error {
	stream, err := s.bus.JetStream().Stream(ctx, bus.StateStream)
	if err != nil {
		return unavailable("open the record", err)
	}
	target := stream.CachedInfo().State.LastSeq
	s.cons, err = stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{bus.StateSubject(">")},
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		return unavailable("watch the record", err)
	}
	ready := make(chan struct{})
	var once sync.Once
	caughtUp := func() { once.Do(func() { close(ready) }) }
	if s.cons.CachedInfo().NumPending == 0 {
		caughtUp()
	}
	s.watch, err = s.cons.Consume(func(msg jetstream.Msg) {
		meta, err := msg.Metadata()
		if err != nil {
			s.log.Error("watch the record", "error", err)
			return
		}
		s.take(msg, meta.Sequence.Stream)
		if meta.NumPending == 0 || meta.Sequence.Stream >= target {
			caughtUp()
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		s.log.Warn("watch the record; it is resumed", "error", err)
	}))
	if err != nil {
		return unavailable("watch the record", err)
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read the record: %w", ctx.Err())
	}
}

func (s *Store) take(msg jetstream.Msg, seq uint64) {
	key := strings.TrimPrefix(msg.Subject(), bus.StateSubject(""))
	value := msg.Data()
	if removed(msg.Headers()) {
		value = nil
	}
	if err := s.mirror.apply(key, value, seq); err != nil {
		s.log.Error("an entry of the record is passed over", "error", err)
	}
}
