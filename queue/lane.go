package queue

import (
	"container/heap"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Bounds on what is held of what is queued.
const (
	windowMax   = 64     // entries of one lane
	windowFew   = 2      // the same, when many are held
	manyEntries = 20_000 // held over all lanes
	maxHeld     = 4 << 10
	soon        = 10 * time.Second // a task that is due by then waits in memory
	farTimers   = 20_000           // timers beyond which nothing more is taken from later
	retryRead   = time.Second      // after a stream did not answer
)

// entry is a task that is known in memory and has not ended.
type entry struct {
	task    mayfly.Task
	seq     uint64
	lane    *lane
	held    bool // payload is here; otherwise it is read when granted
	payload []byte
	grant   *Grant // nil while it waits
	index   int    // in its lane's window; -1 when it is not there
	timed   bool   // among the timers
}

// lane is the tasks of a workload with one priority, in order. What the window
// does not hold is unread: it has the sequence from or a later one.
type lane struct {
	flow     *flow
	priority int
	window   entryHeap
	unread   bool
	from     uint64
	news     bool // something unread has come since the last read began
	queued   bool // in toRead, or being read
	ahead    int  // entries to read on to; doubled each time, so that a start reads little of each lane
}

func (l *lane) subject() string {
	return bus.PendingSubject(l.flow.key.space, l.flow.key.queue, strconv.Itoa(l.priority), "*")
}

// limit is how many entries the lane's window may have now.
func (q *Queue) limit() int {
	if len(q.entries) > manyEntries {
		return windowFew
	}
	return windowMax
}

func entryKey(space, id string) string { return space + "." + id }

// offer tells of a task that was written to pending. Where its lane has unread
// tasks before it, or no room, it is left for the reader.
func (q *Queue) offer(task mayfly.Task, seq uint64, payload []byte) {
	q.flights.last = max(q.flights.last, seq)
	if _, seen := q.known[seq]; seen || q.closed {
		return
	}
	l := q.lane(task)
	if l.unread || len(l.window) >= q.limit() {
		l.leave(seq)
		q.wantRead(l)
		return
	}
	q.add(l, task, seq, payload)
}

// leave marks a task as unread.
func (l *lane) leave(seq uint64) {
	if !l.unread || seq < l.from {
		l.from = seq
	}
	l.unread, l.news = true, true
}

// add takes a task into memory, as one that waits for its turn or its time.
func (q *Queue) add(l *lane, task mayfly.Task, seq uint64, payload []byte) *entry {
	e := &entry{task: task, seq: seq, lane: l, index: -1}
	if len(payload) <= maxHeld {
		e.held, e.payload = true, payload
	}
	q.known[seq] = false
	q.entries[entryKey(task.Space, task.ID)] = e
	q.enqueue(e)
	return e
}

// enqueue lets an entry wait for its turn, or for its time if that comes first.
func (q *Queue) enqueue(e *entry) {
	if time.Now().Before(e.task.NotBefore) {
		e.timed = true
		q.addTimer(timer{at: e.task.NotBefore, entry: e})
		return
	}
	heap.Push(&e.lane.window, e)
	q.update(e.lane.flow)
	q.match()
}

// wantRead queues a lane for the readers, if there is reason to.
func (q *Queue) wantRead(l *lane) {
	if !l.unread || l.queued || l.flow.paused && len(l.window) > 0 || len(l.window) >= max(1, l.ahead/4) {
		return
	}
	l.queued = true
	q.toRead = append(q.toRead, l)
	q.readCond.Signal()
}

// readLanes reads lanes on, one after the other, until Close.
func (q *Queue) readLanes(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for len(q.toRead) == 0 && !q.closed {
			q.readCond.Wait()
		}
		if q.closed {
			return
		}
		l := q.toRead[0]
		q.toRead = q.toRead[1:]
		q.mu.Unlock()
		err := q.readLane(ctx, l)
		q.mu.Lock()
		l.queued = false
		switch {
		case err == nil:
			q.wantRead(l)
		case ctx.Err() == nil:
			q.log.Error("a queue cannot be read; it is tried again", "workload", l.flow.key.queue, "error", err)
			q.addTimer(timer{at: time.Now().Add(retryRead), lane: l})
		}
	}
}

// readLane fills a lane's window.
func (q *Queue) readLane(ctx context.Context, l *lane) error {
	q.mu.Lock()
	l.ahead = min(q.limit(), max(windowFew, 2*l.ahead))
	q.mu.Unlock()
	for {
		q.mu.Lock()
		if !l.unread || len(l.window) >= l.ahead || q.closed {
			q.mu.Unlock()
			return nil
		}
		from := l.from
		l.news = false
		flight := q.flights.begin()
		q.mu.Unlock()
		msg, err := q.bus.Next(ctx, bus.TasksStream, l.subject(), max(from, 1))
		if err == nil {
			err = q.take(ctx, l, msg, from)
		}
		q.mu.Lock()
		q.flights.end(flight)
		if errors.Is(err, bus.ErrNoMessage) {
			l.unread = l.news
			err = nil
		}
		q.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// take takes a message that was read into memory, unless it is known already
// or its task is elsewhere by now.
func (q *Queue) take(ctx context.Context, l *lane, msg bus.Message, from uint64) error {
	q.mu.Lock()
	_, seen := q.known[msg.Sequence]
	q.mu.Unlock()
	keep := false
	var task mayfly.Task
	var err error
	if !seen {
		if task, err = decode(msg); err != nil {
			q.log.Error("a task that cannot be read is passed over", "sequence", msg.Sequence, "error", err)
			err = nil
		} else {
			keep, err = q.settle(ctx, task, msg)
		}
	}
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, seen = q.known[msg.Sequence]; !seen {
		if keep {
			q.add(l, task, msg.Sequence, msg.Data)
		} else {
			q.end(msg.Sequence)
		}
	}
	if l.from >= from { // and nothing earlier was left meanwhile
		l.from = msg.Sequence + 1
	}
	return nil
}
