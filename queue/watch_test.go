package queue

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mayfly-run/mayfly"
)

// Whoever watches sees the states in their order, and the last one surely.
func TestWatch(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.Retries = mayfly.Retries{Max: 1, Backoff: 1}
	id := n.submit(sub)[0].ID
	seen := make(chan string)
	go func() {
		var task mayfly.Task
		for task.State == "" || !task.State.Ended() {
			var err error
			if task, err = n.Watch(context.Background(), home, id, task); err != nil {
				t.Error(err)
				break
			}
			percent := "-"
			if task.Progress != nil {
				percent = fmt.Sprint(task.Progress.Percent)
			}
			seen <- fmt.Sprint(task.State, " ", task.Attempt, " ", percent)
		}
		close(seen)
	}()
	see := func(want string) {
		t.Helper()
		if got := <-seen; got != want {
			t.Errorf("saw %q, want %q", got, want)
		}
	}
	see("queued 1 -")
	g := n.next()
	see("starting 1 -")
	n.Started(g, "i")
	see("running 1 -")
	for _, percent := range []float64{10, 20} {
		if err := n.Progress(t.Context(), home, id, 1, mayfly.Progress{Percent: percent}); err != nil {
			t.Fatal(err)
		}
		see(fmt.Sprint("running 1 ", percent))
	}
	n.done(g, mayfly.ExitedNonZero)
	see("queued 2 -")
	g = n.next()
	see("starting 2 -")
	if err := n.Progress(t.Context(), home, id, 2, mayfly.Progress{Percent: 50, Message: "half"}); err != nil {
		t.Fatal(err)
	}
	see("starting 2 50")
	n.done(g, mayfly.Succeeded)
	see("succeeded 2 50")
	if _, more := <-seen; more {
		t.Error("there was more to see")
	}
	task, err := n.Get(t.Context(), home, id)
	if err != nil || task.Progress == nil || task.Progress.Message != "half" || task.Progress.Time.IsZero() {
		t.Errorf("%+v, %v", task, err)
	}
	if again, err := n.Watch(t.Context(), home, id, task); err != nil || again.State != task.State {
		t.Errorf("watched what has ended: %+v, %v", again, err)
	}
	if len(n.watchers)+len(n.waiters) > 0 {
		t.Errorf("%d still watch", len(n.watchers)+len(n.waiters))
	}
}

func TestWatchEnds(t *testing.T) {
	n := startNode(t)
	task := n.submit(work("w"))[0]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Watch(ctx, home, task.ID, task); err == nil {
		t.Error("it went on without its context")
	}
	_, err := n.Watch(t.Context(), home, mayfly.NewID(), mayfly.Task{})
	want(t, err, mayfly.NotFound)
	ended := make(chan error)
	go func() {
		_, err := n.Watch(context.Background(), home, task.ID, task)
		ended <- err
	}()
	n.Close()
	want(t, <-ended, mayfly.Unavailable)
}

func TestProgressIsBounded(t *testing.T) {
	n := startNode(t)
	id := n.submit(work("w"))[0].ID
	report := func(attempt int, p mayfly.Progress) error { return n.Progress(t.Context(), home, id, attempt, p) }
	want(t, report(1, mayfly.Progress{}), mayfly.Conflict)
	g := n.next()
	for _, percent := range []float64{-1, 100.5, math.NaN(), math.Inf(1)} {
		want(t, report(1, mayfly.Progress{Percent: percent}), mayfly.Invalid)
	}
	want(t, report(2, mayfly.Progress{}), mayfly.Conflict)
	want(t, n.Progress(t.Context(), home, mayfly.NewID(), 1, mayfly.Progress{}), mayfly.NotFound)
	want(t, report(1, mayfly.Progress{Percent: 100, Message: "x" + strings.Repeat("ü", 10_000)}), "")
	task := n.done(g, mayfly.Succeeded)
	if m := task.Progress.Message; len(m) > maxMessage || len(m) < maxMessage-2 || !utf8.ValidString(m) {
		t.Errorf("the message has %d bytes", len(m))
	}
	want(t, report(1, mayfly.Progress{}), mayfly.Conflict)
}
