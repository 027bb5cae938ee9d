package scale

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
)

func TestNeed(t *testing.T) {
	zeroToFive := Bounds{Max: 5, Each: 10}
	for _, test := range []struct {
		name string
		b    Bounds
		l    Load
		want int
	}{
		{"nothing to do, from zero", zeroToFive, Load{}, 0},
		{"nothing to do, at least two", Bounds{Min: 2, Max: 5, Each: 10}, Load{}, 2},
		{"the first request", zeroToFive, Load{Waiting: 1}, 1},
		{"as many as one serves", zeroToFive, Load{InFlight: 10}, 1},
		{"one more than one serves", zeroToFive, Load{InFlight: 10, Waiting: 1}, 2},
		{"a burst asks for all at once", zeroToFive, Load{Waiting: 45}, 5},
		{"never above the most", zeroToFive, Load{InFlight: 50, Waiting: 500}, 5},
		{"no most", Bounds{Each: 1}, Load{Waiting: 500}, 500},
		{"no limit for one instance", Bounds{Max: 5}, Load{InFlight: 500}, 1},
		{"tasks that wait count", Bounds{Max: 50, Each: 1}, Load{InFlight: 2, Queued: 20}, 22},
		{"waiting for a second", zeroToFive, Load{InFlight: 10, Waiting: 2, Oldest: time.Second}, 3},
		{"waiting for four seconds", zeroToFive, Load{InFlight: 10, Waiting: 2, Oldest: 4 * time.Second}, 5},
		{"tasks that no place is for", Bounds{Max: 50, Each: 1, Places: 16}, Load{InFlight: 2, Queued: 20}, 16},
		{"what is under way counts whatever places there are", Bounds{Max: 50, Each: 1, Places: 16}, Load{InFlight: 12, Waiting: 8, Queued: 20}, 20},
		{"all places are taken, and those do not get on", Bounds{Max: 50, Each: 8, Places: 16}, Load{InFlight: 16, Queued: 20, QueueAge: 2 * time.Second}, 4},
		{"tasks that are old", zeroToFive, Load{Queued: 5, QueueAge: 2 * time.Second}, 3},
		{"never more than there is to do", zeroToFive, Load{Waiting: 1, Oldest: time.Hour}, 1},
		{"an age of nothing", zeroToFive, Load{InFlight: 3, Oldest: time.Hour, QueueAge: time.Hour}, 1},
	} {
		if got := Need(test.b, test.l); got != test.want {
			t.Errorf("%s: %d, not %d", test.name, got, test.want)
		}
	}
}

func TestNext(t *testing.T) {
	now := time.Unix(1000, 0)
	b := Bounds{Max: 10, Each: 1, Idle: time.Minute}
	slow := b
	slow.Cooldown = 10 * time.Second
	for _, test := range []struct {
		name       string
		b          Bounds
		s          State
		need, held int
		want       int
		wake       time.Duration // from now; 0: none
	}{
		{"up at once", b, State{Count: 1}, 7, 7, 7, 0},
		{"what was needed lately is still wanted", b, State{Count: 7}, 1, 7, 7, 0},
		{"down together", b, State{Count: 7}, 1, 2, 2, 0},
		{"down to zero", b, State{Count: 7}, 0, 0, 0, 0},
		{"down one by one", slow, State{Count: 7}, 1, 2, 6, 10 * time.Second},
		{"not yet the next one", slow, State{Count: 6, Down: now.Add(-4 * time.Second)}, 1, 2, 6, 6 * time.Second},
		{"the last one", slow, State{Count: 3, Down: now.Add(-10 * time.Second)}, 1, 2, 2, 0},
		{"up though one has just gone", slow, State{Count: 3, Down: now}, 5, 5, 5, 0},
		{"fewer are allowed now", slow, State{Count: 30, Down: now}, 10, 10, 10, 0},
		{"more are asked for now", Bounds{Min: 3, Max: 10, Each: 1}, State{Count: 1}, 0, 0, 3, 0},
	} {
		got, wake := Next(test.b, test.s, test.need, test.held, now)
		if got.Count != test.want || wake.IsZero() != (test.wake == 0) || test.wake != 0 && !wake.Equal(now.Add(test.wake)) {
			t.Errorf("%s: %+v, %v", test.name, got, wake)
		}
	}
}

func TestOf(t *testing.T) {
	function := Of(&mayfly.Workload{Scale: mayfly.Scale{Max: 3}})
	if want := (Bounds{Max: 3, Each: 1, Idle: mayfly.DefaultIdle}); function != want {
		t.Errorf("a function: %+v", function)
	}
	service := Of(&mayfly.Workload{Service: &mayfly.Service{}, Scale: mayfly.Scale{Max: 3, Idle: time.Second}})
	if want := (Bounds{Min: 1, Max: 3, Each: mayfly.DefaultPerInstance, Idle: time.Second}); service != want {
		t.Errorf("a service: %+v", service)
	}
	asleep := Of(&mayfly.Workload{Service: &mayfly.Service{}, Scale: mayfly.Scale{None: true, Max: 3}})
	if asleep.Min != 0 || asleep.Max != 3 {
		t.Errorf("one that sleeps: %+v", asleep)
	}
}

func TestLater(t *testing.T) {
	for wait, want := range map[time.Duration]time.Duration{
		0: time.Second, time.Second / 2: time.Second / 2, time.Second: time.Second, 3 * time.Second: time.Second, 4 * time.Second: 4 * time.Second,
	} {
		if got := Later(wait); got != want {
			t.Errorf("after %v: %v, not %v", wait, got, want)
		}
		if late(wait+want) != late(wait)+1 {
			t.Errorf("after %v nothing more is asked for in %v", wait, want)
		}
	}
}

func drawBounds(t *rapid.T) Bounds {
	b := Bounds{Min: rapid.IntRange(0, 3).Draw(t, "min"), Each: rapid.IntRange(0, 5).Draw(t, "each"), Idle: time.Minute}
	if rapid.Bool().Draw(t, "bounded") {
		b.Max = b.Min + rapid.IntRange(1, 5).Draw(t, "more")
	}
	if rapid.Bool().Draw(t, "placed") {
		b.Places = rapid.IntRange(1, 40).Draw(t, "places")
	}
	if rapid.Bool().Draw(t, "slow") {
		b.Cooldown = 10 * time.Second
	}
	return b
}

func drawLoad(t *rapid.T, name string) Load {
	wait := func(what string) time.Duration {
		return time.Duration(rapid.IntRange(0, 40).Draw(t, name+what)) * 250 * time.Millisecond
	}
	n := func(what string) int { return rapid.IntRange(0, 30).Draw(t, name+what) }
	return Load{InFlight: n("flight"), Waiting: n("waiting"), Oldest: wait("oldest"), Queued: n("queued"), QueueAge: wait("age")}
}

// TestMoreToDoNeedsNoLess holds for each part of a load, and the bounds with it.
func TestMoreToDoNeedsNoLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, l, more := drawBounds(t), drawLoad(t, "some"), drawLoad(t, "more")
		sum := Load{l.InFlight + more.InFlight, l.Waiting + more.Waiting, l.Oldest + more.Oldest, l.Queued + more.Queued, l.QueueAge + more.QueueAge}
		less, n := Need(b, l), Need(b, sum)
		if n < less {
			t.Errorf("%+v needs %d and %+v needs %d", l, less, sum, n)
		}
		if less < b.Min || b.Max > 0 && less > b.Max {
			t.Errorf("%d for %+v", less, b)
		}
		if b.Max == 0 && b.Each > 0 && less*b.Each < l.InFlight+l.Waiting {
			t.Errorf("%d do not serve %+v", less, l)
		}
	})
}

// TestQueuedTasksNeedNoMoreThanTheirPlaces holds whatever their number and age.
func TestQueuedTasksNeedNoMoreThanTheirPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, l := drawBounds(t), drawLoad(t, "load")
		b.Each, b.Places = max(b.Each, 1), max(b.Places, 1)
		n := Need(b, l)
		none := l
		none.Queued, none.QueueAge = 0, 0
		without := Need(b, none)
		switch work := l.InFlight + l.Waiting; {
		case n > b.clamp(max(work, b.Places)):
			t.Errorf("%d for %+v within %+v", n, l, b)
		case n < without:
			t.Errorf("%d for %+v, and %d without what is queued", n, l, without)
		case n < b.clamp(Level(min(work+l.Queued, b.Places), b.Each)):
			t.Errorf("%d do not serve %+v within %+v", n, l, b)
		case l.Queued == 0 && n != without:
			t.Errorf("%d for the age of nothing in %+v", n, l)
		}
	})
}

// TestWhateverHappensTheCountIsWithinItsBounds draws load and time, against a
// memory of all that was needed.
func TestWhateverHappensTheCountIsWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBounds(t)
		now := time.Unix(1000, 0)
		var peaks Peaks
		var past []peak // all that was needed, and until when
		s, need := State{Count: b.Min}, 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
			peaks.Note(need, now)
			past = append(past, peak{need, now})
			need = Need(b, drawLoad(t, "load"))
			most := need
			for _, p := range past {
				if p.until.After(now.Add(-b.Idle)) {
					most = max(most, p.need)
				}
			}
			held := peaks.Held(need, now.Add(-b.Idle))
			if held != most {
				t.Fatalf("held %d, and %d were needed in the last %v", held, most, b.Idle)
			}
			before := s
			var wake time.Time
			s, wake = Next(b, s, need, held, now)
			switch {
			case s.Count < b.Min || b.Max > 0 && s.Count > b.Max:
				t.Fatalf("%d for %+v", s.Count, b)
			case s.Count < need:
				t.Fatalf("%d where %d are needed", s.Count, need)
			case s.Count > before.Count && s.Count != max(need, b.Min):
				t.Fatalf("from %d to %d where %d are needed", before.Count, s.Count, need)
			case s.Count < before.Count && s.Count < held:
				t.Fatalf("down to %d, and %d were needed lately", s.Count, held)
			case s.Count < before.Count && b.Cooldown > 0 && (before.Count-s.Count > 1 || now.Before(before.Down.Add(b.Cooldown))):
				t.Fatalf("from %d to %d too soon", before.Count, s.Count)
			case s.Count > held && wake.IsZero():
				t.Fatalf("%d where %d are held, and nobody looks again", s.Count, held)
			}
		}
		// With nothing to do they are as few as may be, in the end.
		peaks.Note(need, now)
		now = now.Add(2 * b.Idle)
		for again := true; again; {
			var wake time.Time
			s, wake = Next(b, s, 0, peaks.Held(0, now.Add(-b.Idle)), now)
			again = !wake.IsZero()
			if again {
				now = wake
			}
		}
		if s.Count != b.Min {
			t.Errorf("%d are left, not %d", s.Count, b.Min)
		}
	})
}

// TestLoadThatComesAndGoesChangesNothing is a request each while, far apart as
// they may be to keep an instance.
func TestLoadThatComesAndGoesChangesNothing(t *testing.T) {
	b := Bounds{Max: 10, Each: 2, Idle: time.Minute}
	now := time.Unix(1000, 0)
	var peaks Peaks
	s := State{}
	for i := range 100 {
		need := Need(b, Load{InFlight: 4})
		s, _ = Next(b, s, need, peaks.Held(need, now.Add(-b.Idle)), now)
		now = now.Add(time.Second)
		peaks.Note(need, now)
		now = now.Add(58 * time.Second)
		if s, _ = Next(b, s, 0, peaks.Held(0, now.Add(-b.Idle)), now); s.Count != 2 {
			t.Fatalf("%d after %d rounds", s.Count, i)
		}
	}
	if until := peaks.Until(0); !until.Equal(now.Add(-58 * time.Second)) {
		t.Errorf("needed until %v, and it is %v", until, now)
	}
}
