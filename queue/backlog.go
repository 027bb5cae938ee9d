package queue

import "time"

// OnBacklog has it told that tasks of a workload wait for nothing but a place, and
// that there are more of them, up to most, than Backlog said last. Whoever is told
// does not wait for anything, nor ask the queue. It is called before Run.
func (q *Queue) OnBacklog(most int, told func(space, workload string)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.backlogMost, q.onBacklog = most, told
}

// Backlog is how many tasks of a workload wait for nothing but a place in which to
// run, and how long the first of them has: neither those that wait for a time or
// for other tasks, nor those that a pause, the concurrency, the rate or a limit by
// key holds back. With such a limit only those are counted that are in memory.
func (q *Queue) Backlog(space, workload string) (n int, age time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.flows[flowKey{space, queueName(workload)}]
	if f == nil {
		return 0, 0
	}
	at := time.Now()
	n, since := f.backlog(at)
	f.told = min(n, q.backlogMost)
	if !since.IsZero() {
		age = max(at.Sub(since), 0)
	}
	return n, age
}

// backlog is what Backlog says. since is zero where that is not in memory.
func (f *flow) backlog(at time.Time) (n int, since time.Time) {
	if f.paused {
		return 0, since
	}
	keyed := f.limited || f.limits.key.Max > 0
	for _, l := range f.lanes {
		if l == nil {
			continue
		}
		if n += len(l.window); !keyed {
			n += l.unread.len()
		}
		if len(l.window) > 0 && (since.IsZero() || l.window[0].since.Before(since)) {
			since = l.window[0].since
		}
	}
	if most := f.limits.concurrency; most > 0 {
		n = min(n, max(most-f.granted, 0))
	}
	if f.limits.rate > 0 {
		n = min(n, int(f.tokens(at)))
	}
	return n, since
}

// tellBacklog tells of a flow's backlog where nobody asks, so that it stays, and
// where it is more than is known.
func (q *Queue) tellBacklog(f *flow) {
	if q.onBacklog == nil || len(q.askers) > 0 || f.index < 0 || f.told >= q.backlogMost || !q.running {
		return
	}
	n, _ := f.backlog(time.Now())
	if n = min(n, q.backlogMost); n > f.told {
		f.told = n
		q.onBacklog(f.key.space, f.key.queue)
	}
}

// tellBacklogs is tellBacklog for all, when the queue begins.
func (q *Queue) tellBacklogs() {
	for _, f := range q.flows {
		q.tellBacklog(f)
	}
}
