package discovery

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

func lockOf(holder string) LockRequest {
	return LockRequest{Space: "default", Name: "l", Holder: holder}
}

func lock(t testing.TB, d *node, req LockRequest) *Lock {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	held, err := d.Locks().Lock(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func unlock(t testing.TB, d *node, held *Lock) {
	t.Helper()
	if err := d.Locks().Unlock(t.Context(), held.Space, held.Name, held.Token); err != nil {
		t.Fatal(err)
	}
}

func wantConflict(t testing.TB, err error) {
	t.Helper()
	if mayfly.KindOf(err) != mayfly.Conflict {
		t.Fatalf("got %v, want a conflict", err)
	}
}

// awaitWaiting waits until so many wait for the lock.
func awaitWaiting(t testing.TB, d *node, count int) {
	t.Helper()
	for {
		changed := d.Locks().Changed("default", "l")
		if h, _ := d.Locks().Holder("default", "l"); h.Waiting == count {
			return
		}
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatalf("%d do not wait", count)
		}
	}
}

func TestLock(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b"})
	first := lock(t, a, lockOf("x"))
	if again := lock(t, a, lockOf("x")); again.Token != first.Token {
		t.Errorf("its holder got it again with token %d, not %d", again.Token, first.Token)
	}
	_, err := b.Locks().TryLock(t.Context(), lockOf("y"))
	wantConflict(t, err)
	if h, ok := b.Locks().Holder("default", "l"); !ok || h.Holder != "x" || h.Node != "a" || h.Token != first.Token {
		t.Errorf("got %+v, %v", h, ok)
	}
	wantConflict(t, a.Locks().Unlock(t.Context(), "default", "l", first.Token+1))
	wantConflict(t, b.Locks().Unlock(t.Context(), "default", "l", first.Token))
	unlock(t, a, first)
	<-first.Lost
	wantConflict(t, a.Locks().Keep("default", "l", first.Token))
	second, err := b.Locks().TryLock(t.Context(), lockOf("y"))
	if err != nil || second.Token <= first.Token {
		t.Errorf("got %+v, %v after token %d", second, err, first.Token)
	}
}

// TestLockIsFair: over two nodes, those who wait get it in their order, and those
// who gave up are passed over.
func TestLockIsFair(t *testing.T) {
	site := newSite(t)
	nodes := []*node{site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b"})}
	held := lock(t, nodes[0], lockOf("first"))
	got := make(chan int, 10)
	locks := make([]*Lock, 10)
	var waiting sync.WaitGroup
	impatient, cancel := context.WithCancel(t.Context())
	for i := range 10 {
		ctx := t.Context()
		if i == 4 {
			ctx = impatient
		}
		waiting.Go(func() {
			l, err := nodes[i%2].Locks().Lock(ctx, lockOf(fmt.Sprint("w", i)))
			if i == 4 {
				if err == nil {
					t.Error("it was not to wait any more")
				}
				got <- i
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			locks[i] = l
			got <- i
		})
		awaitWaiting(t, nodes[0], i+1)
	}
	cancel()
	if i := <-got; i != 4 {
		t.Fatalf("%d got it", i)
	}
	last := held.Token
	unlock(t, nodes[0], held)
	for i := range 10 {
		if i == 4 {
			continue
		}
		if n := <-got; n != i {
			t.Fatalf("%d got it, want %d", n, i)
		}
		if locks[i].Token <= last {
			t.Errorf("token %d after %d", locks[i].Token, last)
		}
		last = locks[i].Token
		unlock(t, nodes[i%2], locks[i])
	}
	waiting.Wait()
}

// TestLockExcludes: of many on two nodes only one at a time holds it, and tokens
// rise.
func TestLockExcludes(t *testing.T) {
	site := newSite(t)
	nodes := []*node{site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b"})}
	var inside, highest atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 10 {
				d := nodes[i%2]
				l, err := d.Locks().Lock(t.Context(), lockOf(fmt.Sprint("w", i)))
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				if before := highest.Swap(int64(l.Token)); before >= int64(l.Token) {
					t.Errorf("token %d after %d", l.Token, before)
				}
				inside.Add(-1)
				if err := d.Locks().Unlock(t.Context(), "default", "l", l.Token); err != nil {
					t.Error(err)
				}
			}
		})
	}
	began := time.Now()
	all.Wait()
	t.Logf("80 times handed over in %v", time.Since(began))
}

func TestLockOfSilentNode(t *testing.T) {
	site := newSite(t)
	a := site.start(t, Options{Node: "a", Heartbeat: shortBeat})
	b := site.start(t, Options{Node: "b", Heartbeat: shortBeat, Lease: shortLease})
	first := lock(t, a, lockOf("x"))
	a.stop()
	began := time.Now()
	second := lock(t, b, lockOf("y"))
	t.Logf("with a lease of %v, got it after %v", shortLease, time.Since(began))
	if second.Token <= first.Token {
		t.Errorf("token %d after %d", second.Token, first.Token)
	}
}

// TestLockAfterRestart: who takes it up again before the node has settled has the
// same token; what nobody takes up is released.
func TestLockAfterRestart(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b", Lease: longLease})
	request := func(name string, ttl time.Duration) LockRequest {
		return LockRequest{Space: "default", Name: name, Holder: "x", TTL: ttl}
	}
	taken, left, timed := lock(t, a, request("taken", 0)), lock(t, a, request("left", 0)), lock(t, a, request("timed", longLease))
	a.stop()
	a = site.start(t, Options{Node: "a", Grace: longLease})
	if again := lock(t, a, request("taken", 0)); again.Token != taken.Token {
		t.Errorf("token %d, not %d", again.Token, taken.Token)
	}
	_, err := b.Locks().TryLock(t.Context(), LockRequest{Space: "default", Name: "left", Holder: "y"})
	wantConflict(t, err)
	a.Settle()
	if got := lock(t, b, LockRequest{Space: "default", Name: "left", Holder: "y"}); got.Token <= left.Token {
		t.Errorf("token %d after %d", got.Token, left.Token)
	}
	if err := a.Locks().Keep("default", "timed", timed.Token); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"taken", "timed"} {
		_, err := b.Locks().TryLock(t.Context(), LockRequest{Space: "default", Name: name, Holder: "y"})
		wantConflict(t, err)
	}
}

func TestLockTTL(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	req := lockOf("x")
	req.TTL = 50 * time.Millisecond
	began := time.Now()
	held := lock(t, d, req)
	lock(t, d, lockOf("y"))
	t.Logf("with a TTL of %v, the next got it after %v", req.TTL, time.Since(began))
	<-held.Lost
}

func TestLockAbandoned(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	req := lockOf("x")
	req.Delay = longLease
	held := lock(t, d, req)
	d.Locks().Abandon("default", "l", held.Token)
	_, err := d.Locks().TryLock(t.Context(), lockOf("y"))
	wantConflict(t, err)
	if again := lock(t, d, req); again.Token != held.Token {
		t.Error("its holder did not get it again")
	}
	unlock(t, d, held)
	req.Delay = 20 * time.Millisecond
	held = lock(t, d, req)
	d.Locks().Abandon("default", "l", held.Token)
	<-held.Lost
	lock(t, d, lockOf("y"))
}

// TestSlots: as many as there are slots hold one, and who waits gets the first that
// is free.
func TestSlots(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b"})
	first, err := a.Locks().TrySlot(t.Context(), lockOf("x"), 2)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Locks().LockSlot(t.Context(), lockOf("y"), 2)
	if err != nil || second.Name == first.Name {
		t.Fatalf("got %+v beside %+v, %v", second, first, err)
	}
	_, err = a.Locks().TrySlot(t.Context(), lockOf("z"), 2)
	wantConflict(t, err)
	got := make(chan *Lock)
	go func() {
		held, err := a.Locks().LockSlot(t.Context(), lockOf("z"), 2)
		if err != nil {
			t.Error(err)
		}
		got <- held
	}()
	for _, name := range []string{"l.1", "l.2"} {
		for {
			changed := b.Locks().Changed("default", name)
			if h, _ := b.Locks().Holder("default", name); h.Waiting == 1 {
				break
			}
			<-changed
		}
	}
	unlock(t, b, second)
	third := <-got
	if third == nil || third.Name != second.Name || third.Token <= second.Token {
		t.Errorf("got %+v after %+v", third, second)
	}
	if h, _ := a.Locks().Holder("default", first.Name); h.Holder != "x" || h.Waiting != 0 {
		t.Errorf("the other slot: %+v", h)
	}
	if again, err := a.Locks().Reclaim(t.Context(), lockOf("z"), 2); err != nil || again == nil || again.Token != third.Token {
		t.Errorf("reclaimed %+v, %v", again, err)
	}
	a.Locks().Forget(t.Context(), third)
	if none, err := a.Locks().Reclaim(t.Context(), lockOf("z"), 2); err != nil || none != nil {
		t.Errorf("reclaimed %+v, %v", none, err)
	}
}

// TestTokensRise over holders that give a lock back, lose it with their node, or
// take it up again, and over starts of the engine.
func TestTokensRise(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for start := range 4 {
		site := openSite(t, dir)
		a := site.start(t, Options{Node: "a", Grace: longLease})
		if start > 0 {
			if again := lock(t, a, lockOf("left")); again.Token != last {
				t.Errorf("start %d: taken up again with token %d, not %d", start, again.Token, last)
			} else {
				unlock(t, a, again)
			}
		}
		a.Settle()
		for i := range 4 {
			held := lock(t, a, lockOf(fmt.Sprint("w", i)))
			if held.Token <= last {
				t.Errorf("start %d: token %d after %d", start, held.Token, last)
			}
			last = held.Token
			switch i {
			case 0, 1:
				unlock(t, a, held)
			case 2: // its node dies, and nobody takes it up again
				a.stop()
				a = site.start(t, Options{Node: "a", Grace: longLease})
				a.Settle()
			case 3:
				unlock(t, a, held)
			}
		}
		last = lock(t, a, lockOf("left")).Token
		a.stop()
		site.close()
	}
}
