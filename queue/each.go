package queue

import (
	"cmp"
	"context"
	"slices"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// eachBatch is how many pending tasks each reads at once. They come with their
// payloads.
const eachBatch = 32

// kept is a task as it is kept, or why it cannot be read.
type kept struct {
	task mayfly.Task
	seq  uint64
	err  error
}

// each goes through the tasks of a workload, or all of a space with "*", that are
// in a place, which is not that of outcomes: those from a sequence on, and about
// so many at most. It hands several at once to take, until that returns false.
func (q *Queue) each(ctx context.Context, p place, space, queue string, from uint64, most int, take func([]kept) bool) error {
	if p == inPending {
		return q.eachPending(ctx, flowKey{space, queue}, from, most, take)
	}
	err := q.bus.Scan(ctx, bus.ParkedStream, parkedSubjects(p, space, queue), from, func(msgs []bus.Message) bool {
		var list []kept
		for _, msg := range msgs {
			task, err := readParked(msg)
			list = append(list, kept{task, msg.Sequence, err})
		}
		most -= len(list)
		return take(list) && most > 0
	})
	if err != nil {
		return unavailable("look through the queue", err)
	}
	return nil
}

// parkedSubjects are those of a place's tasks.
func parkedSubjects(p place, space, queue string) string {
	switch p {
	case inLater:
		return bus.LaterSubject(space, "*", queue, "*", "*")
	case inHeld:
		return bus.HeldSubject(space, "*", queue, "*", "*")
	default:
		return bus.DeadSubject(space, queue, "*")
	}
}

func (q *Queue) eachPending(ctx context.Context, key flowKey, from uint64, most int, take func([]kept) bool) error {
	if err := wait(ctx, q.scanned); err != nil {
		return err
	}
	for positions := range slices.Chunk(q.pendingFrom(key, from, most), eachBatch) {
		recs, err := q.tasks.Get(ctx, positions)
		if err != nil {
			return unavailable("look through the queue", err)
		}
		var list []kept
		for _, rec := range recs {
			task, err := readRecord(rec)
			list = append(list, kept{task, rec.Position, err})
		}
		if len(list) > 0 && !take(list) {
			return nil
		}
	}
	return nil
}

// wait waits for a channel to be closed.
func wait(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return unavailable("wait until the queue is read", ctx.Err())
	}
}

// pendingFrom are the positions, ascending, of the first tasks of a workload, or
// of a space with "*", from one on.
func (q *Queue) pendingFrom(key flowKey, from uint64, most int) []uint64 {
	l := lowest{most: most, from: from, end: ^uint64(0)}
	q.mu.Lock()
	defer q.mu.Unlock()
	for k, f := range q.flows {
		if k.space != key.space || key.queue != "*" && k.queue != key.queue {
			continue
		}
		for _, lane := range f.lanes {
			if lane == nil {
				continue
			}
			l.addAll(lane.unread.list[lane.unread.head:])
			for _, b := range lane.blocked {
				l.addAll(b.unread.list[b.unread.head:])
			}
		}
	}
	for _, e := range q.entries {
		if e.task.Space == key.space && (key.queue == "*" || queueOf(e.task) == key.queue) {
			l.addAll([]uint64{e.seq})
		}
	}
	return l.sorted()
}

// lowest collects the lowest numbers from one on.
type lowest struct {
	most      int
	from, end uint64 // those from end on are too many
	list      []uint64
}

// addAll adds numbers that ascend.
func (l *lowest) addAll(numbers []uint64) {
	first, _ := slices.BinarySearchFunc(numbers, l.from, cmp.Compare[uint64])
	last, _ := slices.BinarySearchFunc(numbers, l.end, cmp.Compare[uint64])
	if first >= last {
		return
	}
	l.list = append(l.list, numbers[first:min(last, first+l.most)]...)
	if len(l.list) > 2*l.most {
		l.sorted()
	}
}

func (l *lowest) sorted() []uint64 {
	slices.Sort(l.list)
	if l.list = slices.Compact(l.list); len(l.list) > l.most {
		l.end = l.list[l.most]
		l.list = l.list[:l.most]
	}
	return l.list
}
