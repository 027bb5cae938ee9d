package discovery

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/bus/bustest"
)

// TestFullDisk: while the disk refuses every write, consumers are told of what
// happens. When the engine has been opened anew, with nothing in its memory, all
// nodes have again what is there; nobody is told of that, and locks are as they
// were.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	bustest.SmallDisk(t, dir, 64)
	site := openSite(t, filepath.Join(dir, "data"))
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { site.bus.Run(ctx) })
	t.Cleanup(func() {
		stop()
		loops.Wait()
	})
	a, b := site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b", Lease: longLease})
	publish(t, a, endpoint("kept", "i1.http"), endpoint("left", "i2.http"))
	kept, here, there := watch(t, b, Consumer{}, requires("kept")), watch(t, a, Consumer{}, requires("left")), watch(t, b, Consumer{}, requires("left"))
	await(t, kept, "i1.http")
	await(t, here, "i2.http")
	await(t, there, "i2.http")
	held := lock(t, a, lockOf("x"))

	connected := site.bus.JetStream().Conn().StatusChanged(nats.CONNECTED)
	defer site.bus.JetStream().Conn().RemoveStatusListener(connected)
	fill(t, site.bus, dir)
	a.Withdraw("i2.http")
	await(t, here)
	await(t, there) // what is in memory goes on
	if err := os.Remove(filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	<-connected // to another engine
	c := site.start(t, Options{Node: "c"})
	await(t, watch(t, c, Consumer{}, requires("kept")), "i1.http")
	await(t, watch(t, c, Consumer{}, requires("left")))
	quiet(t, kept)

	_, err := c.Locks().TryLock(t.Context(), lockOf("y"))
	wantConflict(t, err)
	for { // the engine may still be on its way, and an answer be lost
		if err := a.Locks().Unlock(t.Context(), "default", "l", held.Token); err == nil || mayfly.KindOf(err) == mayfly.Conflict {
			break
		}
	}
	if next := lock(t, c, lockOf("y")); next.Token <= held.Token {
		t.Errorf("token %d after %d", next.Token, held.Token)
	}
}

// fill takes all of the disk until writes are refused: one without an answer may
// only have been slow.
func fill(t *testing.T, b *bus.Bus, dir string) {
	t.Helper()
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for refused := 0; refused < 3; {
		other.Write(make([]byte, 1<<20)) // no longer all of it in the end
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := b.JetStream().Publish(ctx, bus.DeadSubject("default", "w", "t"), bytes.Repeat([]byte("x"), 100_000))
		cancel()
		if refused++; err == nil {
			refused = 0
		}
	}
}
