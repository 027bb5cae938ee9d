package queue

import (
	"context"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// TestOutcomesAreKept for as long and as many as is said, and no more.
func TestOutcomesAreKept(t *testing.T) {
	n := newNode(t, Options{KeepCount: 3})
	n.start()
	run := func(count int) (ids []string) {
		for range count {
			ids = append(ids, n.submit(work("w"))[0].ID)
			n.done(n.next(), mayfly.Succeeded)
		}
		return ids
	}
	kept := func() (ids []string) {
		t.Helper()
		page, err := n.List(t.Context(), Filter{Space: home})
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range page.Tasks {
			ids = append([]string{task.ID}, ids...)
		}
		return ids
	}
	// The streams tell nobody when something goes.
	until := func(count int) []string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for len(kept()) > count && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		return kept()
	}
	ids := run(5)
	if got := until(3); len(got) != 3 || got[0] != ids[2] {
		t.Errorf("of %q the last three are kept: %q", ids, got)
	}
	_, err := n.Get(t.Context(), home, ids[0])
	want(t, err, mayfly.NotFound)

	reopen := func(opts Options) {
		n.stop()
		n = openNode(t, n.dir, opts)
		n.start()
	}
	reopen(Options{KeepCount: 2})
	if got := until(2); len(got) != 2 || got[0] != ids[3] {
		t.Errorf("of %q the last two are kept: %q", ids, got)
	}
	reopen(Options{})
	run(5)
	if got := kept(); len(got) != 7 {
		t.Errorf("as many as before are kept: %q", got)
	}
	reopen(Options{KeepAge: time.Second})
	if got := until(0); len(got) != 0 {
		t.Errorf("kept for longer than a second: %q", got)
	}
}

func TestRetentionThatCannotBe(t *testing.T) {
	n := newNode(t, Options{})
	n.stop()
	for _, opts := range []Options{{KeepAge: time.Millisecond}, {KeepAge: -time.Hour}, {KeepCount: -1}} {
		b := openBus(t, n.dir)
		_, err := Open(t.Context(), b, n.store, opts)
		want(t, err, mayfly.Invalid)
		b.Close()
	}
}
