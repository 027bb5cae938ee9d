package queue

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// How ended tasks are removed from pending. Nothing depends on it but room: a
// start looks for the outcome of every task that it reads.
const (
	tidyEvery  = 256                    // ended tasks
	tidyPause  = 100 * time.Millisecond // between two rounds, at least
	tidyShare  = 20                     // rounds take at most one part in so many of the time, unless there is
	tidyMany   = 50_000                 // to remove, or the stream is half full
	tidyWait   = 2 * time.Second        // until one that lies behind a waiting task is removed by itself
	tidyLast   = time.Second            // that a stop spends on it
	tidyBudget = 30 * time.Second
)

// runTidy removes what has ended, some time after it did.
func (q *Queue) runTidy(ctx context.Context) {
	for left := false; ; {
		if !left {
			select {
			case <-q.wakeTidy:
			case <-ctx.Done():
			}
		}
		pause := tidyPause
		if ctx.Err() == nil {
			start := time.Now()
			if err := q.tidy(ctx); err != nil && ctx.Err() == nil {
				q.log.Warn("tasks that have ended are not removed yet; it is tried again", "error", err)
			}
			if !q.crowded() {
				pause = max(pause, tidyShare*time.Since(start))
			}
		}
		q.mu.Lock()
		left = len(q.ended) > 0
		q.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			q.lastTidy()
			return
		}
	}
}

// tidy is one round. Nothing is removed while a start still looks what is there.
func (q *Queue) tidy(ctx context.Context) error {
	q.mu.Lock()
	scanning := q.scanning
	q.mu.Unlock()
	if scanning {
		return nil
	}
	purged, err := q.purgeEnded(ctx)
	if err != nil {
		return err
	}
	removed, err := q.removeEnded(ctx)
	if purged || removed {
		q.measure(ctx)
	}
	return err
}

// crowded reports whether what has ended is to be removed without delay.
func (q *Queue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ended) > tidyMany || q.waiting.bytes.Load() > q.opts.MaxBytes/2
}

// measure sets the gauge to what the streams say.
func (q *Queue) measure(ctx context.Context) {
	tasks, err1 := q.tasks.Info(ctx)
	parked, err2 := q.parked.Info(ctx)
	if err1 == nil && err2 == nil {
		q.waiting.bytes.Store(int64(tasks.State.Bytes + parked.State.Bytes))
	}
}

// lastTidy leaves little to look at for the next start.
func (q *Queue) lastTidy() {
	ctx, cancel := context.WithTimeout(context.Background(), tidyLast)
	defer cancel()
	if _, err := q.purgeEnded(ctx); err != nil {
		q.log.Debug("tasks that have ended are left for the next start", "error", err)
	}
}

// purgeEnded removes everything before the oldest task that has not ended.
func (q *Queue) purgeEnded(ctx context.Context) (some bool, err error) {
	q.mu.Lock()
	oldest := q.oldest()
	some = slices.ContainsFunc(q.ended, func(e endedSeq) bool { return e.seq < oldest })
	if some {
		q.tidied = oldest
	}
	q.mu.Unlock()
	if !some {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tidyBudget)
	defer cancel()
	if err = q.tasks.Purge(ctx, jetstream.WithPurgeSequence(oldest)); err != nil {
		return false, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = slices.DeleteFunc(q.ended, func(e endedSeq) bool { return e.seq < oldest })
	for seq := range q.known {
		if seq < oldest {
			delete(q.known, seq)
		}
	}
	return true, nil
}

// oldest is the first sequence whose task has not ended, as far as is known.
func (q *Queue) oldest() uint64 {
	first := q.flights.floor() + 1
	if q.scanning {
		first = min(first, q.scanned+1)
	}
	for _, e := range q.entries {
		first = min(first, e.seq)
	}
	for _, f := range q.flows {
		for _, l := range f.lanes {
			if l != nil && l.unread.len() > 0 {
				first = min(first, l.unread.first(1)[0])
			}
			if l != nil && l.blocked != nil {
				first = min(first, l.firstBlocked())
			}
		}
	}
	for seq, ended := range q.known { // claimed by Cancel, or between two places
		if !ended {
			first = min(first, seq)
		}
	}
	return first
}

// removeEnded removes, one by one and for a short time, what has ended some time
// ago and lies behind a task that goes on waiting.
func (q *Queue) removeEnded(ctx context.Context) (some bool, err error) {
	q.mu.Lock()
	n := 0
	for n < len(q.ended) && n < tidyEvery && time.Since(q.ended[n].when) > tidyWait {
		n++
	}
	stuck := slices.Clone(q.ended[:n])
	q.mu.Unlock()
	start := time.Now()
	for i, e := range stuck {
		if err = q.remove(ctx, q.tasks, e.seq); err != nil || time.Since(start) > tidyPause {
			if err == nil {
				i++
			}
			stuck = stuck[:i]
			break
		}
	}
	q.removed(stuck)
	return len(stuck) > 0, err
}

// removed forgets messages, as soon as nothing can bring them up again.
func (q *Queue) removed(list []endedSeq) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = q.ended[len(list):]
	for _, e := range list {
		q.gone = append(q.gone, goneSeq{e.seq, q.flights.next})
	}
	n := 0
	for n < len(q.gone) && q.flights.over(q.gone[n].flight) {
		delete(q.known, q.gone[n].seq)
		n++
	}
	q.gone = q.gone[n:]
}
