package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly/discovery"
)

// turn is a container's part in which replicas of its service are active: as many
// as the service says hold a lock each. The lock outlives the daemon, like the
// container. One that was active keeps it until the container has ended, also
// while it is not ready: its program may still be at work, and no two ever are.
// One that hangs is ended by its liveness probe.
type turn struct {
	locks   *discovery.Locks
	request discovery.LockRequest
	slots   int
	wake    chan struct{} // want has changed

	mu   sync.Mutex
	want bool
	held *discovery.Lock
	used bool // it was active since it holds that
}

// newTurn returns nil where all replicas are active. What the container held under
// an earlier daemon it holds again.
func (l *life) newTurn(ctx context.Context) *turn {
	slots := l.k.rel.Workload.Scale.Active
	if slots <= 0 {
		return nil
	}
	t := &turn{
		locks: l.k.r.dir.Locks(), slots: slots, wake: make(chan struct{}, 1),
		request: discovery.LockRequest{Space: l.k.a.Space, Name: "_active." + l.k.a.Workload, Holder: l.in.ID},
	}
	if l.adopted() {
		held, err := t.locks.Reclaim(ctx, t.request, slots)
		if err != nil && ctx.Err() == nil {
			l.k.node.opts.Log.Error("take up again that a replica is active", "instance", l.in.Name, "err", err)
		}
		t.held, t.want, t.used = held, held != nil, held != nil
	}
	return t
}

// standing reports whether the container is among those that may provide.
func (l *life) standing(ctx context.Context, ready bool) bool {
	t := l.turn
	if t == nil {
		return true
	}
	t.mu.Lock()
	first := ready && !t.want && t.held == nil
	t.mu.Unlock()
	var held *discovery.Lock
	if first { // so that the first one is never said to stand by
		held, _ = t.locks.TrySlot(ctx, t.request, t.slots)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if held != nil {
		t.held = held
	}
	if t.want != ready {
		t.want = ready
		wake(t.wake)
	}
	t.used = t.used || ready && t.held != nil
	return t.held != nil
}

// takeTurns waits for the container to be active while it wants that, until ctx
// ends. What it holds then it keeps.
func (l *life) takeTurns(ctx context.Context) {
	t := l.turn
	for ctx.Err() == nil {
		want, held := t.state()
		switch {
		case want && held == nil:
			if err := t.await(ctx); err != nil && ctx.Err() == nil {
				l.k.node.opts.Log.Error("wait to be the active replica", "instance", l.in.Name, "err", err)
				select {
				case <-time.After(time.Second): // the engine does not answer
				case <-ctx.Done():
				}
			}
			l.checks.poke()
		case held != nil && !want: // it came too late
			t.giveBack(ctx)
		case held != nil:
			select {
			case <-held.Lost:
				t.lose(held)
				l.checks.poke()
			case <-t.wake:
			case <-ctx.Done():
			}
		default:
			select {
			case <-t.wake:
			case <-ctx.Done():
			}
		}
	}
}

// state says whether the container is to be active, or was and may still be at
// work; and what it holds.
func (t *turn) state() (want bool, held *discovery.Lock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.want || t.used, t.held
}

// await waits in the queue until the container may be active, or does not want it.
func (t *turn) await(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		for {
			select {
			case <-t.wake:
				if want, _ := t.state(); !want {
					cancel()
					return
				}
			case <-waiting.Done():
				return
			}
		}
	})
	held, err := t.locks.LockSlot(waiting, t.request, t.slots)
	if err != nil {
		if waiting.Err() != nil {
			return nil
		}
		return fmt.Errorf("lock %s: %w", t.request.Name, err)
	}
	t.mu.Lock()
	t.held = held
	t.mu.Unlock()
	return nil
}

func (t *turn) lose(held *discovery.Lock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == held {
		t.held, t.used = nil, false
	}
}

// giveBack gives up what came when it was not wanted any more, unless it is again.
func (t *turn) giveBack(ctx context.Context) {
	t.mu.Lock()
	held := t.held
	if t.want || t.used || held == nil {
		t.mu.Unlock()
		return
	}
	t.held = nil
	t.mu.Unlock()
	t.locks.Forget(ctx, held)
}

// release gives the turn to the next in the queue. It may be nil.
func (t *turn) release(ctx context.Context) {
	if t == nil {
		return
	}
	_, held := t.state()
	if held == nil {
		return
	}
	t.lose(held)
	t.locks.Forget(ctx, held)
}
