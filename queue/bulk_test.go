package queue

import (
	"context"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// buryMany buries so many tasks of a workload, every third one for somebody.
func (n *node) buryMany(workload string, count int) {
	n.t.Helper()
	subs := make([]mayfly.Submission, count)
	for i := range subs {
		subs[i] = work(workload)
		subs[i].Retries = mayfly.Retries{Max: 1, Delays: []time.Duration{0}}
		if i%3 == 0 {
			subs[i].Labels = map[string]string{"of": "us"}
		}
	}
	for len(subs) > 0 {
		some := min(MaxBatch, len(subs))
		n.submit(subs[:some]...)
		subs = subs[some:]
	}
	for range 2 * count {
		n.done(n.next(), mayfly.ExitedNonZero)
	}
}

// all goes on until a step has no next one.
func (n *node) all(step func(context.Context, Filter) (Bulk, error), f Filter) (done, steps int) {
	n.t.Helper()
	f.Space = home
	for steps = 1; ; steps++ {
		b, err := step(n.t.Context(), f)
		if err != nil || b.Failed > 0 {
			n.t.Fatalf("%+v, %v", b, err)
		}
		done += b.Done
		if f.After = b.Next; f.After == "" {
			return done, steps
		}
	}
}

func TestBulk(t *testing.T) {
	n := startNode(t)
	n.buryMany("w", 30)
	n.buryMany("v", 6)
	for _, test := range []struct {
		name   string
		step   func(context.Context, Filter) (Bulk, error)
		filter Filter
		want   int
	}{
		{"nobody's", n.PurgeAll, Filter{Labels: map[string]string{"of": "them"}}, 0},
		{"of a workload and a label", n.PurgeAll, Filter{Workload: "w", Labels: map[string]string{"of": "us"}}, 10},
		{"future", n.RetryAll, Filter{Since: time.Now().Add(time.Hour)}, 0},
		{"of a workload", n.RetryAll, Filter{Workload: "v"}, 6},
		{"the rest", n.PurgeAll, Filter{}, 20},
		{"nothing", n.RetryAll, Filter{}, 0},
	} {
		if done, _ := n.all(test.step, test.filter); done != test.want {
			t.Errorf("%s: %d tasks, want %d", test.name, done, test.want)
		}
	}
	for range 6 {
		if g := n.next(); g.Task.Workload != "v" || g.Attempt.Number != 3 {
			t.Errorf("granted %+v", g)
		}
	}
	n.idle()
	for _, f := range []Filter{{Space: home, After: "x"}, {Space: "No Name"}} {
		_, err := n.RetryAll(t.Context(), f)
		want(t, err, mayfly.Invalid)
	}
}

// A step is bounded, and what is buried again meanwhile comes back once.
func TestBulkInSteps(t *testing.T) {
	n := startNode(t)
	count := bulkStep + 10
	n.buryMany("w", count)
	f := Filter{Space: home}
	done := 0
	for steps := 1; ; steps++ {
		b, err := n.RetryAll(t.Context(), f)
		if err != nil || b.Done > bulkStep {
			t.Fatalf("%+v, %v", b, err)
		}
		done += b.Done
		for range 2 * b.Done { // they fail and are retried as often as before
			n.done(n.next(), mayfly.ExitedNonZero)
		}
		if f.After = b.Next; f.After == "" {
			if steps < 2 {
				t.Errorf("%d tasks in %d steps", done, steps)
			}
			break
		}
	}
	if done != count {
		t.Errorf("%d tasks came back, want %d", done, count)
	}
}
