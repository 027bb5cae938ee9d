package event_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/event"
)

func (n *node) story(id string) mayfly.EventStory {
	n.t.Helper()
	s, err := n.events.Story(context.Background(), home, id)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// to is the delivery of an event to a target.
func to(s mayfly.EventStory, target string) *mayfly.EventDelivery {
	for i := range s.Deliveries {
		if s.Deliveries[i].Mapping.Target() == target {
			return &s.Deliveries[i]
		}
	}
	return &mayfly.EventDelivery{}
}

func TestStoryOfTasks(t *testing.T) {
	n := start(t, event.Options{})
	ctx := context.Background()
	n.deploy(mayfly.Workload{Name: "w", Retries: mayfly.Retries{Max: 1, Backoff: time.Millisecond}})
	n.deploy(mayfly.Workload{Name: "other"})
	m := n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded", Concurrency: 1})
	gone := n.mapTo(mayfly.EventMapping{Workload: "other", Type: "photo.*", Source: "/photos"})
	for _, no := range []mayfly.EventMapping{
		{Type: "order.*"}, {Type: "*", Source: "/elsewhere"}, {Type: "*", Filter: map[string]string{"bucket": "work"}},
		{Type: "*", Filter: map[string]string{"album": "x"}}, {Type: "*", SQL: "subject LIKE '%.png'"}, {Type: "*", SQL: "ABS(nothing) = 1"}, {Type: "mayfly.*"},
	} {
		no.Workload = "other"
		n.mapTo(no)
	}
	if _, err := n.events.Story(ctx, home, "a"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Fatalf("the story of what is not there: %v", err)
	}
	n.emit(photo("a", "holiday"), photo("b", "holiday"))
	n.mapTo(mayfly.EventMapping{Workload: "other", Type: "photo.uploaded", SQL: "TRUE"}) // too late
	until(t, "both were given", func() bool { return n.story("b").Given })
	var whys []string
	for _, r := range n.story("a").Others {
		whys = append(whys, fmt.Sprint(r.Type, " ", r.Why))
	}
	all := strings.Join(whys, "\n")
	for _, want := range []string{
		"true it wants the type order.*", `false it wants the source /elsewhere, not "/photos"`, `false it wants bucket=work, and in the event it is "holiday"`,
		"false it wants album=x, and the event has no album", `its expression "subject LIKE '%.png'" is false`, `its expression "ABS(nothing) = 1" cannot be evaluated`,
		"true it wants the type mayfly.*", "false it is newer than the event",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("it is not said that %s:\n%s", want, all)
		}
	}

	// One at a time runs; the other says for what it waits.
	until(t, "both are tasks", func() bool { return to(n.story("a"), "w").Task != nil && to(n.story("b"), "w").Task != nil })
	buried := ""
	for range 3 { // all that may begin
		g := n.next()
		if g.Task.Workload == "other" {
			n.done(g, mayfly.Succeeded)
			continue
		}
		buried = g.Task.Request.Header["Ce-Id"]
		other := map[string]string{"a": "b", "b": "a"}[buried]
		if d := to(n.story(other), "w"); d.Wait.KeyRunning != 1 || d.Wait.KeyMost != 1 || d.Task.State != mayfly.TaskQueued {
			t.Errorf("%s is %+v", other, d)
		}
		if err := n.queue.Pause(ctx, home, "w"); err != nil {
			t.Fatal(err)
		}
		n.done(g, mayfly.ExitedNonZero)
	}
	if d := to(n.story(buried), "w"); !d.Wait.Paused || len(d.Task.Attempts) != 1 {
		t.Errorf("the one that failed is %+v", d)
	}
	if err := n.queue.Resume(ctx, home, "w"); err != nil {
		t.Fatal(err)
	}
	for to(n.story(buried), "w").Task.State != mayfly.TaskBuried {
		if g := n.next(); g.Task.Request.Header["Ce-Id"] == buried {
			n.done(g, mayfly.ExitedNonZero)
		} else {
			n.done(g, mayfly.Succeeded)
		}
	}
	if err := n.queue.Pause(ctx, home, "w"); err != nil {
		t.Fatal(err)
	}
	if done, err := n.events.Replay(ctx, event.Replay{Space: home, ID: buried, Map: m.ID}); err != nil || done.Events != 1 {
		t.Fatal(done, err)
	}
	until(t, "the replay is told of", func() bool {
		again := n.story(buried).Replays
		return len(again) == 1 && again[0].Event.Replay != nil && to(again[0], "w").Task != nil && to(again[0], "w").Wait.Paused
	})
	if _, err := n.events.Unmap(ctx, home, "other", "photo.*"); err != nil {
		t.Fatal(err)
	}
	if d := to(n.story("a"), "other"); !d.Gone || d.Mapping.ID != gone.ID || d.Task == nil || d.Task.State != mayfly.TaskSucceeded {
		t.Errorf("the delivery of a mapping that is gone: %+v", d)
	}
}

func TestStoryOfAnOrder(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "w"})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded", OrderBy: "bucket"})
	n.emit(photo("a", "x"), photo("b", "x"))
	g := n.next()
	until(t, "b is known to wait for a", func() bool {
		b := to(n.story("b"), "w").Behind
		return b != nil && b.Key == "x" && b.First.Event.ID == "a" && b.Task == g.Task.ID
	})
	n.done(g, mayfly.Succeeded)
	n.done(n.next(), mayfly.Succeeded)
	until(t, "b is delivered", func() bool { d := to(n.story("b"), "w"); return d.Task != nil && d.Task.State == mayfly.TaskSucceeded })
}

func TestStoryOfASubscriber(t *testing.T) {
	sub := subscribe(t)
	sub.fail, sub.with = 1, http.StatusGone
	n := start(t, event.Options{Delays: []time.Duration{time.Hour}})
	n.mapTo(mayfly.EventMapping{URL: sub.URL, Type: "photo.uploaded"})
	call := func(id string) mayfly.EventCall {
		if c := to(n.story(id), sub.URL).Call; c != nil {
			return *c
		}
		return mayfly.EventCall{}
	}
	n.emit(photo("gone", "x"))
	until(t, "410 is given up", func() bool {
		c := call("gone")
		return c.State == "given up" && c.Tries == 1 && c.Error == "it answered 410 Gone"
	})
	n.emit(photo("taken", "x"))
	until(t, "it is taken", func() bool { return call("taken").State == "taken" && !call("taken").Ended.IsZero() })
	sub.mu.Lock()
	sub.fail, sub.with = 1, http.StatusTeapot
	sub.mu.Unlock()
	n.emit(photo("waits", "x"))
	waits := func() bool {
		c := call("waits")
		return c.State == "waiting" && c.Tries == 1 && c.Error == "it answered 418 I'm a teapot" && time.Until(c.Due) > 50*time.Minute
	}
	until(t, "it waits for the next try", waits)
	n.restart(event.Options{Delays: []time.Duration{time.Hour}})
	until(t, "all of this is known after a restart", func() bool {
		return waits() && call("gone").State == "given up" && call("taken").State == "taken"
	})
}

// A mapping fails for as long as somebody has to see to it.
func TestFailingUntilPurged(t *testing.T) {
	n := start(t, event.Options{})
	ctx := context.Background()
	n.deploy(mayfly.Workload{Name: "w", Retries: mayfly.Retries{Max: 1, Backoff: time.Millisecond}})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded"})
	fail := func(id string) (task string) {
		n.emit(photo(id, "x"))
		for range 2 {
			g := n.next()
			n.done(g, mayfly.ExitedNonZero)
			task = g.Task.ID
		}
		return task
	}
	is := func(state string, failures int64, dead int) {
		t.Helper()
		until(t, state, func() bool {
			s := n.trigger()
			return s.State == state && s.Failures == failures && s.Dead == dead && (state == "active" || s.LastError != "" && !s.LastTime.IsZero())
		})
	}
	first, second := fail("1"), fail("2")
	is("failing", 2, 2)
	if _, err := n.queue.Purge(ctx, home, first); err != nil {
		t.Fatal(err)
	}
	is("failing", 2, 1)
	n.restart(event.Options{})
	is("failing", 0, 1)
	if _, err := n.queue.Purge(ctx, home, second); err != nil {
		t.Fatal(err)
	}
	is("active", 0, 0)
	third := fail("3")
	is("failing", 1, 1)
	if _, err := n.queue.Retry(ctx, home, third); err != nil {
		t.Fatal(err)
	}
	is("active", 1, 0)
	n.done(n.next(), mayfly.Succeeded)
	is("active", 1, 0)
	fail("4")
	is("failing", 2, 1)
	n.emit(photo("5", "x"))
	n.done(n.next(), mayfly.Succeeded)
	is("active", 2, 1) // it works again; DEAD says that something is left
}
