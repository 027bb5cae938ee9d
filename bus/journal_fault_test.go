package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// TestJournalIsFenced: whoever opened it first writes and removes nothing more
// when another has written.
func TestJournalIsFenced(t *testing.T) {
	old := newJournal(t)
	pos := share(t, old, "a", "b")
	b := put(t, old, "c", 0)
	put(t, old, "d", 0)
	j := journalOn(t, old.bus, TasksStream, 0)
	defer func() { j.Close() }()
	put(t, old, "e", 0) // before j has written anything
	if _, err := j.Put(t.Context(), record("x"), 0); !errors.Is(err, ErrFenced) {
		t.Errorf("put: %v", err)
	}
	j.Close()
	j = journalOn(t, old.bus, TasksStream, 0)
	put(t, j, "f", 0)
	for range 2 {
		if _, err := old.Put(t.Context(), record("x"), 0); !errors.Is(err, ErrFenced) {
			t.Errorf("put: %v", err)
		}
		w := old.Write(record("a"), pos[0])
		<-w.Done()
		if _, err := w.Position(); !errors.Is(err, ErrFenced) {
			t.Errorf("write: %v", err)
		}
	}
	old.Free("a", pos[0])
	old.Free("c", b)
	aged(old)
	if err := old.Tidy(t.Context()); err != nil {
		t.Error(err)
	}
	old.Close()
	wantThere(t, j, "a", "b", "c", "d", "e", "f")
	j = reopen(t, j)
	wantThere(t, j, "a", "b", "c", "d", "e", "f")
}

// TestJournalFencedByEmptying: somebody else wrote and removed all again.
func TestJournalFencedByEmptying(t *testing.T) {
	j := newJournal(t)
	if _, err := j.bus.JetStream().Publish(t.Context(), j.subject, nil); err != nil {
		t.Fatal(err)
	}
	if err := j.stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Put(t.Context(), record("x"), 0); !errors.Is(err, ErrFenced) {
		t.Errorf("put: %v", err)
	}
}

// TestJournalAnswersLost: the engine is stopped and started under many writers.
// Each record is there once.
func TestJournalAnswersLost(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	j := journalOn(t, b, TasksStream, 0)
	defer func() { j.Close() }()
	const writers, each, stops = 8, 150, 3
	var done sync.WaitGroup
	var count atomic.Int64
	progress := make(chan struct{}, 1)
	for w := range writers {
		done.Go(func() {
			for i := range each {
				key := fmt.Sprint("w", w, ".", i)
				write := j.Write(record(key), 0)
				<-write.Done()
				pos, err := write.Position()
				if err != nil {
					t.Errorf("%s: %v", key, err)
					return
				}
				if i%3 == 1 { // so that there is something to tidy too
					j.Free(key, pos)
				}
				count.Add(1)
				wakeUp(progress)
			}
		})
	}
	for stop := range int64(stops) {
		for count.Load() < (stop+1)*writers*each/(stops+1) {
			<-progress
			aged(j)
		}
		b.engine.stop()
		if err := b.engine.start(); err != nil {
			t.Fatal(err)
		}
	}
	done.Wait()
	all := func() {
		t.Helper()
		keys := map[string]bool{}
		for _, key := range there(t, j) {
			keys[key] = true
		}
		for w := range writers {
			for i := range each {
				if key := fmt.Sprint("w", w, ".", i); keys[key] != (i%3 != 1) {
					t.Errorf("%s: there is %v", key, keys[key])
				}
			}
		}
		sound(t, j)
	}
	all()
	tidy(t, j)
	all()
	if got, want := stored(t, j), writers*each*2/3; got != want {
		t.Errorf("the stream holds %d records, want %d", got, want)
	}
	j = reopen(t, j)
	all()
}

// stored is how many records the stream holds, also such that nobody knows.
func stored(t *testing.T, j *Journal) (count int) {
	t.Helper()
	err := j.bus.Scan(context.Background(), j.name, "", 1, func(msgs []Message) bool {
		for _, msg := range msgs {
			list, err := unpack(msg)
			if err != nil {
				t.Error(err)
			}
			count += len(list)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// TestJournalClosed under writers: what was acknowledged is there, what was
// refused is not, and what comes later is refused.
func TestJournalClosed(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	j := journalOn(t, b, TasksStream, 0)
	var writers sync.WaitGroup
	var mu sync.Mutex
	acked, some := map[string]bool{}, make(chan struct{}, 1)
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprint("w", w, ".", i)
				_, err := j.Put(context.Background(), record(key), 0)
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acked[key] = true
				if len(acked) == 200 {
					wakeUp(some)
				}
				mu.Unlock()
			}
		})
	}
	<-some
	j.Close()
	j.Close()
	writers.Wait()
	if _, err := j.Put(t.Context(), record("x"), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("put: %v", err)
	}
	if _, err := j.Find(t.Context(), "w0.0"); err != nil {
		t.Errorf("read after the end: %v", err)
	}
	j = journalOn(t, b, TasksStream, 0)
	defer j.Close()
	got := there(t, j)
	for _, key := range got {
		if !acked[key] {
			t.Errorf("%s was refused and is there", key)
		}
	}
	if len(got) != len(acked) {
		t.Errorf("%d of %d are there", len(got), len(acked))
	}
}

// TestJournalClosedWithoutEngine: nobody waits for ever.
func TestJournalClosedWithoutEngine(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	j := journalOn(t, b, TasksStream, 0)
	pos := put(t, j, "a", 0)
	b.engine.stop()
	first, second := j.Write(record("a"), pos), j.Write(record("b"), 0)
	j.Close()
	for _, w := range []*Write{first, second} {
		<-w.Done()
		if _, err := w.Position(); err == nil {
			t.Error("written without an engine")
		}
	}
	if err := b.engine.start(); err != nil {
		t.Fatal(err)
	}
}

// TestJournalTriesAgain: a message that was stored without an answer is found, and
// not taken for somebody else's.
func TestJournalTriesAgain(t *testing.T) {
	j := newJournal(t)
	msg := pack(j.subject, "id", []*Write{{record: record("a")}})
	msg.Header.Set(jetstream.ExpectedLastSeqHeader, "0")
	for range 2 {
		if seq, known, err := j.try(msg, "id"); seq != 1 || !known || err != nil {
			t.Errorf("got %d, %v, %v", seq, known, err)
		}
	}
	if n := messages(t, j); n != 1 {
		t.Errorf("it is there %d times", n)
	}
	if _, known, err := j.try(msg, "another"); !known || !errors.Is(err, ErrFenced) {
		t.Errorf("got %v, %v", known, err)
	}
	j.bus.engine.stop()
	if _, known, err := j.try(msg, "id"); known || err == nil {
		t.Errorf("known without an engine: %v", err)
	}
	if err := j.bus.engine.start(); err != nil {
		t.Fatal(err)
	}
}
