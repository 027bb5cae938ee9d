package queue

import (
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// What a task waits for is a time of day; what a retry waits for is a delay,
// wherever the clock is set meanwhile.
func TestWait(t *testing.T) {
	at := time.Now()
	const day = 24 * time.Hour
	retry := func(ended, delay time.Duration) mayfly.Task {
		return mayfly.Task{Attempt: 2, NotBefore: wall(at.Add(ended + delay)), Attempts: []mayfly.Attempt{{Number: 1, Ended: wall(at.Add(ended))}}}
	}
	for _, test := range []struct {
		name string
		task mayfly.Task
		want time.Duration
	}{
		{"at once", mayfly.Task{Attempt: 1}, 0},
		{"a time of day", mayfly.Task{Attempt: 1, NotBefore: wall(at.Add(time.Hour))}, time.Hour},
		{"the same, the clock being set back", mayfly.Task{Attempt: 1, NotBefore: wall(at.Add(day))}, day},
		{"a time that has passed", mayfly.Task{Attempt: 1, NotBefore: wall(at.Add(-day))}, 0},
		{"a retry", retry(-time.Second, 5*time.Second), 4 * time.Second},
		{"a retry, the clock being set on", retry(-day, 5*time.Second), 0},
		{"a retry, the clock being set back", retry(day, 5*time.Second), 5 * time.Second},
	} {
		e := &entry{task: test.task}
		if got := max(0, e.wait(at)).Round(time.Millisecond); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
		// What is left of a delay goes on with the time that passes.
		if left := e.wait(at.Add(10 * time.Second)); test.task.Attempt == 2 && left > 0 {
			t.Errorf("%s: %v after ten seconds", test.name, left)
		}
	}
}

// A retry that was put off is not undone by a crash: the server may then bring
// back the message of an earlier attempt, which the later one had replaced.
func TestPutOffRetryAfterCrash(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w"})
	n.deploy(mayfly.Workload{Name: "paused"})
	if err := n.Pause(t.Context(), home, "paused"); err != nil {
		t.Fatal(err)
	}
	n.submit(mayfly.Submission{Workload: "paused"}) // keeps what follows from being removed all at once
	id := n.submit(mayfly.Submission{Workload: "w", Retries: mayfly.Retries{Max: 3, Delays: []time.Duration{0, time.Hour}}})[0].ID
	for range 2 {
		n.done(n.next(), mayfly.ExitedNonZero)
	}
	last := n.submit(mayfly.Submission{Workload: "w"})[0].ID
	n = n.crash(Options{})
	n.start()
	if g := n.next(); g.Task.ID != last {
		t.Errorf("granted task %s at attempt %d, want %s", g.Task.ID, g.Task.Attempt, last)
	}
	task, err := n.Get(t.Context(), home, id)
	if err != nil || task.Attempt != 3 || task.State != mayfly.TaskQueued {
		t.Errorf("%+v, %v", task, err)
	}
}
