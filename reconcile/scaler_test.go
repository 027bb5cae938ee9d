package reconcile

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/scale"
)

func TestDecide(t *testing.T) {
	now := time.Unix(10_000, 0)
	long := now.Add(-time.Hour)
	b := scale.Bounds{Max: 5, Each: 10, Idle: time.Minute}
	load := func(inFlight, waiting int) scale.Load { return scale.Load{InFlight: inFlight, Waiting: waiting} }
	for _, test := range []struct {
		name   string
		before int
		needed scale.Needed
		from   time.Time
		want   int
		due    time.Duration // from now; 0: never
	}{
		{"asleep", 0, scale.Needed{}, long, 0, 0},
		{"the first request", 0, scale.Needed{Load: load(0, 1), Held: 1}, long, 1, time.Second},
		{"a request under way", 1, scale.Needed{Load: load(1, 0), Held: 1}, long, 1, time.Minute},
		{"the last one was ten seconds ago", 1, scale.Needed{Held: 1, Until: now.Add(-10 * time.Second)}, long, 1, 50 * time.Second},
		{"the last one was a minute ago", 1, scale.Needed{}, long, 0, 0},
		{"a burst beyond the most", 1, scale.Needed{Load: load(10, 200), Held: 21}, long, 5, time.Minute},
		{"a daemon that has seen nothing yet", 4, scale.Needed{}, now.Add(-20 * time.Second), 4, 40 * time.Second},
		{"one that wakes as it began", 0, scale.Needed{Load: load(0, 1), Held: 1}, now, 1, time.Second},
	} {
		got, due := decide(b, scale.State{Count: test.before}, test.needed, test.from, now)
		if got.Count != test.want || due.IsZero() != (test.due == 0) || test.due != 0 && !due.Equal(now.Add(test.due)) {
			t.Errorf("%s: %d, due %v", test.name, got.Count, due.Sub(now))
		}
	}
}

// asked is a router of which a test says what it has to do.
type asked struct {
	mu     sync.Mutex
	needed scale.Needed
	known  int // instances that it was told of last
}

func (a *asked) Needed(_, _ string, _ time.Duration, decide func(scale.Needed) int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = decide(a.needed)
}

func (a *asked) set(n scale.Needed) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.needed = n
}

func TestAServiceWakesIsScaledAndSleeps(t *testing.T) {
	s := openStore(t, openBus(t))
	addNode(t, s, "a")
	act(t, s, func(mayfly.Assignment) bool { return false })
	start(t, s, nil)
	var requests asked
	scaler := NewScaler(s, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() { scaler.Run(ctx, &requests) })
	defer loop.Wait()
	defer cancel()
	services := NewServices(s)
	deploy(t, s, "web", mayfly.Workload{
		Service: &mayfly.Service{Ready: &mayfly.Probe{}},
		Scale:   mayfly.Scale{None: true, Max: 3, Concurrency: 10, Idle: 300 * time.Millisecond},
	})
	is := func(state string, wanted int) func() bool {
		return func() bool {
			sv, err := services.GetService(t.Context(), "default", "web")
			return err == nil && sv.State == state && sv.Wanted == wanted && len(sv.Replicas) == wanted
		}
	}
	until(t, s, "tried, and then asleep", is(mayfly.ServiceAsleep, 0))
	if ro, _ := s.Rollouts.Find("default", "web"); ro.Value.State != mayfly.RolloutDone {
		t.Errorf("its release: %+v", ro.Value)
	}
	requests.set(scale.Needed{Load: scale.Load{Waiting: 1}, Held: 1})
	scaler.Wake("default", "web")
	until(t, s, "awake", is(mayfly.ServiceRunning, 1))
	requests.set(scale.Needed{Load: scale.Load{InFlight: 10, Waiting: 15}, Held: 3})
	scaler.Wake("default", "web")
	until(t, s, "as many as it needs", is(mayfly.ServiceRunning, 3))
	two := 2
	if _, err := services.ScaleService(t.Context(), "default", "web", &two); err != nil {
		t.Fatal(err)
	}
	until(t, s, "as people ask", is(mayfly.ServiceRunning, 2))
	if _, err := services.ScaleService(t.Context(), "default", "web", nil); err != nil {
		t.Fatal(err)
	}
	until(t, s, "as it needs again", is(mayfly.ServiceRunning, 3))
	requests.set(scale.Needed{Load: scale.Load{InFlight: 1}, Held: 1})
	until(t, s, "fewer, for one is under way", is(mayfly.ServiceRunning, 1))
	requests.set(scale.Needed{})
	until(t, s, "asleep", is(mayfly.ServiceAsleep, 0))
	scaled, err := s.Scales.Get("default", "web")
	if err != nil || scaled.Value.Why != "nobody has asked for it for 300ms" {
		t.Errorf("%+v, %v", scaled.Value, err)
	}
	w, err := s.Workload("default", "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteWorkload(t.Context(), "default", "web", w.Revision); err != nil {
		t.Fatal(err)
	}
	until(t, s, "forgotten", func() bool { return len(s.Scales.List("")) == 0 })
}

// It ends where nothing was ever deployed, too.
func TestAScalerWithoutServicesEnds(t *testing.T) {
	s := openStore(t, openBus(t))
	ctx, cancel := context.WithCancel(t.Context())
	scaler := NewScaler(s, Options{})
	ended := make(chan error, 1)
	go func() { ended <- scaler.Run(ctx, &asked{}) }()
	scaler.Wake("default", "web")
	for len(scaler.wake) > 0 { // it waits, then
		runtime.Gosched()
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it goes on")
	}
}

func TestBecause(t *testing.T) {
	b := scale.Bounds{Each: 4, Idle: time.Minute}
	for _, tt := range []struct {
		before, after int
		load          scale.Load
		want          string
	}{
		{0, 1, scale.Load{Waiting: 1}, "a request waits for it"},
		{0, 2, scale.Load{Waiting: 7}, "7 requests wait for it"},
		{2, 1, scale.Load{InFlight: 1}, "no more were needed for 1m0s"},
		{1, 0, scale.Load{}, "nobody has asked for it for 1m0s"},
	} {
		if got := because(b, tt.before, tt.after, scale.Needed{Load: tt.load}); got != tt.want {
			t.Errorf("from %d to %d: %q, want %q", tt.before, tt.after, got, tt.want)
		}
	}
}
