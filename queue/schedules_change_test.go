package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

func TestSchedulesThatAreRefused(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	k.deploy(t, mayfly.Workload{Space: home, Name: "m", Schedules: []mayfly.Schedule{{Cron: "@daily"}}})
	if err := k.Apply(context.Background(), k.workload(t, "m")); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		change func(*mayfly.Schedule)
		want   string
	}{
		{nil, `there is a schedule "s" already; remove it, or replace it`},
		{func(s *mayfly.Schedule) { s.Name = "m" }, `schedule "m" is of the manifest of m; change it there and deploy`},
		{func(s *mayfly.Schedule) { s.Name = "x"; s.Task.Workload = "gone" }, `there is no workload "gone"`},
		{func(s *mayfly.Schedule) { s.Name = "x"; s.Task.Workload = ""; s.Task.Image = "none" }, `none`},
		{func(s *mayfly.Schedule) { s.Name = "x"; s.Cron = "61 * * * *" }, `minute "61"`},
		{func(s *mayfly.Schedule) { s.Name = "x"; s.Cron = ""; s.At = noon }, `schedule x never fires: at 2026-11-21T12:00:00Z is in the past`},
		{func(s *mayfly.Schedule) { s.Name = "x"; s.Task.Priority = 10 }, `schedule x: priority 10`},
		{func(s *mayfly.Schedule) { s.Name = "x"; s.Task.Payload = make([]byte, MaxSchedulePayload+1) }, `has 256001 bytes, and the limit is 256000`},
	}
	for _, c := range cases {
		_, err := k.Add(context.Background(), minutely(c.change), false)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
	list, err := k.List(context.Background(), home, "", 0)
	if err != nil || len(list) != 2 || len(k.all) != 2 {
		t.Errorf("%d schedules, %v", len(list), err)
	}
	k.opts.Max = 2
	if _, err := k.Add(context.Background(), minutely(func(s *mayfly.Schedule) { s.Name = "x" }), false); mayfly.KindOf(err) != mayfly.Busy {
		t.Errorf("one too many: %v", err)
	}
	for _, err := range []error{
		func() error { _, err := k.Get(context.Background(), home, "x", 1); return err }(),
		func() error { _, err := k.Pause(context.Background(), home, "x"); return err }(),
		func() error { _, err := k.RunNow(context.Background(), home, "x"); return err }(),
		k.Remove(context.Background(), home, "x"),
	} {
		if mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("of none: %v", err)
		}
	}
	if err := k.Remove(context.Background(), home, "m"); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("remove one of a manifest: %v", err)
	}
}

func (k *keeper) workload(t testing.TB, name string) mayfly.Workload {
	t.Helper()
	w, err := k.n.store.Workload(home, name)
	if err != nil {
		t.Fatal(err)
	}
	return w.Release.Workload
}

// What is refused when its time comes is tried again within the catch-up window.
func TestATickThatIsRefusedIsTriedAgain(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	w, err := k.n.store.Workload(home, "w")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.n.store.DeleteWorkload(context.Background(), home, "w", w.Revision); err != nil {
		t.Fatal(err)
	}
	k.wait(2)
	got := k.get(t)
	if !strings.Contains(got.Error, `there is no workload "w"`) || got.Count != 0 || !got.Failed.Equal(noon.Add(time.Minute)) {
		t.Errorf("after it was refused: %+v", got)
	}
	k.open(t)
	if after := k.get(t); after.Error != got.Error {
		t.Errorf("after a restart the error is %q", after.Error)
	}
	k.deploy(t, mayfly.Workload{Space: home, Name: "w"})
	k.clock.add(10 * time.Second)
	k.pass(context.Background())
	k.check(t, "1")
	if got := k.get(t); got.Error != "" || got.Count != 1 || got.Skips != 1 {
		t.Errorf("when it was accepted: %+v", got)
	}
}

func TestReplacing(t *testing.T) {
	k := newKeeper(t)
	replace := func(change func(*mayfly.Schedule)) mayfly.Scheduled {
		t.Helper()
		got, err := k.Add(context.Background(), minutely(change), true)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	every := func(s *mayfly.Schedule) { s.Cron, s.Every, s.Times = "", time.Minute, 3 }
	replace(every)
	k.wait(1)
	k.run(t)
	seq := k.lastSeq(t)
	if got := replace(every); got.Count != 1 || !got.Created.Equal(noon) || k.lastSeq(t) != seq {
		t.Errorf("replaced by the same: %+v", got)
	}
	got := replace(func(s *mayfly.Schedule) { every(s); s.Task.Payload = []byte("x") })
	if got.Count != 1 || !got.Created.Equal(noon) {
		t.Errorf("with another payload: %+v", got)
	}
	k.wait(1)
	k.run(t)
	if _, err := k.Pause(context.Background(), home, "s"); err != nil {
		t.Fatal(err)
	}
	got = replace(func(s *mayfly.Schedule) { every(s); s.Times = 1 })
	if got.Count != 0 || !got.Paused || !got.Created.Equal(noon.Add(2*time.Minute)) {
		t.Errorf("with another count: %+v", got)
	}
	if _, err := k.Resume(context.Background(), home, "s"); err != nil {
		t.Fatal(err)
	}
	k.wait(3)
	k.check(t, "1:succeeded 2:succeeded 3")
	if got := k.get(t); !got.Ended || got.Count != 1 || len(got.Next) > 0 {
		t.Errorf("when all were fired: %+v", got)
	}
}

func (k *keeper) lastSeq(t testing.TB) uint64 {
	t.Helper()
	stream, err := k.js.Stream(context.Background(), bus.SchedulesStream)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.LastSeq
}

func TestRunNowIsHeededByTicks(t *testing.T) {
	k := newKeeper(t)
	k.add(t, func(s *mayfly.Schedule) { s.Paused = true })
	for range 2 {
		if _, err := k.RunNow(context.Background(), home, "s"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Resume(context.Background(), home, "s"); err != nil {
		t.Fatal(err)
	}
	k.open(t)
	k.wait(1)
	k.check(t, "now now")
	if got := k.get(t); got.Skips != 1 || got.Count != 0 || got.LastTask != "" {
		t.Errorf("afterwards: %+v", got)
	}
	k.run(t)
	k.run(t)
	k.wait(1)
	k.check(t, "now:succeeded now:succeeded 2")
}

func TestManifest(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	apply := func(list ...mayfly.Schedule) error {
		t.Helper()
		return k.Apply(context.Background(), mayfly.Workload{Space: home, Name: "w", Schedules: list})
	}
	want := func(names ...string) {
		t.Helper()
		list, err := k.List(context.Background(), home, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range list {
			got = append(got, s.Name+" "+s.Cron)
		}
		if !slices.Equal(got, names) {
			t.Errorf("schedules %q; want %q", got, names)
		}
	}
	daily, hourly, bad := mayfly.Schedule{Cron: "@daily"}, mayfly.Schedule{Cron: "@hourly"}, mayfly.Schedule{Cron: "x"}
	named := mayfly.Schedule{Name: "s", Cron: "@daily"}
	if err := apply(daily, hourly); err != nil {
		t.Fatal(err)
	}
	want("s * * * * *", "w @daily", "w-2 @hourly")
	if _, err := k.Pause(context.Background(), home, "w"); err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]mayfly.Schedule{{hourly, bad}, {hourly, named}, {hourly, {Name: "w", Cron: "@daily"}}} {
		if err := apply(list...); err == nil {
			t.Errorf("applied %+v", list)
		}
		want("s * * * * *", "w @daily", "w-2 @hourly")
	}
	if err := apply(hourly); err != nil {
		t.Fatal(err)
	}
	want("s * * * * *", "w @hourly")
	if got, err := k.Get(context.Background(), home, "w", 1); err != nil || !got.Paused || got.Manifest != "w" || got.Task.Workload != "w" {
		t.Errorf("after a deploy: %+v, %v", got, err)
	}
	// A start finds that the release says otherwise.
	k.deploy(t, mayfly.Workload{Space: home, Name: "w", Schedules: []mayfly.Schedule{{Name: "n", Cron: "@daily"}}})
	k.open(t)
	want("n @daily", "s * * * * *")
	k.deploy(t, mayfly.Workload{Space: home, Name: "w"})
	k.open(t)
	want("s * * * * *")
}

func TestNextTicks(t *testing.T) {
	k := newKeeper(t)
	k.add(t, func(s *mayfly.Schedule) { s.Cron, s.TimeZone, s.Times = "0 9 * * *", "Europe/Berlin", 3 })
	got, err := k.Get(context.Background(), home, "s", 10)
	if err != nil || len(got.Next) != 3 || got.Next[0].Format(time.RFC3339) != "2026-11-22T09:00:00+01:00" {
		t.Errorf("next %v, %v", got.Next, err)
	}
}

// TestPagesOfSchedules goes through many by name.
func TestPagesOfSchedules(t *testing.T) {
	k := newKeeper(t)
	for i := range 25 {
		k.add(t, func(s *mayfly.Schedule) { s.Name = fmt.Sprintf("s%02d", i) })
	}
	var names []string
	for after := ""; ; after = names[len(names)-1] {
		page, err := k.List(context.Background(), home, after, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page {
			names = append(names, s.Name)
		}
		if len(page) < 10 {
			break
		}
	}
	if len(names) != 25 || !slices.IsSorted(names) {
		t.Errorf("pages hold %q", names)
	}
}

// Whatever happens, whenever: no tick makes two tasks, none within the window is
// lost but for the overlap policy, and none is fired while it is paused.
func TestSchedulesThroughCrashesPausesAndClocks(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			k := newKeeper(t)
			k.add(t, func(s *mayfly.Schedule) { s.Overlap, s.CatchUp = mayfly.OverlapQueue, 24*time.Hour })
			paused, passed, want := false, noon, []string{}
			for range 60 {
				switch random.IntN(6) {
				case 0: // the process ends between a task and its record
					ctx, die := context.WithCancel(context.Background())
					k.tasks = dying{k.tasks, die}
					k.pass(ctx)
					k.open(t)
				case 1:
					k.clock.add(-time.Duration(random.IntN(50)) * time.Second)
				case 2:
					if k.clock.now().Before(passed) {
						continue // ticks that passed have come to be ahead again
					}
					var err error
					k.pass(context.Background())
					if paused = !paused; paused {
						_, err = k.Pause(context.Background(), home, "s")
					} else {
						_, err = k.Resume(context.Background(), home, "s")
					}
					if err != nil {
						t.Fatal(err)
					}
				default:
					k.clock.add(time.Duration(random.IntN(100)) * time.Second)
					for at := k.clock.now(); passed.Add(time.Minute).Compare(at) <= 0; {
						passed = passed.Add(time.Minute)
						if !paused {
							want = append(want, fmt.Sprint(passed.Sub(noon).Minutes()))
						}
					}
					if paused {
						k.pass(context.Background())
					}
				}
			}
			k.pass(context.Background())
			if _, err := k.Resume(context.Background(), home, "s"); err != nil {
				t.Fatal(err)
			}
			for range want {
				if len(k.queued(t)) > 0 {
					k.run(t)
				}
				k.wakeAll(k.clock.now())
				k.pass(context.Background())
			}
			got := strings.ReplaceAll(k.fired(t), ":succeeded", "")
			if got != strings.Join(want, " ") {
				t.Errorf("fired %s\nwant  %s\n%+v", got, strings.Join(want, " "), k.get(t))
			}
		})
	}
}

func TestTheRunOfTheMachinesClock(t *testing.T) {
	n := startNode(t)
	s, err := OpenSchedules(context.Background(), n.Queue, ScheduleOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	// Added after Run has nothing to wait for.
	want := mayfly.Schedule{Space: home, Name: "s", Every: time.Second, Task: mayfly.Submission{Image: "busybox", Payload: []byte("in")}}
	if _, err := s.Add(ctx, want, false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g := n.next()
		if string(g.Payload) != "in" || g.Task.Labels["mayfly.schedule"] != "s" {
			t.Errorf("granted %+v", g.Task)
		}
		n.done(g, mayfly.Succeeded)
	}
	stop()
	if err := <-ended; err != context.Canceled {
		t.Errorf("run: %v", err)
	}
}

func FuzzDecodeTicks(f *testing.F) {
	whole, _ := json.Marshal(ticks{Change: "a", Tasks: []string{mayfly.NewID()}, Waiting: []time.Time{noon}})
	f.Add(whole)
	f.Add([]byte(`{"since":"2026-11-21T12:00:00Z","tasks":["x"]}`))
	f.Add([]byte(`{"since":"2026-11-21T12:00:00Z","waiting":[1]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeTicks(bus.Message{Subject: "x", Data: data})
		if err == nil && got.Since.IsZero() {
			t.Error("it does not say since when")
		}
	})
}

// TestATickWaitsForRoom: a tick waits for room, and whoever asks is told.
func TestATickWaitsForRoom(t *testing.T) {
	k := newKeeper(t)
	k.add(t, func(s *mayfly.Schedule) { s.Overlap = mayfly.OverlapQueue })
	k.n.opts.MaxTasks = 1
	first := k.n.submit(mayfly.Submission{Workload: "w"})[0]
	k.wait(1)
	if got := k.get(t); !strings.Contains(got.Error, "the task queue is full") || got.Count != 0 {
		t.Errorf("while it is full: %+v", got)
	}
	if _, err := k.n.Cancel(context.Background(), home, first.ID); err != nil {
		t.Fatal(err)
	}
	k.clock.add(time.Second)
	k.pass(context.Background())
	k.check(t, "1")
	if got := k.get(t); got.Error != "" || got.Count != 1 {
		t.Errorf("when there is room: %+v", got)
	}
}

// TestAScheduleThatCannotBeReadHarmsNoOther, and can be removed.
func TestAScheduleThatCannotBeReadHarmsNoOther(t *testing.T) {
	k := newKeeper(t)
	k.add(t, nil)
	for name, text := range map[string]string{"odd": "{", "zone": `{"space":"default","name":"zone","cron":"@daily","tz":"Not/There","since":"2026-01-01T00:00:00Z","task":{"workload":"w"}}`} {
		if _, err := k.js.Publish(context.Background(), bus.ScheduleSubject(home, name), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.js.Publish(context.Background(), bus.TicksSubject(home, "s"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	k.open(t)
	k.wait(1)
	k.check(t, "1")
	for _, name := range []string{"odd", "zone"} {
		if err := k.Remove(context.Background(), home, name); err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
		if err := k.Remove(context.Background(), home, name); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("remove %s again: %v", name, err)
		}
	}
}

// A schedule that was changed and then removed stays so over a crash, and its
// name can be used again.
func TestRemovedSchedulesStayRemoved(t *testing.T) {
	k := newKeeper(t)
	ctx := context.Background()
	k.add(t, func(s *mayfly.Schedule) { s.Name = "other" }) // so that the stream does not begin with it
	for range 5 {
		k.add(t, nil)
		if _, err := k.Pause(ctx, home, "s"); err != nil {
			t.Fatal(err)
		}
		if err := k.Remove(ctx, home, "s"); err != nil {
			t.Fatal(err)
		}
		k.n = k.n.crash(Options{})
		k.open(t)
		if list, err := k.List(ctx, home, "", 0); err != nil || len(list) != 1 {
			t.Fatalf("after the crash there are %d schedules instead of 1, %v", len(list), err)
		}
		want(t, k.Remove(ctx, home, "s"), mayfly.NotFound)
	}
	k.add(t, nil)
	k.get(t)
}
