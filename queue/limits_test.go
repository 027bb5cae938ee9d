package queue

import (
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// started are when tasks were granted.
func (n *node) started(count int) (times []time.Time) {
	n.t.Helper()
	for range count {
		g := n.next()
		times = append(times, g.Attempt.Granted)
		n.done(g, mayfly.Succeeded)
	}
	return times
}

// A burst may start at once; the others start no sooner than the rate says.
func TestRate(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w", Rate: mayfly.Rate{PerSecond: 50, Burst: 3}})
	n.submit(work("w"), work("w"), work("w"), work("w"), work("w"), work("w"), work("w"), work("w"), work("w"))
	times := n.started(9)
	for i, at := range times[3:] {
		if early := time.Duration(i+1)*20*time.Millisecond - rateSlack - at.Sub(times[0]); early > time.Millisecond {
			t.Errorf("start %d came %s too early", i+3, early)
		}
	}
}

// Neither a start of the daemon nor another release brings a burst.
func TestRateOutlivesARestart(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w", Rate: mayfly.Rate{PerSecond: 10, Burst: 2}})
	n.submit(work("w"), work("w"), work("w"), work("w"))
	n.started(2)
	n.deploy(mayfly.Workload{Name: "w", Rate: mayfly.Rate{PerSecond: 20, Burst: 2}})
	n = n.crash(Options{})
	n.start()
	for i, at := range n.started(2) {
		if early := time.Duration(i+1)*50*time.Millisecond - rateSlack - at.Sub(n.since); early > time.Millisecond {
			t.Errorf("start %d came %s too early", i, early)
		}
	}
	n.deploy(mayfly.Workload{Name: "w"})
	n.submit(work("w"), work("w"), work("w"))
	n.started(3)
}

// What waits for its rate holds up nobody else, and a longer wait ends when the
// rate is raised.
func TestRateHoldsUpNobodyElse(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w", Rate: mayfly.Rate{PerSecond: 1e-9}})
	n.submit(work("w"), work("w"), work("v"))
	first, second := n.next(), n.next()
	if first.Task.Workload == second.Task.Workload {
		t.Errorf("granted two of %s", first.Task.Workload)
	}
	n.idle()
	n.deploy(mayfly.Workload{Name: "w", Rate: mayfly.Rate{PerSecond: 1000}})
	n.done(n.next(), mayfly.Succeeded)
}
