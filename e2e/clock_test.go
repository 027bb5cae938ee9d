package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// day is how far the clock is set.
const day = 24 * time.Hour

// setClock sets the machine's clock on or back.
func setClock(t *testing.T, by time.Duration) {
	t.Helper()
	ts := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatal(err)
	}
}

// TestClockSetInside is what e2e/vm's TestClockSet runs in a machine whose clock
// may be set. Whatever was accepted before the clock is set a day on or back
// runs once, no timeout fires before its time, retries come after their delay,
// and only what was to wait for a time of day waits for that.
func TestClockSetInside(t *testing.T) {
	if os.Getenv("MAYFLY_SET_CLOCK") == "" {
		t.Skip("e2e/vm runs this in a machine whose clock may be set")
	}
	n := start(t)
	out := t.TempDir()
	ran := func(w *mayfly.Workload) {
		w.Mounts = []mayfly.Mount{{Type: "bind", Source: out, Target: "/out"}}
	}
	const note = `echo "$MAYFLY_RUN $MAYFLY_ATTEMPT" >>/out/ran; `
	hold := filepath.Join(out, "hold")
	n.shell("fresh", note+"echo done", ran)
	n.shell("slow", note+"while [ -e /out/hold ]; do sleep 0.1; done; echo done", ran)
	n.shell("again", note+`test "$MAYFLY_ATTEMPT" -gt 1 && echo done`, ran)
	n.shell("rated", note+"echo done", func(w *mayfly.Workload) { ran(w); w.Rate = mayfly.Rate{PerSecond: 2} })
	if _, err := n.AddSchedule(t.Context(), mayfly.Schedule{Name: "tick", Every: 2 * time.Second, Task: mayfly.Submission{Workload: "fresh"}}); err != nil {
		t.Fatal(err)
	}
	old := n.waitTask(n.submit(mayfly.Submission{Workload: "fresh"}).ID)

	// batch submits a few of each kind and returns when the slow one runs, which it
	// does until succeed is called.
	batch := func() (ids, later []string) {
		if err := os.WriteFile(hold, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		slow := n.submit(mayfly.Submission{Workload: "slow", Timeout: 5 * time.Minute}).ID
		for range 6 {
			ids = append(ids, n.submit(mayfly.Submission{Workload: "rated"}).ID)
		}
		for _, delay := range []time.Duration{2 * time.Second, 12 * time.Second} { // in memory, and parked
			ids = append(ids, n.submit(mayfly.Submission{Workload: "again", Retries: mayfly.Retries{Max: 3, Delays: []time.Duration{delay}}}).ID)
			later = append(later, n.submit(mayfly.Submission{Workload: "fresh", NotBefore: time.Now().Add(delay + 3*time.Second)}).ID)
		}
		n.untilTask(slow, func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning })
		for _, id := range ids[len(ids)-2:] {
			n.untilTask(id, func(t mayfly.Task) bool { return t.Attempt > 1 })
		}
		return append(ids, slow), later
	}
	succeed := func(when string, ids []string) {
		t.Helper()
		os.Remove(hold)
		for _, id := range ids {
			if task := n.waitTask(id); task.State != mayfly.TaskSucceeded {
				t.Errorf("%s: %+v", when, task)
			}
		}
	}

	ids, later := batch()
	setClock(t, day)
	succeed("set on", append(ids, later...))
	all := append(ids, later...)
	n.ticks("set on")

	ids, later = batch()
	setClock(t, -day)
	succeed("set back", ids)
	n.ticks("set back")
	for _, id := range later {
		task, err := n.GetTask(t.Context(), id)
		if ended := task.State.Ended() && task.Ended.After(time.Now()); err != nil || task.State != mayfly.TaskQueued && !ended { // before the clock was set
			t.Errorf("its time is tomorrow: %+v, %v", task, err)
		}
	}
	all = append(append(all, ids...), later...)

	// The daemon is killed while the clock is wrong.
	begun := func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning || t.State == mayfly.TaskTimedOut }
	ids, _ = batch()
	hangs := n.submit(mayfly.Submission{Image: "app", Argv: []string{"sleep", "1000"}, Timeout: 5 * time.Second}).ID
	n.untilTask(hangs, begun)
	n.kill()
	setClock(t, day)
	n.up()
	succeed("killed and set on", append(ids, later...))
	all = append(all, ids...)
	if task := n.waitTask(hangs); task.State != mayfly.TaskTimedOut || task.Attempt != 1 {
		t.Errorf("%+v", task)
	}
	hangs = n.submit(mayfly.Submission{Image: "app", Argv: []string{"sleep", "1000"}, Timeout: 5 * time.Second}).ID
	n.untilTask(hangs, begun)
	n.kill()
	setClock(t, -day)
	n.up()
	if task := n.waitTask(hangs); task.State != mayfly.TaskTimedOut || task.Attempt != 1 {
		t.Errorf("%+v", task)
	}
	n.ticks("killed and set back")

	if task, err := n.GetTask(t.Context(), old.ID); err != nil || !task.Ended.Equal(old.Ended) {
		t.Errorf("the oldest outcome: %+v, %v", task, err)
	}
	times := runsOf(t, filepath.Join(out, "ran"))
	for attempt, count := range times {
		if count > 1 {
			id, _, _ := strings.Cut(attempt, " ")
			task, _ := n.GetTask(t.Context(), id)
			t.Errorf("attempt %s ran %d times: %+v", attempt, count, task)
		}
	}
	for _, id := range all {
		if times[id+" 1"] != 1 {
			t.Errorf("task %s has an outcome and did not run", id)
		}
	}
}

// ticks waits for two more ticks of the schedule.
func (n *node) ticks(when string) {
	n.t.Helper()
	before, err := n.GetSchedule(n.t.Context(), "tick", 0)
	if err != nil {
		n.t.Fatal(err)
	}
	for limit := time.After(patience); ; {
		s, err := n.GetSchedule(n.t.Context(), "tick", 0)
		if err != nil {
			n.t.Fatal(err)
		}
		if s.Count >= before.Count+2 {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-limit:
			n.t.Errorf("%s: the schedule is silent: %+v", when, s)
			return
		}
	}
}
