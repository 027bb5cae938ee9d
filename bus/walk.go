package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bounds of a walk.
const (
	walkBatch = 256             // messages at once
	walkTries = 5               // that lead nowhere
	walkIdle  = 5 * time.Minute // after which the server forgets a walk of a process that is gone
)

// Scan goes through the messages of stream from a sequence on, in order and with
// their headers but not their Data, up to the present end; those on subject only,
// which may hold wildcards, or any where it is empty. It hands many at once to
// take, until that returns false. A million take some seconds, whatever their
// size. Where the subject is not empty, the server first counts all that are on it.
func (b *Bus) Scan(ctx context.Context, stream, subject string, from uint64, take func([]Message) bool) error {
	return b.walk(ctx, stream, subject, from, func(batch []jetstream.Msg, sequences []uint64) bool {
		list := make([]Message, len(batch))
		for i, msg := range batch {
			list[i] = Message{Subject: msg.Subject(), Sequence: sequences[i], Header: msg.Headers()}
		}
		return take(list)
	})
}

// walk begins again where a message was lost on the way, which happens when the
// server or this process stands still for a second.
func (b *Bus) walk(ctx context.Context, stream, subject string, from uint64, take func([]jetstream.Msg, []uint64) bool) error {
	for tries := 0; ; tries++ {
		before := from
		err := b.walkOnce(ctx, stream, subject, &from, take)
		if from > before {
			tries = 0
		}
		if !errors.Is(err, errLost) || tries == walkTries {
			if err != nil {
				err = fmt.Errorf("walk through stream %s: %w", stream, err)
			}
			return err
		}
	}
}

// errLost means that the consumer sent what did not come here.
var errLost = errors.New("a message was lost on the way")

// walkOnce moves from on behind what it handed to take.
func (b *Bus) walkOnce(ctx context.Context, stream, subject string, from *uint64, take func([]jetstream.Msg, []uint64) bool) error {
	// A consumer is the one way of reading in which the server neither counts
	// what follows nor makes headers for each message.
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	consumer, err := b.js.CreateConsumer(opening, stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(*from, 1),
		FilterSubject:     subject,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		HeadersOnly:       true,
		InactiveThreshold: walkIdle,
	})
	if err != nil {
		return err
	}
	defer b.endWalk(stream, consumer.CachedInfo().Name)
	list, sequences := make([]jetstream.Msg, 0, walkBatch), make([]uint64, 0, walkBatch)
	for count := uint64(0); ; {
		list, sequences = list[:0], sequences[:0]
		batch, err := consumer.FetchNoWait(walkBatch)
		if err != nil {
			return err
		}
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return err
			}
			if count++; meta.Sequence.Consumer != count {
				return errLost
			}
			list, sequences = append(list, msg), append(sequences, meta.Sequence.Stream)
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
		if len(list) == 0 {
			// Nothing also comes from a server that stands still.
			info, err := consumer.Info(ctx)
			switch {
			case err != nil:
				return err
			case info.Delivered.Consumer != count:
				return errLost
			case info.NumPending == 0:
				return nil
			}
			continue
		}
		*from = sequences[len(sequences)-1] + 1
		if !take(list, sequences) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// endWalk removes the consumer; the server does it later if that fails.
func (b *Bus) endWalk(stream, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	_ = b.js.DeleteConsumer(ctx, stream, name)
}
