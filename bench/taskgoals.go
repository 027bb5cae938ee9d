package main

import (
	"fmt"
	"strings"
)

// judgeQueue holds the figures about tasks against the goals.
func (r *Results) judgeQueue() {
	ours := r.tasksOf(mayflyTasks)
	for _, peer := range []string{river, asynq} {
		if best := r.tasksOf(peer); ours > 0 && best > 0 {
			r.atLeast("tasks that do nothing, end to end, one by one by 16 clients: "+peer+"'s", ours, best, "/s")
		}
	}
	if e := r.Enqueue; e != nil {
		r.atLeast("tasks accepted over HTTP, to bare publishes of the same bytes", e.Ratio, 0.5, "of them")
	}
	if len(r.First) == 2 {
		r.atMost("first instruction of a task, p50: 5 ms more than a direct call's", r.First[1].P50, r.First[0].P50+5, "ms")
	}
	r.judgeFlat()
	if n := r.Node; n != nil {
		r.atMost(fmt.Sprintf("start of a node with %d tasks queued", n.Queued), n.Start, 5, "s")
		r.atMost(fmt.Sprintf("stop of a node with %d tasks queued", n.Queued), n.Stop, 2, "s")
	}
	if i := r.Idle; i != nil {
		r.atMost("idle daemon's CPU after all that", i.CPU, 0.5, "% of a core")
	}
}

// flatness is how much more than with few tasks of one workload a task may cost
// that is still said to cost the same.
const flatness = 1.25

func (r *Results) judgeFlat() {
	if len(r.Flat) < 2 {
		return
	}
	few := r.Flat[0]
	for _, l := range r.Flat[1:] {
		if l.Queued >= 100_000 {
			r.atMost(fmt.Sprintf("CPU of a task, %d of %d workloads queued: that with %d of %d", l.Queued, l.Workloads, few.Queued, few.Workloads),
				l.CPU, few.CPU*flatness, "ms")
		}
	}
}

// tasksOf is the best rate of a queue, in all, in whichever way it worked.
func (r *Results) tasksOf(what string) float64 {
	best := 0.0
	for _, l := range r.Tasks {
		if strings.TrimSuffix(l.What, apart) == what {
			best = max(best, l.InAll)
		}
	}
	return best
}
