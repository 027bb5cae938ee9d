package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// tickKills is how often TestKillsLoseNoTick kills the daemon.
const tickKills = 40

// TestKillsLoseNoTick kills the daemon at random moments while ticks are fired.
// Every tick makes one task, also those that passed while there was no daemon.
func TestKillsLoseNoTick(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.shell("mark", `echo tick`, nil)
	var names []string
	for i := range 8 {
		s := mayfly.Schedule{Name: fmt.Sprintf("s%d", i), Every: time.Second, Overlap: mayfly.OverlapSkip, Task: mayfly.Submission{Workload: "mark"}}
		if i%2 > 0 {
			s.Overlap = mayfly.OverlapQueue
		}
		if _, err := n.AddSchedule(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		names = append(names, s.Name)
	}
	for range tickKills {
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		n.kill()
		n.up()
	}
	ticks, skips := 0, 0
	for _, name := range names {
		n.untilTicks(name)
		if _, err := n.PauseSchedule(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		s, err := n.GetSchedule(t.Context(), name, 1)
		if err != nil {
			t.Fatal(err)
		}
		fired := n.ticksOf(name)
		if s.Count != len(fired)+s.Waiting || s.Misses > 0 || s.Error != "" {
			t.Errorf("%s: %d tasks for %+v", name, len(fired), s)
		}
		// The first is a second after it was added. Skipped ones leave gaps.
		last := s.Created.Truncate(time.Second)
		for _, at := range fired {
			if gap := at.Sub(last); gap <= 0 || s.Skips == 0 && gap != time.Second {
				t.Errorf("%s: %v after the one before, at %v", name, gap, at)
			}
			last = at
		}
		if passed := int(last.Sub(s.Created.Truncate(time.Second)) / time.Second); passed > s.Count+s.Skips {
			t.Errorf("%s: %d ticks have passed, %d made tasks and %d were skipped", name, passed, s.Count, s.Skips)
		}
		ticks, skips = ticks+len(fired), skips+s.Skips
	}
	n.stop()
	n.nothingLeft()
	t.Logf("%d kills, %d ticks with a task, %d skipped", tickKills, ticks, skips)
}

// untilTicks waits until this daemon has dealt with a schedule, so that what the
// one before left is done, and some ticks have made a task.
func (n *node) untilTicks(name string) {
	n.t.Helper()
	first := -1
	n.until(name+" ticks", func() bool {
		s, err := n.GetSchedule(n.t.Context(), name, 1)
		if err != nil {
			n.t.Fatal(err)
		}
		passed := s.Count + s.Skips
		if first < 0 {
			first = passed
		}
		return passed > first && s.Count-s.Waiting >= 5 && s.Error == ""
	})
}

// ticksOf returns the times of a schedule's ticks that made tasks, each of which
// has succeeded.
func (n *node) ticksOf(name string) []time.Time {
	n.t.Helper()
	list := func() []mayfly.Task {
		tasks, err := n.ListTasks(n.t.Context(), client.TaskFilter{Labels: map[string]string{"mayfly.schedule": name}, Limit: 10_000})
		if err != nil {
			n.t.Fatal(err)
		}
		return tasks
	}
	for _, task := range list() {
		n.waitTask(task.ID)
	}
	var ticks []time.Time
	for _, task := range list() { // now that none moves any more
		if task.State != mayfly.TaskSucceeded {
			n.t.Errorf("a tick of %s: %+v", name, task)
		}
		at, err := time.Parse(time.RFC3339Nano, task.Labels["mayfly.tick"])
		if err != nil {
			n.t.Fatal(err)
		}
		ticks = append(ticks, at)
	}
	slices.SortFunc(ticks, time.Time.Compare)
	return ticks
}
