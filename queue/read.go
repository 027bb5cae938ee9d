package queue

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// How the stream is read.
const (
	readMost  = 256         // messages at once
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
		for len(q.toRead) == 0 && len(q.toAsk) == 0 && !q.closed {
			q.readCond.Wait()
		}
		if q.closed {
			return
		}
		if len(q.toAsk) > 0 {
			q.askLane(ctx)
			continue
		}
		wishes := q.takeWishes(most)
		flight := q.flights.begin()
		q.mu.Unlock()
		size, err := q.readAll(ctx, wishes)
		if size > readBytes {
			most = max(1, most/2)
		} else {
			most = min(2*most, readMost)
		}
		q.mu.Lock()
		q.flights.end(flight)
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
		l.ahead = min(q.limit(l), windowRead, max(windowFew, 2*l.ahead))
		w := wish{l, slices.Clone(l.unread.first(min(max(1, l.urgent, l.ahead-len(l.window)), most-n)))}
		l.urgent = 0
		list = append(list, w)
		n += len(w.sequences)
	}
	return list
}

// readAll grants wishes. It returns how many bytes that took.
func (q *Queue) readAll(ctx context.Context, wishes []wish) (size int, err error) {
	var want []uint64
	for _, w := range wishes {
		want = append(want, w.sequences...)
	}
	slices.Sort(want)
	msgs, err := q.bus.Get(ctx, bus.TasksStream, slices.Compact(want))
	if err != nil {
		return 0, unavailable("read tasks", err)
	}
	tasks, ended, err := q.settleAll(ctx, msgs)
	if err != nil {
		return 0, err
	}
	found := make(map[uint64]bus.Message, len(msgs))
	for _, msg := range msgs {
		size += len(msg.Data)
		found[msg.Sequence] = msg
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range wishes {
		for _, seq := range w.sequences {
			w.lane.unread.remove(seq)
			_, seen := q.known[seq]
			task, keep := tasks[seq]
			switch {
			case seen || seq < q.tidied:
			case keep:
				q.add(w.lane, task, seq, found[seq].Data)
			case ended[seq]:
				q.end(seq)
			}
		}
		q.readOn(w.lane)
		q.update(w.lane.flow)
	}
	q.match()
	return size, nil
}

// settleAll returns the tasks of messages that are to be done, by sequence, and
// which of the others have ended or are elsewhere by now.
func (q *Queue) settleAll(ctx context.Context, msgs []bus.Message) (tasks map[uint64]mayfly.Task, ended map[uint64]bool, err error) {
	tasks, ended = make(map[uint64]mayfly.Task, len(msgs)), map[uint64]bool{}
	var old []mayfly.Task
	for _, msg := range msgs {
		q.mu.Lock()
		_, seen := q.known[msg.Sequence]
		q.mu.Unlock()
		if seen {
			continue
		}
		task, err := decode(msg)
		if err != nil {
			q.log.Error("a task that cannot be read is passed over", "sequence", msg.Sequence, "error", err)
			ended[msg.Sequence] = true
			continue
		}
		tasks[msg.Sequence] = task
		if msg.Sequence <= q.opened {
			old = append(old, task)
		}
	}
	elsewhere, err := q.elsewhere(ctx, old)
	if err != nil {
		return nil, nil, err
	}
	for _, msg := range msgs {
		task, there := tasks[msg.Sequence]
		if !there || !elsewhere[entryKey(task.Space, task.ID)] && !later(task) {
			continue
		}
		keep, err := q.settle(ctx, task, msg)
		if err != nil {
			return nil, nil, err
		}
		if !keep {
			delete(tasks, msg.Sequence)
			ended[msg.Sequence] = true
		}
	}
	return tasks, ended, nil
}

// elsewhere returns which of the tasks are in another place too, by space and
// id. What it does not name can be elsewhere by now only if something has been
// told of that since.
func (q *Queue) elsewhere(ctx context.Context, tasks []mayfly.Task) (map[string]bool, error) {
	there := map[string]bool{}
	for list := range slices.Chunk(tasks, bus.MaxLast/2) {
		var ended, parked []string
		for _, task := range list {
			ended = append(ended, bus.OutcomeSubject(task.Space, task.ID))
			parked = append(parked, deadSubject(task))
			if q.parkedOnce {
				parked = append(parked, laterWherever(task))
			}
		}
		msgs, err := q.bus.LastOf(ctx, bus.OutcomesStream, ended)
		if err == nil {
			var more []bus.Message
			more, err = q.bus.LastOf(ctx, bus.ParkedStream, parked)
			msgs = append(msgs, more...)
		}
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
