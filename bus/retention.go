package bus

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly/disk"
)

// KeepOutcomes sets for how long outcomes are kept, where that is not so already.
// What is too old then goes at once.
func (b *Bus) KeepOutcomes(ctx context.Context, age time.Duration) error {
	stream, err := b.js.Stream(ctx, OutcomesStream)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", OutcomesStream, err)
	}
	config := stream.CachedInfo().Config
	if config.MaxAge == age {
		return nil
	}
	config.MaxAge = age
	// The window in which a publish is known again by its id is never used, and
	// must not be longer than the age.
	config.Duplicates = min(config.Duplicates, age)
	if _, err := b.js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("update stream %s: %w", OutcomesStream, err)
	}
	return disk.SyncFS(filepath.Join(b.dir, storeDir))
}

// asKept leaves what KeepOutcomes has set as it is: an update of the list must not
// drop what is to be kept.
func (b *Bus) asKept(ctx context.Context, config *jetstream.StreamConfig) {
	stream, err := b.js.Stream(ctx, config.Name)
	if err != nil {
		return // it is new
	}
	have := stream.CachedInfo().Config
	config.MaxAge, config.Duplicates = have.MaxAge, have.Duplicates
}
