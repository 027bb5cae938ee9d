package bus

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly/bus/bustest"
)

func TestRoomOf(t *testing.T) {
	const mb, gb = 1 << 20, 1 << 30
	for _, test := range []struct {
		name                         string
		size, free, files, freeFiles int64
		want                         Room
	}{
		{"empty", 100 * gb, 100 * gb, 1e6, 1e6, RoomForAll},
		{"a fiftieth", 10 * gb, 10 * gb / 50, 1e6, 1e6, RoomForAll},
		{"less", 10 * gb, 10*gb/50 - 1, 1e6, 1e6, RoomForEnds},
		{"half of that", 10 * gb, 10*gb/100 - 1, 1e6, 1e6, NoRoom},
		{"small", 128 * mb, 32 * mb, 1e6, 1e6, RoomForAll},
		{"small and used", 128 * mb, 31 * mb, 1e6, 1e6, RoomForEnds},
		{"small and full", 128 * mb, 15 * mb, 1e6, 1e6, NoRoom},
		{"large", 1000 * gb, gb, 1e6, 1e6, RoomForAll},
		{"large and used", 1000 * gb, gb - 1, 1e6, 1e6, RoomForEnds},
		{"few files", 100 * gb, 100 * gb, 1e6, 511, RoomForEnds},
		{"no files", 100 * gb, 100 * gb, 1e6, 10, NoRoom},
		{"files are not counted", 100 * gb, 100 * gb, 0, 0, RoomForAll},
		{"full", 100 * gb, 0, 0, 0, NoRoom},
	} {
		if got := roomOf(test.size, test.free, test.files, test.freeFiles); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// TestFullDisk has somebody else take all of the disk while messages are
// written, several times. Whatever was acknowledged is there in the end, the
// watch of the record goes on, and nothing but room is needed to go on.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	bustest.SmallDisk(t, dir, 64)
	b := open(t, filepath.Join(dir, "data"))
	defer func() { closeBus(t, b) }()
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { b.Run(ctx) })
	defer loops.Wait()
	defer stop()

	watch, err := b.State().WatchAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	<-watch.Updates() // nothing is there yet
	if room := b.Room(); room != RoomForAll {
		t.Fatalf("room %v on an empty disk", room)
	}
	tasks, err := b.JetStream().Stream(t.Context(), ParkedStream)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		acked, unknown := fill(t, b, dir, round)
		if room := b.Room(); room != NoRoom {
			t.Errorf("room %v on a full disk", room)
		}
		if _, err := b.Next(t.Context(), ParkedStream, ">", 1); err != nil {
			t.Errorf("read on a full disk: %v", err)
		}
		if err := os.Remove(filepath.Join(dir, "other")); err != nil {
			t.Fatal(err)
		}
		key, id := WorkloadKey("default", fmt.Sprint("w", round)), fmt.Sprint("again", round)
		until(t, func(ctx context.Context) error {
			_, err := b.State().Put(ctx, key, []byte("1"))
			return err
		})
		for entry := range watch.Updates() {
			if entry != nil && entry.Key() == key {
				break
			}
		}
		until(t, func(ctx context.Context) error {
			_, err := b.JetStream().Publish(ctx, DeadSubject("default", "w", id), nil)
			return err
		})
		info, err := tasks.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range append(acked, id) {
			if info.State.Subjects[DeadSubject("default", "w", id)] == 0 {
				t.Errorf("round %d: %s was acknowledged and is gone", round, id)
			}
		}
		if len(acked) < 100 || len(info.State.Subjects) > len(acked)+unknown+1 {
			t.Errorf("round %d: %d acknowledged, %d there", round, len(acked), len(info.State.Subjects))
		}
		if err := tasks.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// fill writes messages, and takes the disk meanwhile, until one is refused. It
// returns those that were acknowledged, and of how many it is not known.
func fill(t *testing.T, b *Bus, dir string, round int) (acked []string, unknown int) {
	t.Helper()
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for i := 0; ; i++ {
		if i%10 == 9 {
			other.Write(make([]byte, 1<<20)) // no longer all of it in the end
		}
		id := fmt.Sprintf("t%d-%d", round, i)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := b.JetStream().Publish(ctx, DeadSubject("default", "w", id), bytes.Repeat([]byte("x"), 10_000))
		cancel()
		if err == nil {
			acked = append(acked, id)
			continue
		}
		unknown++ // the disk may also be slow
		b.gauge.mu.Lock()
		refused := b.gauge.refused
		b.gauge.mu.Unlock()
		if refused {
			return acked, unknown
		}
	}
}

// until tries again until it works.
func until(t *testing.T, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) { // the disk may also be slow
		one, cancel := context.WithTimeout(ctx, wait)
		err := try(one)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
