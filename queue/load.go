package queue

import "time"

// Load is what the queue of a workload has to do just now: tasks that wait for
// their turn, tasks that run, and how long the first of those has waited that are
// in memory, which are the first to go.
func (q *Queue) Load(space, workload string) (queued, running int, age time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.flows[flowKey{space, queueName(workload)}]
	if f == nil {
		return 0, 0, 0
	}
	var first time.Time
	look := func(window entryHeap) {
		for _, e := range window {
			if first.IsZero() || e.since.Before(first) {
				first = e.since
			}
		}
	}
	for _, l := range f.lanes {
		if l == nil {
			continue
		}
		queued += len(l.window) + l.unread.len()
		for _, b := range l.blocked {
			queued += len(b.window) + b.unread.len()
			look(b.window)
		}
		look(l.window)
	}
	if !first.IsZero() {
		age = max(time.Since(first), 0)
	}
	return queued, f.granted, age
}
