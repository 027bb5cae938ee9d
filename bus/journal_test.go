package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
)

// journalOn opens a journal of a bus and loads it.
func journalOn(t *testing.T, b *Bus, stream string, keep int64) *Journal {
	t.Helper()
	j, err := b.OpenJournal(context.Background(), stream, keep)
	if err != nil {
		t.Fatal(err)
	}
	load(t, j)
	return j
}

// load loads all, and returns the places that it is told of.
func load(t *testing.T, j *Journal) (places []Place) {
	t.Helper()
	err := j.Load(context.Background(), func(list []Place) bool {
		places = append(places, list...)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return places
}

// newJournal opens one that is closed with its bus at the end of the test.
func newJournal(t *testing.T) *Journal {
	t.Helper()
	b := open(t, t.TempDir())
	j := journalOn(t, b, TasksStream, 0)
	t.Cleanup(func() {
		j.Close()
		closeBus(t, b)
	})
	return j
}

// reopen closes a journal and opens it again. What is removed at the end of one is
// not: it is as if it had just been killed.
func reopen(t *testing.T, j *Journal) *Journal {
	t.Helper()
	j.mu.Lock()
	j.lonely, j.thinned = nil, nil
	j.mu.Unlock()
	j.Close()
	again := journalOn(t, j.bus, j.name, j.keep)
	t.Cleanup(again.Close)
	return again
}

func record(key string) Record {
	return Record{Key: key, Label: "w.0", Head: []byte("head of " + key), Data: []byte("data of " + key)}
}

func put(t *testing.T, j *Journal, key string, over uint64) uint64 {
	t.Helper()
	pos, err := j.Put(context.Background(), record(key), over)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return pos
}

// paused calls begin while nothing is written.
func paused(j *Journal, begin func()) {
	for {
		j.mu.Lock()
		if !j.writing {
			j.writing = true
			j.mu.Unlock()
			break
		}
		j.mu.Unlock()
		runtime.Gosched()
	}
	begin()
	j.done.Go(j.commit)
}

// share writes records to one message.
func share(t *testing.T, j *Journal, keys ...string) (positions []uint64) {
	t.Helper()
	var writes []*Write
	paused(j, func() {
		for _, key := range keys {
			writes = append(writes, j.Write(record(key), 0))
		}
	})
	for _, w := range writes {
		<-w.Done()
		pos, err := w.Position()
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, pos)
	}
	if sequenceOf(positions[0]) != sequenceOf(positions[len(positions)-1]) {
		t.Fatalf("%q are not in one message: %v", keys, positions)
	}
	return positions
}

// messages is how many the stream has.
func messages(t *testing.T, j *Journal) int {
	t.Helper()
	info, err := j.stream.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return int(info.State.Msgs)
}

// there is what can be read, in order.
func there(t *testing.T, j *Journal) (keys []string) {
	t.Helper()
	j.mu.Lock()
	var positions []uint64
	for _, pos := range j.index {
		positions = append(positions, pos)
	}
	j.mu.Unlock()
	list, err := j.Get(context.Background(), positions)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if want := record(r.Key); !bytes.Equal(r.Data, want.Data) || !bytes.Equal(r.Head, want.Head) {
			t.Errorf("%s holds %q and %q", r.Key, r.Head, r.Data)
		}
		keys = append(keys, r.Key)
	}
	return keys
}

func wantThere(t *testing.T, j *Journal, keys ...string) {
	t.Helper()
	if got := there(t, j); !slices.Equal(got, keys) {
		t.Errorf("there are %q, want %q", got, keys)
	}
	sound(t, j)
}

// sound checks that what is in memory fits together.
func sound(t interface{ Errorf(string, ...any) }, j *Journal) {
	j.mu.Lock()
	defer j.mu.Unlock()
	count, positions := map[uint64]uint16{}, map[uint64]bool{}
	for _, pos := range j.index {
		positions[pos] = true
		count[sequenceOf(j.placeOf(pos))]++
	}
	for seq, n := range count {
		if tally, many := j.tallies[seq]; many && tally.live != n || !many && n != 1 {
			t.Errorf("message %d has %d records and is said to have %+v", seq, n, tally)
		}
		if seq >= j.first && j.gone.after(seq) != seq {
			t.Errorf("message %d has %d records and is among those that are gone", seq, n)
		}
	}
	for seq, tally := range j.tallies {
		if count[seq] != tally.live {
			t.Errorf("message %d has %d records and is said to have %+v", seq, count[seq], tally)
		}
	}
	for pos := range j.moved {
		if !positions[pos] {
			t.Errorf("position %x has moved and nothing is there", pos)
		}
	}
}

func TestJournalConditions(t *testing.T) {
	j, ctx := newJournal(t), t.Context()
	first := put(t, j, "a", 0)
	refused := func(over uint64) {
		t.Helper()
		if pos, err := j.Put(ctx, record("a"), over); !errors.Is(err, ErrExists) || pos != 0 {
			t.Errorf("put over %x: %x, %v", over, pos, err)
		}
		w := j.Write(record("a"), over)
		<-w.Done()
		if pos, err := w.Position(); !errors.Is(err, ErrExists) || pos != 0 {
			t.Errorf("write over %x: %x, %v", over, pos, err)
		}
	}
	refused(0)
	refused(first + 1)
	second := put(t, j, "a", first)
	if second <= first || j.Live("a", first) || !j.Live("a", second) || j.Len() != 1 {
		t.Errorf("replaced %x by %x", first, second)
	}
	refused(first)
	j.Free("a", first) // it is not there any more
	wantThere(t, j, "a")
	j.Free("a", second)
	refused(second)
	wantThere(t, j)
	put(t, j, "a", 0)
	wantThere(t, j, "a")
}

// TestJournalOneAtATime: while a key is written, Write refuses it, and Put and Find
// wait.
func TestJournalOneAtATime(t *testing.T) {
	j, ctx := newJournal(t), t.Context()
	var first, second *Write
	type answer struct {
		pos uint64
		err error
	}
	puts, finds := make(chan answer, 1), make(chan answer, 1)
	paused(j, func() {
		first, second = j.Write(record("a"), 0), j.Write(record("a"), 0)
		<-second.Done()
		go func() {
			pos, err := j.Put(ctx, record("a"), 0)
			puts <- answer{pos, err}
		}()
		go func() {
			rec, err := j.Find(ctx, "a")
			finds <- answer{rec.Position, err}
		}()
	})
	<-first.Done()
	pos, err := first.Position()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Position(); !errors.Is(err, ErrExists) {
		t.Errorf("written twice at once: %v", err)
	}
	if got := <-puts; !errors.Is(got.err, ErrExists) {
		t.Errorf("put: %v", got)
	}
	if got := <-finds; got.pos != pos || got.err != nil {
		t.Errorf("found %v, want %x", got, pos)
	}
}

func TestJournalShares(t *testing.T) {
	j := newJournal(t)
	var writes []*Write
	paused(j, func() {
		for i := range 200 {
			rec := record(fmt.Sprint("k", i))
			if i == 150 {
				rec.Data = make([]byte, 1<<20)
				rec.Head = make([]byte, 48<<10)
			}
			writes = append(writes, j.Write(rec, 0))
		}
	})
	last := uint64(0)
	for i, w := range writes {
		<-w.Done()
		pos, err := w.Position()
		if err != nil || pos <= last {
			t.Fatalf("record %d is at %x after %x: %v", i, pos, last, err)
		}
		last = pos
	}
	// 64, 64, 22, the large one, 49.
	if got := messages(t, j); got != 5 {
		t.Errorf("200 records are in %d messages", got)
	}
	sound(t, j)
}

func TestJournalTooLarge(t *testing.T) {
	j := newJournal(t)
	rec := record("large")
	rec.Data = make([]byte, MaxMessage)
	if _, err := j.Put(t.Context(), rec, 0); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("put: %v", err)
	}
	put(t, j, "small", 0)
	wantThere(t, j, "small")
}

func TestJournalReads(t *testing.T) {
	j, ctx := newJournal(t), t.Context()
	before := share(t, j, "a", "b", "c")
	pos := put(t, j, "d", 0)
	before = append(before, pos)

	list, err := j.Get(ctx, []uint64{pos, before[2], before[0], before[0], place(99, 3), pos + 1})
	if err != nil || len(list) != 3 || list[0].Key != "a" || list[1].Key != "c" || list[2].Key != "d" || list[2].Position != pos {
		t.Errorf("got %v, %v", list, err)
	}
	if rec, err := j.Find(ctx, "b"); err != nil || rec.Position != before[1] || rec.Label != "w.0" || string(rec.Data) != "data of b" {
		t.Errorf("found %v, %v", rec, err)
	}
	if rec, err := j.Find(ctx, "x"); !errors.Is(err, ErrNoMessage) {
		t.Errorf("found %v, %v", rec, err)
	}
	have, err := j.Have(ctx, []string{"a", "x", "d"})
	if err != nil || len(have) != 2 || !have["a"] || !have["d"] {
		t.Errorf("has %v, %v", have, err)
	}
	back := func(before uint64, most int) (keys []string) {
		err := j.Back(ctx, before, func(r Record) bool {
			keys = append(keys, r.Key)
			return len(keys) < most
		})
		if err != nil {
			t.Error(err)
		}
		return keys
	}
	for _, test := range []struct {
		before uint64
		most   int
		want   []string
	}{
		{0, 9, []string{"d", "c", "b", "a"}},
		{0, 2, []string{"d", "c"}},
		{pos, 9, []string{"c", "b", "a"}},
		{before[1], 9, []string{"a"}},
		{before[0], 9, nil},
	} {
		if got := back(test.before, test.most); !slices.Equal(got, test.want) {
			t.Errorf("back from %x: %q, want %q", test.before, got, test.want)
		}
	}

	// What comes later is not what was there before.
	j = reopen(t, j)
	if opened := j.Opened(); opened < pos || put(t, j, "e", 0) <= opened {
		t.Errorf("opened at %x", opened)
	}
	wantThere(t, j, "a", "b", "c", "d", "e")
}

// TestJournalBackLarge: more than fits one answer of the stream.
func TestJournalBackLarge(t *testing.T) {
	j := newJournal(t)
	const count = 20
	for i := range count {
		rec := record(fmt.Sprint("k", i))
		rec.Data = make([]byte, 1<<20)
		if _, err := j.Put(t.Context(), rec, 0); err != nil {
			t.Fatal(err)
		}
	}
	next := count
	err := j.Back(t.Context(), 0, func(r Record) bool {
		next--
		if want := fmt.Sprint("k", next); r.Key != want {
			t.Errorf("%s, want %s", r.Key, want)
		}
		return true
	})
	if err != nil || next != 0 {
		t.Errorf("%d were not told of: %v", next, err)
	}
}

// TestJournalLoad goes on where it was stopped, while records are written.
func TestJournalLoad(t *testing.T) {
	old := newJournal(t)
	const count = 1000
	keys := make([]string, count)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
		if i%2 == 1 {
			share(t, old, keys[i-1], keys[i])
		}
	}
	old.Close()
	j, err := old.bus.OpenJournal(t.Context(), TasksStream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	var places []Place
	parts := 0
	for done := false; !done; {
		w := j.Write(record(fmt.Sprint("new", parts)), 0)
		again := j.Write(record(fmt.Sprint("k", count-1-parts)), 0) // not loaded yet
		<-w.Done()
		<-again.Done()
		if err := j.Load(t.Context(), func(list []Place) bool {
			places = append(places, list...)
			return false
		}); err != nil {
			t.Fatal(err)
		}
		parts++
		select {
		case <-j.Loaded():
			done = true
		default:
		}
	}
	if parts < 2 || !slices.IsSortedFunc(places, func(a, b Place) int { return int(a.Position) - int(b.Position) }) {
		t.Errorf("loaded in %d parts, or not in order", parts)
	}
	for i, p := range places {
		if p.Key != keys[i] || p.Label != "w.0" {
			t.Fatalf("place %d is %+v", i, p)
		}
	}
	if got := j.Len(); got != count+parts {
		t.Errorf("%d records are there after %d and %d, and %d more of the first", got, count, parts, parts)
	}
	sound(t, j)
}

// TestJournalWaitsForLoad: Put knows what is there.
func TestJournalWaitsForLoad(t *testing.T) {
	old := newJournal(t)
	put(t, old, "a", 0)
	old.Close()
	j, err := old.bus.OpenJournal(t.Context(), TasksStream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	got := make(chan error)
	go func() {
		_, err := j.Put(t.Context(), record("a"), 0)
		got <- err
	}()
	load(t, j)
	if err := <-got; !errors.Is(err, ErrExists) {
		t.Errorf("put what was there before: %v", err)
	}
}

// TestJournalLoadedWhileWritten: Load finds what is being written anew.
func TestJournalLoadedWhileWritten(t *testing.T) {
	before := newJournal(t)
	pos := share(t, before, "a", "b")
	before.Close()
	j, err := before.bus.OpenJournal(t.Context(), TasksStream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	var w *Write
	paused(j, func() {
		w = j.Write(record("a"), 0)
		load(t, j)
	})
	<-w.Done()
	if got, err := w.Position(); err != nil || got <= pos[1] || !j.Live("a", got) {
		t.Errorf("written at %x: %v", got, err)
	}
	wantThere(t, j, "b", "a")
}

// TestJournalFindsWhatIsReplaced: a record is there however often it is replaced.
func TestJournalFindsWhatIsReplaced(t *testing.T) {
	j := newJournal(t)
	pos := put(t, j, "a", 0)
	var done sync.WaitGroup
	var stop atomic.Bool
	done.Go(func() {
		for !stop.Load() {
			if _, err := j.Find(context.Background(), "a"); err != nil {
				t.Errorf("find: %v", err)
				return
			}
		}
	})
	for range 300 {
		pos = put(t, j, "a", pos)
	}
	stop.Store(true)
	done.Wait()
	wantThere(t, j, "a")
}
