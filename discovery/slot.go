package discovery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Slots are locks of one purpose, numbered from 1, of which a holder needs one:
// where not one, but so many at a time are to be active.

func (r LockRequest) slot(i int) LockRequest {
	r.Name = fmt.Sprintf("%s.%d", r.Name, i)
	return r
}

// LockSlot takes the first of so many slots that it gets. It waits until ctx ends.
func (l *Locks) LockSlot(ctx context.Context, req LockRequest, slots int) (*Lock, error) {
	if slots == 1 {
		return l.Lock(ctx, req.slot(1))
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	var first *Lock
	var failed error
	for i := range slots {
		all.Go(func() {
			held, err := l.Lock(waiting, req.slot(i+1))
			mu.Lock()
			spare := err == nil && first != nil
			switch {
			case err != nil && failed == nil:
				failed = err
			case err == nil && first == nil:
				first = held
			}
			mu.Unlock()
			cancel() // one is enough
			if spare {
				l.Forget(context.WithoutCancel(ctx), held)
			}
		})
	}
	all.Wait()
	if first != nil {
		return first, nil
	}
	return nil, failed
}

// TrySlot takes a slot that nobody holds and nobody waits for. Else the error is a
// Conflict.
func (l *Locks) TrySlot(ctx context.Context, req LockRequest, slots int) (held *Lock, err error) {
	for i := range slots {
		held, err = l.TryLock(ctx, req.slot(i+1))
		if mayfly.KindOf(err) != mayfly.Conflict {
			return held, err
		}
	}
	return nil, err
}

// Reclaim returns the slot that the holder has already, as from before a restart,
// or nil.
func (l *Locks) Reclaim(ctx context.Context, req LockRequest, slots int) (*Lock, error) {
	for i := range slots {
		slot := req.slot(i + 1)
		if h, ok := l.Holder(slot.Space, slot.Name); ok && h.Holder == req.Holder && h.Node == l.d.opts.Node {
			return l.TryLock(ctx, slot)
		}
	}
	return nil, nil
}

// Forget is Unlock for whoever cannot do anything about a failure: where it cannot
// be written now, it is tried again and again.
func (l *Locks) Forget(ctx context.Context, held *Lock) {
	err := l.Unlock(ctx, held.Space, held.Name, held.Token)
	if err == nil || mayfly.KindOf(err) == mayfly.Conflict { // lost before
		return
	}
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	if c, err := l.claimOf(held.Space, held.Name, held.Token); err == nil {
		c.until = time.Now()
		wakeUp(l.kick)
	}
}
