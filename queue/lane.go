package queue

import (
	"container/heap"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Bounds on what is held of what is queued.
const (
	windowFew    = 2                // entries of any lane
	windowPaused = 64               // of one whose queue is paused
	windowRead   = 512              // that are read on to
	windowLeast  = 8                // the same, with very many workloads
	manyEntries  = 40_000           // over all lanes; each takes up to half of what is left
	maxHeld      = 4 << 10          // bytes of a payload that is held
	maxAllHeld   = 64 << 20         // bytes of all of them
	lookAgain    = 10 * time.Second // at the wall clock, which may be set
	soon         = 10 * time.Second // a task that is due by then waits in memory
	farTimers    = 20_000           // timers beyond which nothing more is taken from later
)

// entry is a task that is known in memory and has not ended.
type entry struct {
	task    mayfly.Task
	seq     uint64
	lane    *lane
	held    bool // payload is here; otherwise it is read when granted
	counted bool // among what is held
	payload []byte
	grant   *Grant    // nil while it waits
	index   int       // in its lane's window, or that of what is blocked; -1 when it is not there
	timed   bool      // among the timers
	blocked *blocked  // what it is in, nil when it is in none
	since   time.Time // as if it had waited from then on; it has been in the window
	due     time.Time // of a retry, once it waits for that
}

// lane is the tasks of a workload with one priority, in order: those in memory,
// and after them those that are not.
type lane struct {
	flow     *flow
	priority int
	window   entryHeap
	unread   sequences
	blocked  map[string]*blocked // by LimitKey
	queued   bool                // in toRead, or being read
	urgent   int                 // that are to be read whatever the window has
	ahead    int                 // entries to read on to; doubled each time, so that a start reads little of each lane
}

// limit is how many entries the lane's window may have now.
func (q *Queue) limit(l *lane) int {
	n := (q.most - len(q.entries)) / 2
	if l.flow.paused {
		n = min(n, windowPaused)
	}
	return max(n, windowFew)
}

// behind reports whether what comes next in the lane has to be read first.
func (l *lane) behind() bool {
	return l.unread.len() > 0 && (len(l.window) == 0 || l.unread.first(1)[0] < l.window[0].seq)
}

func entryKey(space, id string) string { return space + "." + id }

// offer tells of a task that was written to pending. Where its lane has unread
// tasks before it, or no room, it is left for the readers.
func (q *Queue) offer(task mayfly.Task, seq uint64, payload []byte) {
	if q.closed || !q.toTake(task, seq) {
		return
	}
	l := q.lane(task)
	if q.scanning || l.unread.len() > 0 || len(l.window) >= q.limit(l) {
		q.leave(l, seq)
		return
	}
	q.add(l, task, seq, payload)
}

// toTake reports whether a task that is at a place is to be taken into memory.
func (q *Queue) toTake(task mayfly.Task, seq uint64) bool {
	key := entryKey(task.Space, task.ID)
	return q.entries[key] == nil && !q.claimed[key] && q.tasks.Live(key, seq)
}

// leave leaves a task for the readers.
func (q *Queue) leave(l *lane, seq uint64) {
	if q.scanning {
		q.arrivals = append(q.arrivals, arrival{l, seq})
		return
	}
	l.unread.insert(seq)
	q.update(l.flow)
	q.wantRead(l)
}

// add takes a task into memory, as one that waits for its turn or its time.
func (q *Queue) add(l *lane, task mayfly.Task, seq uint64, payload []byte) *entry {
	e := &entry{task: task, seq: seq, lane: l, index: -1}
	l.flow.limited = l.flow.limited || task.LimitMax > 0
	if len(payload) <= maxHeld && q.held < maxAllHeld {
		e.held, e.counted, e.payload = true, true, payload
		q.held += len(payload)
	}
	q.entries[entryKey(task.Space, task.ID)] = e
	q.enqueue(e)
	return e
}

// drop takes an entry out of memory.
func (q *Queue) drop(e *entry) {
	if key := entryKey(e.task.Space, e.task.ID); q.entries[key] == e {
		delete(q.entries, key)
	}
	if e.counted {
		q.held -= len(e.payload)
		e.counted = false
	}
}

// wait is how long an entry is to wait for its time. The wall clock says, but a
// retry waits no longer than its delay when that clock is set back.
func (e *entry) wait(at time.Time) time.Duration {
	wait := e.task.NotBefore.Sub(at)
	if n := len(e.task.Attempts); e.task.Attempt > 1 && n > 0 && wait > 0 {
		if e.due.IsZero() {
			if delay := e.task.NotBefore.Sub(e.task.Attempts[n-1].Ended); delay >= 0 {
				wait = min(wait, delay)
			}
			e.due = at.Add(wait)
		}
		wait = min(wait, e.due.Sub(at))
	}
	return wait
}

// enqueue lets an entry wait for its turn, or for its time if that comes first.
func (q *Queue) enqueue(e *entry) {
	at := time.Now()
	if wait := e.wait(at); wait > 0 {
		e.timed = true
		q.addTimer(timer{at: at.Add(min(wait, lookAgain)), entry: e})
		return
	}
	e.since = at.Add(-max(0, at.Sub(e.task.Accepted)))
	if waited := at.Sub(e.task.NotBefore); !e.task.NotBefore.IsZero() && waited < at.Sub(e.since) {
		e.since = at.Add(-max(0, waited))
	}
	heap.Push(&e.lane.window, e)
	q.update(e.lane.flow)
	q.match()
}
