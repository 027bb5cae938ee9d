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
	walkBatch = 2000            // messages at once
	walkIdle  = 5 * time.Minute // after which the server forgets a walk of a process that is gone
)

// Position is where a message is.
type Position struct {
	Subject  string
	Sequence uint64
}

// Walk goes through the messages of stream from a sequence on, in order and
// without their data, up to the present end. It hands many at once to take,
// until that returns false. A million take some seconds, whatever their size.
func (b *Bus) Walk(ctx context.Context, stream string, from uint64, take func([]Position) bool) error {
	wrap := func(err error) error { return fmt.Errorf("walk through stream %s: %w", stream, err) }
	// A consumer is the one way of reading in which the server neither counts
	// what follows nor makes headers for each message.
	consumer, err := b.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(from, 1),
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		HeadersOnly:       true,
		InactiveThreshold: walkIdle,
	})
	if err != nil {
		return wrap(err)
	}
	defer b.endWalk(stream, consumer.CachedInfo().Name)
	for count := uint64(0); ; {
		batch, err := consumer.FetchNoWait(walkBatch)
		if err != nil {
			return wrap(err)
		}
		list := make([]Position, 0, walkBatch)
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return wrap(err)
			}
			if count++; meta.Sequence.Consumer != count {
				return wrap(errors.New("a message was lost on the way"))
			}
			list = append(list, Position{msg.Subject(), meta.Sequence.Stream})
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return wrap(err)
		}
		if len(list) == 0 || !take(list) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return wrap(err)
		}
	}
}

// endWalk removes the consumer; the server does it later if that fails.
func (b *Bus) endWalk(stream, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	_ = b.js.DeleteConsumer(ctx, stream, name)
}
