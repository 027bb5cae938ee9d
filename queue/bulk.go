package queue

import (
	"context"
	"fmt"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Bounds of one step over the dead letters.
const (
	bulkStep   = 1000 // looked at
	bulkAtOnce = 16
)

// Bulk is what one step over the dead letters did.
type Bulk struct {
	Done   int    // tasks
	Failed int    // that could not be moved; they are where they were
	Err    error  // of one of those
	Next   string // goes on, as Filter.After; empty when all have been looked at
}

// RetryAll brings those buried tasks back that a filter selects, whatever states
// it names. It looks at a thousand, and is called again with Next until that is
// empty. What is buried after the first step is left alone, so a task that fails
// again at once is brought back once.
func (q *Queue) RetryAll(ctx context.Context, f Filter) (Bulk, error) {
	return q.bulk(ctx, f, q.Retry)
}

// PurgeAll ends those buried tasks that a filter selects; see RetryAll.
func (q *Queue) PurgeAll(ctx context.Context, f Filter) (Bulk, error) {
	return q.bulk(ctx, f, q.Purge)
}

func (q *Queue) bulk(ctx context.Context, f Filter, do func(context.Context, string, string) (mayfly.Task, error)) (Bulk, error) {
	if err := checkQueue(f.Space, f.Workload); err != nil {
		return Bulk{}, err
	}
	from, last, err := q.bulkCursor(ctx, f.After)
	if err != nil {
		return Bulk{}, err
	}
	queue := "*"
	if f.Workload != "" {
		queue = f.Workload
	}
	f.States = nil
	var step Bulk
	var ids []string
	looked := 0
	err = q.bus.Scan(ctx, bus.ParkedStream, bus.DeadSubject(f.Space, queue, "*"), from, func(msgs []bus.Message) bool {
		for _, msg := range msgs {
			if looked == bulkStep || msg.Sequence > last {
				return false
			}
			from, looked = msg.Sequence+1, looked+1
			task, err := decode(msg)
			if err != nil {
				q.log.Error("a task that cannot be read is passed over", "sequence", msg.Sequence, "error", err)
			} else if f.matches(task) {
				ids = append(ids, task.ID)
			}
		}
		return true
	})
	if err != nil {
		return Bulk{}, unavailable("read the dead letters", err)
	}
	if looked == bulkStep {
		step.Next = fmt.Sprintf("%d.%d", from, last)
	}
	step.do(ctx, f.Space, ids, do)
	return step, ctx.Err()
}

// do does something to tasks, several at once.
func (b *Bulk) do(ctx context.Context, space string, ids []string, do func(context.Context, string, string) (mayfly.Task, error)) {
	var mu sync.Mutex
	var workers sync.WaitGroup
	for w := range min(bulkAtOnce, len(ids)) {
		workers.Go(func() {
			for i := w; i < len(ids) && ctx.Err() == nil; i += bulkAtOnce {
				_, err := do(ctx, space, ids[i])
				kind := mayfly.KindOf(err)
				mu.Lock()
				switch {
				case err == nil:
					b.Done++
				case kind != mayfly.Conflict && kind != mayfly.NotFound: // those are no longer buried
					b.Failed, b.Err = b.Failed+1, err
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
}

// bulkCursor says where a step begins and which dead letter is the last.
func (q *Queue) bulkCursor(ctx context.Context, after string) (from, last uint64, err error) {
	if after == "" {
		info, err := q.parked.Info(ctx)
		if err != nil {
			return 0, 0, unavailable("read the dead letters", err)
		}
		return 0, info.State.LastSeq, nil
	}
	if n, err := fmt.Sscanf(after, "%d.%d", &from, &last); n != 2 || err != nil {
		return 0, 0, mayfly.Errorf(mayfly.Invalid, "%q does not continue a step over the dead letters", after)
	}
	return from, last, nil
}
