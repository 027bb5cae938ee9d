package queue

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// How the stream is read.
const (
	readMost  = 256         // tasks at once
	readBytes = 4 << 20     // when so many came at once, fewer are asked for the next time
	retryRead = time.Second // after a stream did not answer
)

// wish is what a lane wants to have read.
type wish struct {
	lane      *lane
	sequences []uint64
}

// wantRead queues a lane for the readers, if there is reason to.
func (q *Queue) wantRead(l *lane) {
	enough := len(l.window) >= max(1, l.ahead/4) || l.flow.paused && len(l.window) > 0
	if l.unread.len() == 0 || l.queued || enough && l.urgent == 0 && !l.behind() {
		return
	}
	l.queued = true
	q.toRead = append(q.toRead, l)
	q.readCond.Signal()
}

// readLanes reads lanes on, many at once, until Close.
func (q *Queue) readLanes(ctx context.Context) {
	most := readMost
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for (len(q.toRead) == 0 || q.scanning) && !q.closed {
			q.readCond.Wait()
		}
		if q.closed {
			return
		}
		wishes := q.takeWishes(most)
		q.mu.Unlock()
		size, err := q.readAll(ctx, wishes)
		if size > readBytes {
			most = max(1, most/2)
		} else {
			most = min(2*most, readMost)
		}
		q.mu.Lock()
		if err != nil && ctx.Err() == nil {
			q.log.Error("the queue cannot be read; it is tried again", "error", err)
		}
		for _, w := range wishes {
			if w.lane.queued = false; err == nil {
				q.wantRead(w.lane)
			} else {
				q.addTimer(timer{at: time.Now().Add(retryRead), lane: w.lane})
			}
		}
	}
}

// takeWishes takes lanes from toRead, until they want enough.
func (q *Queue) takeWishes(most int) []wish {
	var list []wish
	for n := 0; n < most && len(q.toRead) > 0; {
		l := q.toRead[0]
		q.toRead[0] = nil
		q.toRead = q.toRead[1:]
		l.ahead = min(q.limit(l), q.readAhead(), max(windowFew, 2*l.ahead))
		w := wish{l, slices.Clone(l.unread.first(min(max(1, l.urgent, l.ahead-len(l.window)), most-n)))}
		l.urgent = 0
		list = append(list, w)
		n += len(w.sequences)
	}
	return list
}

// readAhead is to how many entries a lane is read on: so few where there are many
// workloads, whose tasks share messages, that these are remembered until the
// others are read on too.
func (q *Queue) readAhead() int { return max(windowLeast, windowRead*16/max(16, len(q.flows))) }

// readAll grants wishes. It returns how many bytes that took.
func (q *Queue) readAll(ctx context.Context, wishes []wish) (size int, err error) {
	var want []uint64
	for _, w := range wishes {
		want = append(want, w.sequences...)
	}
	slices.Sort(want)
	list, err := q.tasks.Get(ctx, slices.Compact(want))
	if err != nil {
		return 0, unavailable("read tasks", err)
	}
	tasks, err := q.settleAll(ctx, list)
	if err != nil {
		return 0, err
	}
	found := make(map[uint64][]byte, len(list))
	for _, rec := range list {
		size += len(rec.Data)
		found[rec.Position] = rec.Data
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range wishes {
		for _, seq := range w.sequences {
			w.lane.unread.remove(seq)
			if task, keep := tasks[seq]; keep && q.toTake(task, seq) {
				q.add(w.lane, task, seq, found[seq])
			}
		}
		q.readOn(w.lane)
		q.update(w.lane.flow)
	}
	q.match()
	return size, nil
}

// settleAll returns the tasks of records that are to be done, by position. Those
// that have ended or are elsewhere by now are freed.
func (q *Queue) settleAll(ctx context.Context, list []bus.Record) (map[uint64]mayfly.Task, error) {
	tasks := make(map[uint64]mayfly.Task, len(list))
	var old []mayfly.Task
	for _, rec := range list {
		task, err := readRecord(rec)
		if err != nil {
			q.log.Error("a task that cannot be read is passed over", "task", rec.Key, "error", err)
			q.freed(rec)
			continue
		}
		tasks[rec.Position] = task
		if rec.Position <= q.tasks.Opened() {
			old = append(old, task)
		}
	}
	elsewhere, err := q.elsewhere(ctx, old)
	if err != nil {
		return nil, err
	}
	for _, rec := range list {
		task, there := tasks[rec.Position]
		if !there || !elsewhere[rec.Key] && !later(task) {
			continue
		}
		keep, err := q.settle(ctx, task, rec)
		if err != nil {
			return nil, err
		}
		if !keep {
			delete(tasks, rec.Position)
			q.freed(rec)
		}
	}
	return tasks, nil
}

// freed gives up the record of a task that is elsewhere, unless it is in memory.
func (q *Queue) freed(rec bus.Record) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.entries[rec.Key] == nil && q.tasks.Live(rec.Key, rec.Position) {
		q.tasks.Free(rec.Key, rec.Position)
		q.waiting.add(-1, 0)
	}
}

// elsewhere returns which of the tasks are in another place too, by space and
// id. What it does not name can be elsewhere by now only if something has been
// told of that since.
func (q *Queue) elsewhere(ctx context.Context, tasks []mayfly.Task) (map[string]bool, error) {
	there := map[string]bool{}
	for list := range slices.Chunk(tasks, bus.MaxLast/2) {
		var keys, parked []string
		for _, task := range list {
			keys = append(keys, entryKey(task.Space, task.ID))
			parked = append(parked, deadSubject(task))
			if q.parkedOnce {
				parked = append(parked, laterWherever(task))
			}
		}
		ended, err := q.outcomes.Have(ctx, keys)
		if err != nil {
			return nil, unavailable("look for tasks", err)
		}
		maps.Copy(there, ended)
		msgs, err := q.bus.LastOf(ctx, bus.ParkedStream, parked)
		if err != nil {
			return nil, unavailable("look for tasks", err)
		}
		for _, msg := range msgs {
			if token := strings.Split(msg.Subject, "."); len(token) > 3 {
				there[entryKey(token[1], token[len(token)-1])] = true
			}
		}
	}
	return there, nil
}
