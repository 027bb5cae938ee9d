package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// How what was freed is removed.
const (
	tidyEvery  = 256                    // messages
	tidyPause  = 100 * time.Millisecond // between two rounds, at least
	tidyShare  = 20                     // rounds take at most one part in so many of the time, unless there is
	tidyMany   = 10_000                 // to remove
	tidyWait   = 2 * time.Second        // until a message behind one with records is removed by itself
	thinWait   = 10 * time.Second       // until what is left in a message is written again, where it is more than half
	tidyLast   = time.Second            // that a stop spends on it
	tidyBudget = 30 * time.Second
	sweepEvery = time.Minute // for what the stream has dropped
	indexMany  = 50_000      // keys beyond which the index is made anew when few are left
)

// runTidy removes what was freed, some time after it was.
func (j *Journal) runTidy(ctx context.Context) {
	for {
		var again <-chan time.Time
		if j.left() {
			again = time.After(tidyPause)
		}
		select {
		case <-j.wake:
		case <-again:
		case <-ctx.Done():
			j.lastTidy()
			return
		}
		start := time.Now()
		if err := j.Tidy(ctx); err != nil && ctx.Err() == nil {
			j.log.Warn("a journal cannot be tidied; it is tried again", "journal", j.name, "error", err)
		}
		pause := tidyPause
		if !j.crowded() {
			pause = max(pause, tidyShare*time.Since(start))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// left reports whether something waits for its time to be removed.
func (j *Journal) left() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.lonely)+len(j.thinned) > 0 && !j.fenced
}

func (j *Journal) crowded() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.lonely) > tidyMany
}

// Tidy removes what can be removed now.
func (j *Journal) Tidy(ctx context.Context) error {
	if !j.mayTidy() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tidyBudget)
	defer cancel()
	err := errors.Join(j.trim(ctx), j.purge(ctx), j.removeLonely(ctx), j.rewriteThinned(ctx))
	j.shrink()
	return err
}

// shrink gives back what the index took when it was large: a map never does.
func (j *Journal) shrink() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.most = max(j.most, len(j.index)); j.most > indexMany && len(j.index) < j.most/8 {
		j.index, j.most = maps.Collect(maps.All(j.index)), len(j.index)
	}
}

// mayTidy reports whether it is known what is there, and that nobody else uses it.
func (j *Journal) mayTidy() bool {
	select {
	case <-j.loaded:
	default:
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.fenced
}

// lastTidy leaves little to look at for the next start.
func (j *Journal) lastTidy() {
	if !j.mayTidy() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), tidyLast)
	defer cancel()
	if err := j.purge(ctx); err != nil {
		j.log.Debug("a part of a journal is left for the next start", "journal", j.name, "error", err)
	}
}

// purge removes all messages before the first that has a record, at once: each by
// itself would cost as much as writing it did.
func (j *Journal) purge(ctx context.Context) error {
	j.mu.Lock()
	front := j.gone.after(j.first)
	some := slices.ContainsFunc(j.lonely, func(f freed) bool { return f.sequence < front })
	j.mu.Unlock()
	if !some {
		return nil
	}
	if err := j.stream.Purge(ctx, jetstream.WithPurgeSequence(front)); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	j.begin(front)
	return nil
}

// begin notes that nothing is left before a sequence.
func (j *Journal) begin(front uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	front = max(front, j.first) // another Tidy may have come further
	j.first = front
	j.gone.drop(front)
	before := func(f freed) bool { return f.sequence < front }
	j.lonely, j.thinned = slices.DeleteFunc(j.lonely, before), slices.DeleteFunc(j.thinned, before)
	if len(j.lonely) == 0 {
		j.lonely = nil // it may have been long
	}
}

// removeLonely removes, one by one and for a short time, what has no record since
// some time and lies behind what has.
func (j *Journal) removeLonely(ctx context.Context) error {
	for start := time.Now(); time.Since(start) < tidyPause; {
		j.mu.Lock()
		var next freed
		if len(j.lonely) > 0 && time.Since(j.lonely[0].when) > tidyWait {
			next = j.lonely[0]
		}
		j.mu.Unlock()
		if next.sequence == 0 {
			return nil
		}
		if err := Remove(ctx, j.stream, next.sequence); err != nil {
			return err
		}
		j.mu.Lock()
		if len(j.lonely) > 0 && j.lonely[0] == next {
			j.lonely = j.lonely[1:]
		}
		j.mu.Unlock()
	}
	return nil
}

// rewriteThinned writes what is left in messages again, so that they can go.
func (j *Journal) rewriteThinned(ctx context.Context) error {
	j.mu.Lock()
	var due []uint64
	j.thinned = slices.DeleteFunc(j.thinned, func(f freed) bool {
		t, there := j.tallies[f.sequence]
		if !there {
			return true
		}
		age := time.Since(f.when)
		if len(due) == tidyEvery || age < tidyWait || age < thinWait && t.live > t.of/2 {
			return false
		}
		due = append(due, f.sequence)
		return true
	})
	j.mu.Unlock()
	if len(due) == 0 {
		return nil
	}
	slices.Sort(due)
	var err error
	for part := range slices.Chunk(due, 16) {
		if err = j.rewrite(ctx, part); err != nil {
			break
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, seq := range due {
		if _, there := j.tallies[seq]; there {
			j.thinned = append(j.thinned, freed{seq, time.Now()})
		}
	}
	return err
}

// rewrite writes what is left in some messages again.
func (j *Journal) rewrite(ctx context.Context, sequences []uint64) error {
	msgs, err := j.bus.Get(ctx, j.name, sequences)
	if err != nil {
		return err
	}
	var writes []*Write
	for _, msg := range msgs {
		list, err := unpack(msg)
		if err != nil {
			return err
		}
		j.mu.Lock()
		for i, r := range list {
			h := j.hash(r.Key)
			if j.index[h] != r.Position || j.placeOf(r.Position) != place(msg.Sequence, i) || j.flying[h] != nil {
				continue
			}
			w := &Write{record: r, key: h, over: r.Position, again: true, done: make(chan struct{})}
			j.admit(w)
			writes = append(writes, w)
		}
		j.mu.Unlock()
	}
	for _, w := range writes {
		select {
		case <-w.done:
			if w.err != nil && !errors.Is(w.err, ErrExists) {
				return w.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// trim drops the oldest records where there are too many, and those from the
// index that the stream has dropped.
func (j *Journal) trim(ctx context.Context) error {
	if j.keep <= 0 {
		return nil
	}
	j.mu.Lock()
	front, over := j.first, int64(len(j.index))-j.keep
	many := over > j.keep/20
	for many && front <= j.last {
		if next := j.gone.after(front); next > front {
			front = next
			continue
		}
		if over -= max(1, int64(j.tallies[front].live)); over < 0 {
			break // some of it are to be kept
		}
		front++
	}
	many = front > j.first
	due := many || time.Since(j.swept) > sweepEvery
	j.mu.Unlock()
	if !due {
		return nil
	}
	if many {
		if err := j.stream.Purge(ctx, jetstream.WithPurgeSequence(front)); err != nil {
			return fmt.Errorf("drop the oldest: %w", err)
		}
	}
	info, err := j.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("look at what is left: %w", err)
	}
	front = max(front, info.State.FirstSeq)
	j.begin(front)
	j.sweep(front)
	return nil
}

// sweep drops from the index what was before a sequence.
func (j *Journal) sweep(front uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.swept = time.Now()
	for h, pos := range j.index {
		if sequenceOf(j.placeOf(pos)) < front {
			delete(j.index, h)
			delete(j.moved, pos)
		}
	}
	for seq := range j.tallies {
		if seq < front {
			delete(j.tallies, seq)
		}
	}
}
