package bus

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// aged makes what was freed look as if that were long ago.
func aged(j *Journal) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, list := range [][]freed{j.lonely, j.thinned} {
		for i := range list {
			list[i].when = time.Time{}
		}
	}
}

// tidy does all that there is to do, however long ago it was freed, while nothing
// else is at work.
func tidy(t interface {
	Helper()
	Fatal(...any)
}, j *Journal) {
	t.Helper()
	still(j)
	for {
		aged(j)
		if err := j.Tidy(context.Background()); err != nil {
			t.Fatal(err)
		}
		if !j.left() {
			return
		}
	}
}

// still ends the goroutine that tidies.
func still(j *Journal) {
	j.stop()
	j.done.Wait()
}

func TestJournalIsEmptied(t *testing.T) {
	j := newJournal(t)
	var all []string
	for i := range 30 {
		keys := []string{fmt.Sprint("a", i), fmt.Sprint("b", i), fmt.Sprint("c", i)}
		share(t, j, keys...)
		put(t, j, fmt.Sprint("d", i), 0)
		all = append(append(all, keys...), fmt.Sprint("d", i))
	}
	slices.Sort(all) // first of each message, then the second
	for i, key := range all {
		rec, err := j.Find(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		j.Free(key, rec.Position)
		if i%20 == 0 {
			tidy(t, j)
		}
	}
	tidy(t, j)
	sound(t, j)
	if n := messages(t, j); n != 0 || j.Len() != 0 || len(j.tallies)+len(j.moved) != 0 {
		t.Errorf("%d messages and %d records are left, %v, %v", n, j.Len(), j.tallies, j.moved)
	}
	if len(j.gone) > 1 {
		t.Errorf("what is gone is remembered in pieces: %v", j.gone)
	}
	j = reopen(t, j)
	put(t, j, "x", 0)
	wantThere(t, j, "x")
}

// TestJournalRemovesBehind: a message behind one that stays.
func TestJournalRemovesBehind(t *testing.T) {
	j := newJournal(t)
	put(t, j, "a", 0)
	b, c := put(t, j, "b", 0), put(t, j, "c", 0)
	put(t, j, "d", 0)
	j.Free("b", b)
	j.Free("c", c)
	tidy(t, j)
	if n := messages(t, j); n != 2 {
		t.Errorf("%d messages are left", n)
	}
	j = reopen(t, j)
	wantThere(t, j, "a", "d")
}

// TestJournalRewrites what is left in a message, under its positions.
func TestJournalRewrites(t *testing.T) {
	j, ctx := newJournal(t), t.Context()
	first := share(t, j, "a", "b", "c", "d")
	second := put(t, j, "e", 0)
	j.Free("b", first[1])
	j.Free("d", first[3])
	wantThere(t, j, "a", "c", "e")
	check := func() {
		t.Helper()
		wantThere(t, j, "a", "c", "e")
		list, err := j.Get(ctx, []uint64{first[0], first[2]})
		if err != nil || len(list) != 2 || list[0].Position != first[0] || list[1].Position != first[2] {
			t.Errorf("got %v, %v", list, err)
		}
		if rec, err := j.Find(ctx, "c"); err != nil || rec.Position != first[2] || !j.Live("c", first[2]) {
			t.Errorf("found %v, %v", rec, err)
		}
	}
	tidy(t, j)
	if msgs, err := j.bus.Get(ctx, j.name, []uint64{sequenceOf(first[0])}); err != nil || len(msgs) != 0 {
		t.Errorf("what was written again is still there: %v, %v", msgs, err)
	}
	check()
	j = reopen(t, j)
	check()

	// Again, as one of those was freed.
	j.Free("a", first[0])
	tidy(t, j)
	wantThere(t, j, "c", "e")
	j = reopen(t, j)
	wantThere(t, j, "c", "e")
	if pos := put(t, j, "c", first[2]); pos <= second {
		t.Errorf("replaced at %x", pos)
	}
	tidy(t, j)
	wantThere(t, j, "e", "c")
	j = reopen(t, j)
	wantThere(t, j, "e", "c")
	if n := messages(t, j); n != 2 {
		t.Errorf("%d messages are left", n)
	}
}

// TestJournalFindsBoth: the process ended when a record was written again and
// still where it had been.
func TestJournalFindsBoth(t *testing.T) {
	j := newJournal(t)
	still(j)
	pos := share(t, j, "a", "b", "c")
	if err := j.rewrite(t.Context(), []uint64{sequenceOf(pos[0])}); err != nil {
		t.Fatal(err)
	}
	j, err := j.bus.OpenJournal(t.Context(), TasksStream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if n := messages(t, j); n != 2 {
		t.Fatalf("there are %d messages", n)
	}
	load(t, j)
	wantThere(t, j, "a", "b", "c")
	if !j.Live("b", pos[1]) {
		t.Error("it has another position")
	}
	tidy(t, j)
	if n := messages(t, j); n != 1 {
		t.Errorf("%d messages are left", n)
	}
}

// TestJournalReplaced: what was replaced does not come back. What was freed may,
// until the others of its message were written again.
func TestJournalReplaced(t *testing.T) {
	j := newJournal(t)
	pos := share(t, j, "a", "b", "c")
	replaced := put(t, j, "a", pos[0])
	j.Free("b", pos[1])
	j = reopen(t, j)
	if !j.Live("a", replaced) {
		t.Error("what was replaced has come back")
	}
	if j.Live("b", pos[1]) { // as it may
		j.Free("b", pos[1])
	}
	tidy(t, j)
	j = reopen(t, j)
	wantThere(t, j, "c", "a")
	if !j.Live("a", replaced) || !j.Live("c", pos[2]) {
		t.Error("they have other positions")
	}
}

// TestJournalFreedMeanwhile: while what it replaces, or is a copy of, is freed.
func TestJournalFreedMeanwhile(t *testing.T) {
	j := newJournal(t)
	pos := share(t, j, "a", "b", "c", "d")
	done := make(chan error, 1)
	var over *Write
	paused(j, func() {
		over = j.Write(record("a"), pos[0])
		go func() { done <- j.rewrite(context.Background(), []uint64{sequenceOf(pos[0])}) }()
		for written := 0; written < 4; { // a anew, b, c and d again
			j.mu.Lock()
			written = len(j.waiting)
			j.mu.Unlock()
		}
		j.Free("a", pos[0])
		j.Free("b", pos[1])
	})
	<-over.Done()
	if _, err := over.Position(); err != ErrExists {
		t.Errorf("replaced what was freed: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantThere(t, j, "c", "d")
	tidy(t, j)
	wantThere(t, j, "c", "d")
	j = reopen(t, j)
	wantThere(t, j, "c", "d")
}

// TestJournalTidiesTwice: at the same time, while records come and go.
func TestJournalTidiesTwice(t *testing.T) {
	j := newJournal(t)
	var writers, tidiers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		tidiers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				aged(j)
				if err := j.Tidy(context.Background()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			for i := range 100 {
				key := fmt.Sprint("w", w, ".", i)
				pos, err := j.Put(context.Background(), record(key), 0)
				if err == nil && i%10 == 3 {
					pos, err = j.Put(context.Background(), record(key), pos)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if i%10 != 0 {
					j.Free(key, pos)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	tidiers.Wait()
	tidy(t, j)
	sound(t, j)
	if got := there(t, j); len(got) != 40 {
		t.Errorf("%d of 40 are there", len(got))
	}
	j = reopen(t, j)
	if got := there(t, j); len(got) != 40 {
		t.Errorf("%d of 40 are there after reopening", len(got))
	}
	for _, key := range there(t, j) {
		rec, err := j.Find(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		j.Free(key, rec.Position)
	}
	tidy(t, j)
	if n := messages(t, j); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}

func TestJournalKeeps(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	const keep = 40
	j := journalOn(t, b, OutcomesStream, keep)
	defer func() { j.Close() }()
	var all []string
	more := func(count int) {
		t.Helper()
		keys := make([]string, count)
		for i := range keys {
			keys[i] = fmt.Sprint("k", len(all)+i)
		}
		all = append(all, keys...)
		share(t, j, keys...)
		tidy(t, j)
		sound(t, j)
	}
	for i := range 200 {
		more(1 + i%7)
		got := there(t, j)
		if len(got) < min(keep, len(all)) || len(got) > keep+keep/20+7 || !slices.Equal(got, all[len(all)-len(got):]) {
			t.Fatalf("of %d are kept: %q", len(all), got)
		}
	}
	more(60) // more than are to be kept, in one message
	wantThere(t, j, all[len(all)-60:]...)
	j.Close()
	j = journalOn(t, b, OutcomesStream, keep)
	wantThere(t, j, all[len(all)-60:]...)
	if _, err := j.Find(t.Context(), all[0]); err != ErrNoMessage {
		t.Errorf("the oldest is found: %v", err)
	}
	put(t, j, all[0], 0)
	more(39)
	if got := there(t, j); len(got) != 40 || got[0] != all[0] {
		t.Errorf("of %d are kept: %q", len(all), got)
	}
}

// TestJournalKeepsCopies: what was written again is younger than its position.
func TestJournalKeepsCopies(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	j := journalOn(t, b, OutcomesStream, 10)
	defer func() { j.Close() }()
	pos := share(t, j, "a", "b", "c")
	share(t, j, "d", "e", "f", "g", "h")
	j.Free("a", pos[0])
	j.Free("b", pos[1])
	tidy(t, j) // c is behind h
	next := []string{"i", "j", "k", "l", "m", "n", "o", "p", "q"}
	share(t, j, next...)
	tidy(t, j)
	wantThere(t, j, append([]string{"c"}, next...)...)
	if _, err := j.Put(t.Context(), record("c"), 0); err != ErrExists {
		t.Errorf("put what is there: %v", err)
	}
	put(t, j, "c", pos[2])
	wantThere(t, j, append(next, "c")...)
}

// TestJournalDropped: the stream drops what is too old, and tells nobody.
func TestJournalDropped(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	j := journalOn(t, b, OutcomesStream, 100)
	defer func() { j.Close() }()
	pos := append(share(t, j, "a", "b"), put(t, j, "c", 0))
	put(t, j, "d", 0)
	if err := j.stream.Purge(t.Context(), jetstream.WithPurgeSequence(sequenceOf(pos[2])+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Find(t.Context(), "a"); err != ErrNoMessage {
		t.Errorf("found: %v", err)
	}
	put(t, j, "a", 0)
	j.mu.Lock()
	j.swept = time.Time{}
	j.mu.Unlock()
	tidy(t, j)
	wantThere(t, j, "d", "a")
	put(t, j, "b", 0)
	put(t, j, "c", 0)
	wantThere(t, j, "d", "a", "b", "c")
}

// TestJournalUnreadable: a message that somebody damaged is passed over, and does
// not keep those around it.
func TestJournalUnreadable(t *testing.T) {
	j := newJournal(t)
	a := put(t, j, "a", 0)
	j.Close()
	if _, err := j.bus.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: j.subject, Data: bytes.Repeat([]byte("x"), 100)}); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, j)
	b := put(t, j, "b", 0)
	put(t, j, "c", 0)
	wantThere(t, j, "a", "b", "c")
	j = reopen(t, j)
	wantThere(t, j, "a", "b", "c")
	j.Free("a", a)
	j.Free("b", b)
	tidy(t, j)
	wantThere(t, j, "c")
	if n := messages(t, j); n != 1 {
		t.Errorf("%d messages are left", n)
	}
}
