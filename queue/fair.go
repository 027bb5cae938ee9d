package queue

import (
	"container/heap"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Fair shares, by start-time fair queueing: every space, and in it every
// workload, has a clock that goes on by the time that its tasks run, and whose
// clock is furthest behind is next. Who had nothing to do does not save it up.
const (
	agePerStep = 30 * time.Second      // of waiting is worth a step of priority
	minCharge  = time.Millisecond      // of one task
	firstGuess = 10 * time.Millisecond // of how long a task runs
)

type flowKey struct{ space, queue string }

// space is the workloads of a space that have tasks that may go.
type space struct {
	name  string
	flows flowHeap
	pass  time.Duration // its clock
	vtime time.Duration // clock of the flow that went last
	index int           // in the heap; -1 when it is not there
}

// flow is the queue of one workload.
type flow struct {
	key     flowKey
	space   *space
	lanes   [mayfly.MaxPriority + 1]*lane
	paused  bool
	limits  limits
	bucket  bucket
	keys    map[string]int // granted, by LimitKey
	limited bool           // some task says itself how many of its key may run
	granted int
	told    int           // of its backlog that whoever warms instances knows
	pass    time.Duration // its clock
	usual   time.Duration // how long its tasks run
	index   int           // in the space's heap; -1 when it is not there
}

// flow returns a workload's queue, which is made when it is not known.
func (q *Queue) flow(key flowKey) *flow {
	if f := q.flows[key]; f != nil {
		return f
	}
	s := q.bySpace[key.space]
	if s == nil {
		s = &space{name: key.space, index: -1}
		q.bySpace[key.space] = s
	}
	f := &flow{key: key, space: s, index: -1, usual: firstGuess}
	q.flows[key] = f
	q.setLimits(key)
	return f
}

func (q *Queue) lane(task mayfly.Task) *lane {
	return q.flow(flowKey{task.Space, queueOf(task)}).lane(task.Priority)
}

func (f *flow) lane(priority int) *lane {
	if f.lanes[priority] == nil {
		f.lanes[priority] = &lane{flow: f, priority: priority}
	}
	return f.lanes[priority]
}

// first is the lane whose turn it is, nil when none has anything, or when that
// is not known before one has been read on.
func (f *flow) first() *lane {
	var best *lane
	var when time.Time
	for _, l := range f.lanes {
		if l == nil {
			continue
		}
		if l.behind() {
			return nil
		}
		if len(l.window) == 0 {
			continue
		}
		if t := l.window[0].rank(); best == nil || !t.After(when) {
			best, when = l, t
		}
	}
	return best
}

// rank is the moment since when a task would have waited with priority 0.
func (e *entry) rank() time.Time {
	return e.since.Add(-time.Duration(e.task.Priority) * agePerStep)
}

// update puts a flow into the heaps or takes it out, after any change to it.
func (q *Queue) update(f *flow) {
	q.skipBlocked(f)
	may := !f.paused && (f.limits.concurrency == 0 || f.granted < f.limits.concurrency) && f.first() != nil && q.mayStart(f)
	s := f.space
	switch {
	case may && f.index < 0:
		f.pass = max(f.pass, s.vtime)
		heap.Push(&s.flows, f)
	case may:
		heap.Fix(&s.flows, f.index)
	case f.index >= 0:
		heap.Remove(&s.flows, f.index)
	}
	switch {
	case len(s.flows) > 0 && s.index < 0:
		s.pass = max(s.pass, q.vtime)
		heap.Push(&q.spaces, s)
	case len(s.flows) > 0:
		heap.Fix(&q.spaces, s.index)
	case s.index >= 0:
		heap.Remove(&q.spaces, s.index)
	}
	q.tellBacklog(f)
}

// pick takes the task whose turn it is, nil when there is none.
func (q *Queue) pick() *entry {
	for len(q.spaces) > 0 {
		s := q.spaces[0]
		f := s.flows[0]
		l := f.first()
		if l == nil { // something earlier has to be read since
			q.update(f)
			continue
		}
		q.vtime, s.vtime = s.pass, f.pass
		e := heap.Pop(&l.window).(*entry)
		f.bucket.tokens--
		q.count(e)
		q.charge(f, f.usual)
		q.wantRead(l)
		return e
	}
	return nil
}

// charge moves a flow's clock, and that of its space, on or back.
func (q *Queue) charge(f *flow, d time.Duration) {
	f.pass += d
	f.space.pass += d
	q.update(f)
}

// release ends a grant of an entry whose flow was charged its usual and that ran
// for d.
func (q *Queue) release(e *entry, charged, d time.Duration) {
	f := e.lane.flow
	d = max(d, minCharge)
	q.uncount(e)
	f.usual = max(minCharge, f.usual+(d-f.usual)/8)
	q.charge(f, d-charged)
	q.match()
}

type spaceHeap []*space

func (h spaceHeap) Len() int           { return len(h) }
func (h spaceHeap) Less(i, j int) bool { return h[i].pass < h[j].pass }
func (h spaceHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *spaceHeap) Push(x any)        { x.(*space).index = len(*h); *h = append(*h, x.(*space)) }
func (h *spaceHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	x.index = -1
	return x
}

type flowHeap []*flow

func (h flowHeap) Len() int           { return len(h) }
func (h flowHeap) Less(i, j int) bool { return h[i].pass < h[j].pass }
func (h flowHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *flowHeap) Push(x any)        { x.(*flow).index = len(*h); *h = append(*h, x.(*flow)) }
func (h *flowHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	x.index = -1
	return x
}

// entryHeap is the window of a lane, by sequence.
type entryHeap []*entry

func (h entryHeap) Len() int           { return len(h) }
func (h entryHeap) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h entryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *entryHeap) Push(x any)        { x.(*entry).index = len(*h); *h = append(*h, x.(*entry)) }
func (h *entryHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	x.index = -1
	return x
}
