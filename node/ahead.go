package node

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/store"
)

// ahead has instances ready for tasks that wait in the queue because all places
// are taken: as many as will be needed when places are free, over all functions.
type ahead struct {
	places *container.Places
	wake   chan struct{}

	mu   sync.Mutex
	told map[store.Key]bool // functions whose tasks wait, of which no pool knows yet
}

func newAhead(places int) *ahead {
	return &ahead{places: container.NewPlaces(places), wake: make(chan struct{}, 1), told: map[store.Key]bool{}}
}

// tell says that tasks of a function wait. It does not block.
func (a *ahead) tell(space, workload string) {
	a.mu.Lock()
	a.told[store.Key{Space: space, Name: workload}] = true
	a.mu.Unlock()
	wake(a.wake)
}

// take is the functions that were told of since.
func (a *ahead) take() map[store.Key]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := maps.Clone(a.told)
	clear(a.told)
	return told
}

// lookAhead tells pools of what waits for them, until ctx ends. A function with
// which nothing has begun yet begins only where there is a place for it.
func (r *Runner) lookAhead(ctx context.Context) {
	waiting := map[store.Key]bool{}
	for {
		for key := range waiting {
			if r.ahead.places.Left() == 0 {
				break
			}
			delete(waiting, key)
			if err := r.expect(ctx, key); err != nil && ctx.Err() == nil {
				r.opts.Log.Warn("make instances for tasks that wait; they are made when the tasks' turn comes", "workload", key.Name, "err", err)
			}
		}
		freed := r.ahead.places.Freed()
		if len(waiting) == 0 {
			freed = nil
		}
		select {
		case <-r.ahead.wake:
		case <-freed:
		case <-ctx.Done():
			return
		}
		maps.Copy(waiting, r.ahead.take())
	}
}

// expect tells the pool of a function's active release that tasks wait.
func (r *Runner) expect(ctx context.Context, key store.Key) error {
	n := r.node
	w, err := n.store.Function(key.Space, key.Name)
	if mayfly.KindOf(err) == mayfly.NotFound || n.opts.MaxWaiting < 0 {
		return nil // it was deleted, or the tasks are of images; or nothing is to wait
	}
	if err != nil {
		return err
	}
	of := keyOf(&w.Release)
	if err := n.use(of); err != nil {
		return err
	}
	defer n.done(of)
	f, err := n.function(ctx, &w.Release)
	if err != nil {
		return err
	}
	f.expect(container.Backlog{Places: r.ahead.places, Depth: func() (int, time.Duration) { return r.queue.Backlog(key.Space, key.Name) }})
	return nil
}
