package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/schedule"
)

// wallClock is a clock that tests set.
type wallClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *wallClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// keeper is the schedules of a node, and the clock that they go by.
type keeper struct {
	*Schedules
	n     *node
	clock *wallClock
}

// newKeeper opens schedules beside a workload "w".
func newKeeper(t testing.TB) *keeper {
	t.Helper()
	n := startNode(t)
	k := &keeper{n: n, clock: &wallClock{at: noon}}
	k.deploy(t, mayfly.Workload{Space: home, Name: "w"})
	k.open(t)
	return k
}

// open begins anew, as after a restart.
func (k *keeper) open(t testing.TB) {
	t.Helper()
	var err error
	if k.Schedules, err = OpenSchedules(context.Background(), k.n.Queue, ScheduleOptions{Now: k.clock.now}); err != nil {
		t.Fatal(err)
	}
}

func (k *keeper) deploy(t testing.TB, w mayfly.Workload) {
	t.Helper()
	rel, err := k.n.store.PutRelease(context.Background(), w, "sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	var seen uint64
	if old, err := k.n.store.Workload(w.Space, w.Name); err == nil {
		seen = old.Revision
	}
	if _, err = k.n.store.SetWorkload(context.Background(), w.Space, w.Name, rel.Number, seen); err != nil {
		t.Fatal(err)
	}
}

func minutely(change func(*mayfly.Schedule)) mayfly.Schedule {
	s := mayfly.Schedule{Space: home, Name: "s", Cron: "* * * * *", Task: mayfly.Submission{Workload: "w"}}
	if change != nil {
		change(&s)
	}
	return s
}

func (k *keeper) add(t testing.TB, change func(*mayfly.Schedule)) {
	t.Helper()
	if _, err := k.Add(context.Background(), minutely(change), false); err != nil {
		t.Fatal(err)
	}
}

// wait lets minutes pass, each with a look at what is due.
func (k *keeper) wait(minutes int) {
	for range minutes {
		k.clock.add(time.Minute)
		k.pass(context.Background())
	}
}

func (k *keeper) get(t testing.TB) mayfly.Scheduled {
	t.Helper()
	got, err := k.Get(context.Background(), home, "s", 1)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// ticks are the minutes after noon of the ticks that made a task, in the order
// of the tasks, with the state of each task that is not queued.
func (k *keeper) fired(t testing.TB) string {
	t.Helper()
	page, err := k.n.List(context.Background(), Filter{Space: home, Labels: map[string]string{schedule.Label: "s"}, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(page.Tasks, func(a, b mayfly.Task) int {
		return strings.Compare(a.Labels[schedule.TickLabel], b.Labels[schedule.TickLabel])
	})
	var all []string
	for _, task := range page.Tasks {
		text := "now"
		if label := task.Labels[schedule.TickLabel]; label != "" {
			at, err := time.Parse(time.RFC3339Nano, label)
			if err != nil {
				t.Fatal(err)
			}
			text = fmt.Sprint(at.Sub(noon).Minutes())
		}
		if task.State != mayfly.TaskQueued {
			text += ":" + string(task.State)
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func (k *keeper) check(t testing.TB, want string) {
	t.Helper()
	if got := k.fired(t); got != want {
		t.Errorf("ticks with a task: %q; want %q", got, want)
	}
}

// run runs the first task that is queued.
func (k *keeper) run(t testing.TB) {
	t.Helper()
	k.n.done(k.n.next(), mayfly.Succeeded)
}

func TestEachTickIsATask(t *testing.T) {
	cases := []struct {
		name    string
		change  func(*mayfly.Schedule)
		minutes int
		want    string
	}{
		{"cron", nil, 3, "1 2 3"},
		{"every", func(s *mayfly.Schedule) { s.Cron, s.Every = "", 2*time.Minute }, 5, "2 4"},
		{"at", func(s *mayfly.Schedule) { s.Cron, s.At = "", noon.Add(2*time.Minute) }, 5, "2"},
		{"start and end", func(s *mayfly.Schedule) { s.Start, s.End = noon.Add(2*time.Minute), noon.Add(4*time.Minute) }, 6, "2 3 4"},
		{"at most twice", func(s *mayfly.Schedule) { s.Times = 2 }, 5, "1 2"},
		{"added paused", func(s *mayfly.Schedule) { s.Paused = true }, 3, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			k := newKeeper(t)
			k.add(t, func(s *mayfly.Schedule) {
				if c.change != nil {
					c.change(s)
				}
			})
			for range c.minutes {
				k.wait(1)
				if len(k.queued(t)) > 0 {
					k.run(t)
				}
			}
			if got := strings.ReplaceAll(k.fired(t), ":succeeded", ""); got != c.want {
				t.Errorf("fired %q; want %q", got, c.want)
			}
		})
	}
}

func TestOverlap(t *testing.T) {
	for policy, want := range map[mayfly.Overlap][3]string{
		mayfly.OverlapSkip:    {"1", "1:succeeded 4", "skips 2"},
		mayfly.OverlapQueue:   {"1", "1:succeeded 2", "waiting 2"},
		mayfly.OverlapReplace: {"1:cancelled 2:cancelled 3", "1:cancelled 2:cancelled 3:succeeded 4", ""},
	} {
		t.Run(string(policy), func(t *testing.T) {
			k := newKeeper(t)
			k.add(t, func(s *mayfly.Schedule) { s.Overlap = policy })
			k.wait(3)
			k.check(t, want[0])
			k.run(t)
			k.wait(1)
			k.check(t, want[1])
			got := k.get(t)
			text := ""
			if got.Skips > 0 {
				text = fmt.Sprintf("skips %d", got.Skips)
			} else if got.Waiting > 0 {
				text = fmt.Sprintf("waiting %d", got.Waiting)
			}
			if text != want[2] {
				t.Errorf("then %q; want %q", text, want[2])
			}
		})
	}
}

// A tick that waits for the task of an earlier one goes as soon as that ends,
// whatever its schedule's next time is, and over a restart.
func TestQueuedTicksFollowEachOther(t *testing.T) {
	k := newKeeper(t)
	k.add(t, func(s *mayfly.Schedule) { s.Overlap = mayfly.OverlapQueue })
	k.wait(3)
	k.open(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	for range 3 {
		k.run(t)
	}
	for k.get(t).Waiting > 0 { // that the last one was fired is written down after its task
		time.Sleep(time.Millisecond)
	}
	stop()
	<-ended
	k.check(t, "1:succeeded 2:succeeded 3:succeeded")
	if got := k.get(t); got.Waiting != 0 || got.Count != 3 {
		t.Errorf("%d wait, %d were fired; want 0 and 3", got.Waiting, got.Count)
	}
}

// dying is a queue whose process ends as soon as it has accepted a task.
type dying struct {
	tasks
	die func()
}

func (d dying) Submit(ctx context.Context, subs []mayfly.Submission) []Accepted {
	defer d.die()
	return d.tasks.Submit(ctx, subs)
}

func TestACrashBetweenTaskAndRecordRepeatsNothing(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	ctx, die := context.WithCancel(context.Background())
	k.tasks = dying{k.tasks, die}
	k.clock.add(time.Minute)
	k.pass(ctx)
	k.check(t, "1")
	if got := k.get(t); got.Count != 0 {
		t.Fatalf("the tick was recorded")
	}
	k.open(t)
	k.pass(context.Background())
	k.check(t, "1")
	if got := k.get(t); got.Count != 1 || got.LastTask == "" {
		t.Errorf("afterwards %+v", got)
	}
	// The same when the task has ended meanwhile.
	k.run(t)
	ctx, die = context.WithCancel(context.Background())
	k.tasks = dying{k.tasks, die}
	k.clock.add(time.Minute)
	k.pass(ctx)
	k.run(t)
	k.open(t)
	k.pass(context.Background())
	k.check(t, "1:succeeded 2:succeeded")
}

func TestTwoLeadersFireEachTickOnce(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	var leaders []*Schedules
	for range 2 {
		s, err := OpenSchedules(context.Background(), k.n.Queue, ScheduleOptions{Now: k.clock.now})
		if err != nil {
			t.Fatal(err)
		}
		leaders = append(leaders, s)
	}
	var want []string
	for i := range 30 {
		k.clock.add(time.Minute)
		var both sync.WaitGroup
		for _, s := range leaders {
			both.Go(func() { s.pass(context.Background()) })
		}
		both.Wait()
		if _, err := k.n.Cancel(context.Background(), home, k.get(t).LastTask); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%d:cancelled", i+1))
	}
	k.check(t, strings.Join(want, " "))
	if got := k.get(t); got.Count != 30 || got.Skips != 0 {
		t.Errorf("recorded: %d fired, %d skipped", got.Count, got.Skips)
	}
}

func TestALeaderFollowsWhatAnotherHasChanged(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	k.add(t, func(s *mayfly.Schedule) { s.Name = "t" })
	old := k.Schedules
	k.open(t)
	ctx := context.Background()
	if _, err := k.Pause(ctx, home, "s"); err != nil {
		t.Fatal(err)
	}
	if err := k.Remove(ctx, home, "t"); err != nil {
		t.Fatal(err)
	}
	k.clock.add(time.Minute)
	old.pass(ctx)
	if len(k.queued(t)) > 0 {
		t.Error("the leader before fired what was paused and removed")
	}
	if len(old.all) != 1 {
		t.Error("a schedule that was removed is held")
	}
}

func TestDowntime(t *testing.T) {
	cases := []struct {
		name   string
		change func(*mayfly.Schedule)
		away   int
		want   string
		misses int
	}{
		{"within the window", nil, 3, "1 2 3", 0},
		{"beyond the window", nil, 20, "15 16 17 18 19 20", 14},
		{"a window of two minutes", func(s *mayfly.Schedule) { s.CatchUp = 2 * time.Minute }, 20, "18 19 20", 17},
		{"at is never too late", func(s *mayfly.Schedule) { s.Cron, s.At = "", noon.Add(time.Minute) }, 5000, "1", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			k := newKeeper(t)
			k.add(t, func(s *mayfly.Schedule) {
				s.Overlap = mayfly.OverlapQueue
				if c.change != nil {
					c.change(s)
				}
			})
			k.clock.add(time.Duration(c.away) * time.Minute)
			k.open(t)
			k.pass(context.Background())
			for left := k.get(t).Waiting; left > 0; left-- {
				k.run(t)
				k.pass(context.Background())
			}
			if got := strings.ReplaceAll(k.fired(t), ":succeeded", ""); got != c.want {
				t.Errorf("fired %q; want %q", got, c.want)
			}
			if got := k.get(t); got.Misses != c.misses {
				t.Errorf("%d misses; want %d", got.Misses, c.misses)
			}
		})
	}
}

func TestAPauseIsNotCaughtUp(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	ctx := context.Background()
	if _, err := k.Pause(ctx, home, "s"); err != nil {
		t.Fatal(err)
	}
	k.wait(2)
	k.clock.add(time.Minute) // a downtime
	k.open(t)
	if !k.get(t).Paused || len(k.get(t).Next) > 0 {
		t.Errorf("after a restart: %+v", k.get(t))
	}
	k.pass(ctx)
	if _, err := k.Resume(ctx, home, "s"); err != nil {
		t.Fatal(err)
	}
	k.pass(ctx)
	k.check(t, "")
	k.wait(1)
	k.check(t, "4")
}

func TestAClockThatIsSet(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	fire := func(minutes int, want string) {
		t.Helper()
		for range minutes {
			k.wait(1)
			for len(k.queued(t)) > 0 {
				k.run(t)
				k.pass(context.Background())
			}
		}
		if got := strings.ReplaceAll(k.fired(t), ":succeeded", ""); got != want {
			t.Errorf("fired %q; want %q", got, want)
		}
	}
	fire(2, "1 2")
	k.clock.add(-90 * time.Second) // nothing again
	fire(1, "1 2")
	fire(1, "1 2")
	fire(1, "1 2 3")
	count := k.get(t).Count
	k.clock.add(365 * 24 * time.Hour) // a wrong time, for a while
	k.pass(context.Background())
	k.wait(1)
	k.run(t)
	k.clock.add(-365*24*time.Hour - time.Minute)
	k.pass(context.Background())
	k.wait(2)
	got := strings.ReplaceAll(k.fired(t), ":succeeded", "")
	if !strings.HasPrefix(got, "1 2 3 4 ") {
		t.Errorf("after a year that was none: %q", got)
	}
	if fired := len(strings.Fields(got)); k.get(t).Count != fired {
		t.Errorf("%d ticks made tasks, and %d are counted, %d before", fired, k.get(t).Count, count)
	}
}

func (k *keeper) queued(t testing.TB) []mayfly.Task {
	t.Helper()
	page, err := k.n.List(context.Background(), Filter{Space: home, States: []mayfly.TaskState{mayfly.TaskQueued}})
	if err != nil {
		t.Fatal(err)
	}
	return page.Tasks
}
