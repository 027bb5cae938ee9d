package reconcile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// world is a record in memory with people, nodes and a clock that do anything at
// any time. What they do is drawn.
type world struct {
	now      time.Time
	ids      int
	nodes    map[string]bool
	services map[string]*thing
}

// thing is a service of the world.
type thing struct {
	releases map[int]*mayfly.Release
	bad      map[int]bool // releases that crash
	wanted   int          // 0: deleted
	unheard  bool         // its record cannot be read
	wish     mayfly.Wish
	hasWish  bool
	rollout  mayfly.Rollout
	hasRoll  bool
	slots    []*slot
}

func newWorld() *world {
	return &world{now: noon, nodes: map[string]bool{"a": true}, services: map[string]*thing{"db": {}, "web": {}}}
}

var worldNames = []string{"db", "web"}

func (w *world) view() *view {
	v := &view{now: w.now, volumes: map[store.Key]mayfly.Volume{}, newest: map[string]uint64{}}
	v.id = func() string { w.ids++; return fmt.Sprintf("id%05d", w.ids) }
	for _, n := range []string{"a", "b"} {
		if w.nodes[n] {
			v.nodes = append(v.nodes, mayfly.NodeInfo{Name: n, Memory: 8})
		}
	}
	for _, name := range worldNames {
		th := w.services[name]
		s := &service{Key: store.Key{Space: "default", Name: name}, wish: th.wish, rollout: th.rollout, releases: th.releases}
		if th.wanted != 0 && !th.unheard {
			s.wanted = th.releases[th.wanted]
		}
		s.gone = th.wanted == 0 && !th.unheard
		if th.hasWish {
			s.wishRev = 1
		}
		if th.hasRoll {
			s.rolloutRev = 1
		}
		for _, sl := range th.slots {
			copied := *sl
			copied.lost = !w.nodes[sl.Node]
			s.slots = append(s.slots, &copied)
		}
		if s.wanted != nil || len(s.slots) > 0 || th.hasRoll || th.hasWish {
			v.services = append(v.services, s)
		}
	}
	return v
}

// pass plans, checks and writes once. It returns how much was written.
func (w *world) pass(t *rapid.T) int {
	v := w.view()
	ids := w.ids
	changes, wake := plan(v)
	w.ids = ids
	if again, wakeAgain := plan(w.view()); fmt.Sprint(again) != fmt.Sprint(changes) || !wake.Equal(wakeAgain) {
		t.Fatalf("planned %v, and then %v", changes, again)
	}
	before := map[string]int{}
	for name, th := range w.services {
		before[name] = w.healthy(th)
	}
	for _, c := range changes {
		w.write(t, c)
	}
	for _, name := range worldNames {
		w.check(t, name, before[name], changes)
	}
	if len(changes) == 0 {
		w.checkWake(t, wake)
	}
	return len(changes)
}

func (w *world) write(t *rapid.T, c change) {
	th := w.services[c.key.Name]
	if th.unheard {
		t.Fatalf("%s, whose record cannot be read: %s", c.key.Name, c)
	}
	at := slices.IndexFunc(th.slots, func(sl *slot) bool { return sl.ID == c.assignment.ID })
	switch c.do {
	case putAssignment:
		if at < 0 {
			th.slots = append(th.slots, &slot{Assignment: c.assignment})
		} else {
			th.slots[at].Assignment = c.assignment
		}
	case dropAssignment:
		r := th.slots[at].replica
		if w.nodes[th.slots[at].Node] && (r == nil || r.State != mayfly.ReplicaStopped) {
			t.Fatalf("%s: its node has not stopped it", c)
		}
		th.slots = slices.Delete(th.slots, at, at+1)
	case putRollout:
		th.rollout, th.hasRoll = c.rollout, true
	case dropRollout:
		th.rollout, th.hasRoll = mayfly.Rollout{}, false
	case dropWish:
		th.wish, th.hasWish = mayfly.Wish{}, false
	}
}

func (th *thing) target() *mayfly.Release {
	if th.wanted == 0 {
		return nil
	}
	if th.rollout.State == mayfly.RolloutRolledBack && th.rollout.Release == th.wanted {
		return th.releases[th.rollout.Stable]
	}
	return th.releases[th.wanted]
}

func (th *thing) count() int {
	if th.target() == nil {
		return 0
	}
	if th.wish.Scale != nil {
		return *th.wish.Scale
	}
	return th.target().Workload.Scale.Count()
}

// healthy is how many replicas of those that are wanted work, and go on.
func (w *world) healthy(th *thing) int {
	numbers := map[int]bool{}
	for _, sl := range th.slots {
		if sl.healthy() && !sl.Stop && w.nodes[sl.Node] && sl.Replica <= th.count() {
			numbers[len(numbers)] = true
		}
	}
	return len(numbers)
}

// check holds a service to its limits after a write.
func (w *world) check(t *rapid.T, name string, healthyBefore int, changes []change) {
	th := w.services[name]
	target := th.target()
	if target == nil {
		return
	}
	svc, single := target.Workload.Service, len(target.Workload.Volumes) > 0
	surge, fewer := svc.Update.Surge, svc.Update.Unavailable
	if surge == 0 && fewer == 0 {
		surge = 1
	}
	if single {
		surge, fewer = 0, max(fewer, 1)
	}
	there, began := 0, map[int]bool{}
	numbers := map[int]int{}
	for _, sl := range th.slots {
		if w.nodes[sl.Node] {
			there++
			numbers[sl.Replica]++
		}
	}
	for _, c := range changes {
		if c.do == putAssignment && !c.assignment.Stop && c.key.Name == name {
			began[c.assignment.Replica] = true
		}
	}
	if len(began) > 0 && there > th.count()+surge {
		t.Fatalf("%s: %d instances, with a count of %d and a surge of %d", name, there, th.count(), surge)
	}
	for n, many := range numbers {
		if began[n] && single && many > 1 {
			t.Fatalf("%s: replica %d is there %d times, and there is one writer", name, n, many)
		}
	}
	if now := w.healthy(th); now < healthyBefore && now < th.count()-fewer && !duplicates(th) {
		t.Fatalf("%s: %d healthy, %d before, with a count of %d and %d fewer", name, now, healthyBefore, th.count(), fewer)
	}
}

// duplicates reports whether there were two healthy of one number in a release,
// of which one may go.
func duplicates(th *thing) bool {
	for i, a := range th.slots {
		for _, b := range th.slots[:i] {
			if a.Replica == b.Replica && a.Release == b.Release && a.Generation == b.Generation && a.healthy() && b.healthy() {
				return true
			}
		}
	}
	return false
}

// checkWake shows that nothing is missed by sleeping until wake.
func (w *world) checkWake(t *rapid.T, wake time.Time) {
	now := w.now
	defer func() { w.now = now }()
	w.now = now.Add(1000 * time.Hour)
	if !wake.IsZero() {
		if !wake.After(now) {
			t.Fatalf("wakes at %s, and it is %s", wake, now)
		}
		w.now = wake.Add(-1)
	}
	if changes, _ := plan(w.view()); len(changes) > 0 {
		t.Fatalf("%s would miss %v", wake, changes)
	}
}

// settle lets the nodes do what they should until nothing happens any more.
func (w *world) settle(t *rapid.T) {
	for range 400 {
		n := w.pass(t)
		for _, name := range worldNames {
			th := w.services[name]
			for _, sl := range th.slots {
				if w.nodes[sl.Node] && w.honest(th, sl) {
					n++
				}
			}
		}
		if n > 0 {
			continue
		}
		_, wake := plan(w.view())
		if wake.IsZero() {
			return
		}
		w.now = wake
	}
	t.Fatalf("it does not come to rest: %v", fmt.Sprint(plan(w.view())))
}

// honest brings a replica to where it belongs, and reports whether it was
// elsewhere.
func (w *world) honest(th *thing, sl *slot) bool {
	want := mayfly.ReplicaReady
	switch {
	case sl.Stop:
		want = mayfly.ReplicaStopped
	case th.bad[sl.Release]:
		want = mayfly.ReplicaBackoff
	}
	if sl.replica != nil && sl.replica.State == want {
		return false
	}
	w.report(sl, want)
	if want == mayfly.ReplicaBackoff {
		sl.replica.Failures = crashes
	}
	return true
}

func (w *world) report(sl *slot, state mayfly.ReplicaState) {
	r := mayfly.Replica{Since: w.now, State: state}
	if sl.replica != nil {
		r.Ready, r.Failures = sl.replica.Ready, sl.replica.Failures
	}
	switch state {
	case mayfly.ReplicaReady:
		r.Ready, r.Failures = w.now, 0
	case mayfly.ReplicaBackoff:
		r.Failures++
	}
	sl.replica = &r
}

// checkRest shows that what is wanted is what runs.
func (w *world) checkRest(t *rapid.T) {
	for _, name := range worldNames {
		th := w.services[name]
		if th.unheard {
			continue
		}
		target := th.target()
		if target == nil {
			if len(th.slots) > 0 && w.allNodes(th) || len(th.slots) == 0 && (th.hasRoll || th.hasWish) {
				t.Fatalf("%s was deleted, and there is %+v", name, th)
			}
			continue
		}
		ro := th.rollout
		switch {
		case ro.Release != th.wanted || ro.State == mayfly.RolloutUnderWay:
			t.Fatalf("%s is not decided: %+v", name, ro)
		case !th.bad[th.wanted] && w.placeable(th) && ro.State != mayfly.RolloutDone && ro.State != mayfly.RolloutRolledBack:
			t.Fatalf("%s is good, and it is %+v", name, ro)
		case th.bad[th.wanted] && th.count() > 0 && ro.State == mayfly.RolloutDone && th.wish.Scale == nil:
			t.Fatalf("%s crashes, and it is done: %+v", name, ro)
		}
		if th.bad[target.Number] || !w.placeable(th) || ro.State == mayfly.RolloutFailed {
			continue
		}
		numbers := map[int]int{}
		for _, sl := range th.slots {
			if !w.nodes[sl.Node] {
				continue
			}
			if sl.Release != target.Number || sl.Generation < ro.Floor || sl.Stop {
				t.Fatalf("%s/%d of release %d is left, and %d is wanted", name, sl.Replica, sl.Release, target.Number)
			}
			numbers[sl.Replica]++
		}
		for n := 1; n <= th.count(); n++ {
			if numbers[n] != 1 {
				t.Fatalf("%s/%d is there %d times of %d", name, n, numbers[n], th.count())
			}
		}
		if len(numbers) != th.count() {
			t.Fatalf("%s has %v, and %d are wanted", name, numbers, th.count())
		}
	}
}

func (w *world) allNodes(th *thing) bool {
	return !slices.ContainsFunc(th.slots, func(sl *slot) bool { return !w.nodes[sl.Node] })
}

// placeable reports whether any instance has a place: memory is never short here.
func (w *world) placeable(*thing) bool { return len(w.nodes) > 0 }

func drawRelease(t *rapid.T, name string, number int) *mayfly.Release {
	scale := mayfly.Scale{Min: rapid.IntRange(1, 4).Draw(t, "min"), None: rapid.IntRange(0, 9).Draw(t, "none") == 0}
	svc := &mayfly.Service{
		Update: mayfly.Update{
			Surge: rapid.IntRange(0, 2).Draw(t, "surge"), Unavailable: rapid.IntRange(0, 2).Draw(t, "unavailable"),
			Healthy: time.Duration(rapid.IntRange(0, 2).Draw(t, "healthy")) * time.Minute, NoRollback: rapid.Bool().Draw(t, "stays"),
		},
	}
	l := mayfly.Workload{Space: "default", Name: name, Scale: scale, Service: svc}
	if rapid.IntRange(0, 3).Draw(t, "writer") == 0 {
		l.Volumes = []mayfly.VolumeMount{{Volume: "data", Target: "/data"}}
	}
	return &mayfly.Release{Workload: l, Number: number}
}

var reported = []mayfly.ReplicaState{mayfly.ReplicaWaiting, mayfly.ReplicaStarting, mayfly.ReplicaReady, mayfly.ReplicaStandby, mayfly.ReplicaUnready,
	mayfly.ReplicaBackoff, mayfly.ReplicaFailed, mayfly.ReplicaCompleted, mayfly.ReplicaDraining, mayfly.ReplicaStopping, mayfly.ReplicaStopped}

// TestWhateverHappensServicesComeToRest draws what people, nodes and the clock do,
// and holds each plan to the limits of the services.
func TestWhateverHappensServicesComeToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		some := func() *thing { return w.services[rapid.SampledFrom(worldNames).Draw(t, "service")] }
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) { w.pass(t) },
			"deploy": func(t *rapid.T) {
				name := rapid.SampledFrom(worldNames).Draw(t, "service")
				th := w.services[name]
				if th.releases == nil {
					th.releases, th.bad = map[int]*mayfly.Release{}, map[int]bool{}
				}
				n := len(th.releases) + 1
				th.releases[n], th.bad[n], th.wanted = drawRelease(t, name, n), rapid.IntRange(0, 2).Draw(t, "bad") == 0, n
			},
			"go back": func(t *rapid.T) {
				if th := some(); th.wanted > 1 {
					th.wanted = rapid.IntRange(1, th.wanted).Draw(t, "release")
				}
			},
			"scale": func(t *rapid.T) {
				n := rapid.IntRange(0, 5).Draw(t, "scale")
				if th := some(); th.wanted != 0 {
					th.wish.Scale, th.hasWish, th.wish.Changed = &n, true, w.now
				}
			},
			"restart": func(t *rapid.T) {
				if th := some(); th.wanted != 0 {
					th.wish.Generation++
					th.wish.Retry, th.hasWish = rapid.SampledFrom([]int{0, th.wanted}).Draw(t, "retry"), true
				}
			},
			"delete":  func(*rapid.T) { some().wanted = 0 },
			"unheard": func(t *rapid.T) { some().unheard = rapid.Bool().Draw(t, "unheard") },
			"node":    func(t *rapid.T) { w.nodes["b"] = rapid.Bool().Draw(t, "joins") },
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "seconds")) * time.Second)
			},
			"duplicate": func(t *rapid.T) { w.duplicate(t, some()) },
			"report": func(t *rapid.T) {
				th := some()
				if len(th.slots) > 0 {
					sl := th.slots[rapid.IntRange(0, len(th.slots)-1).Draw(t, "slot")]
					w.report(sl, rapid.SampledFrom(reported).Draw(t, "state"))
					if th.bad[sl.Release] && sl.healthy() {
						sl.replica.State = mayfly.ReplicaBackoff
					}
				}
			},
		})
		for _, th := range w.services {
			th.unheard = false
		}
		w.settle(t)
		w.checkRest(t)
	})
}

// duplicate makes what a leader that was too late would have left.
func (w *world) duplicate(t *rapid.T, th *thing) {
	if len(th.slots) == 0 || rapid.IntRange(0, 3).Draw(t, "duplicate") > 0 {
		return
	}
	twin := *th.slots[0]
	w.ids++
	twin.ID, twin.Stop, twin.replica = fmt.Sprintf("id%05d", w.ids), false, nil
	th.slots = append(th.slots, &twin)
}
