// Package reconcile is the leader's loop: it makes what runs match what is wanted.
//
// It reads the record (workloads, wishes, volumes, nodes, and what the nodes say
// of their replicas) and writes assignments, which the nodes carry out, and
// rollouts, which say how far a service has come. A release follows another bit
// by bit: as many instances more and less than wanted as the service allows, and
// never a healthy one fewer before the next one is healthy. A release that does
// not become healthy is given up, and the one before comes back.
//
//	            all are healthy
//	under-way ------------------> done
//	    |  \                       ^
//	    |   \ it fails, and there  | all are healthy after all
//	    |    \ is nothing before   |
//	    |     +----------------> failed
//	    | it fails
//	    +------> rolled-back
//
// A new release or a restart begins again at under-way, from each of them.
//
// What is decided depends on nothing but the record and the clock, and every
// write of an assignment loses to any other that was made meanwhile in its space.
// So two loops at once do no harm, and a loop that died is continued by the next
// one. Nothing is stopped unless the record is known to be current: what cannot be
// read is left alone.
//
// The loop sleeps until the record changes or a deadline passes.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// Bounds on time.
const (
	passTime  = time.Minute     // from looking to the last write; what was seen is too old then
	retryTime = 2 * time.Second // after the engine did not answer
)

// Clock is the time by which deadlines pass.
type Clock interface {
	Now() time.Time

	// At returns a channel that gets the time when it is t, and what gives the
	// channel up before.
	At(t time.Time) (c <-chan time.Time, stop func())
}

// Options tune a Reconciler. The zero value is fit for production.
type Options struct {
	Log   *slog.Logger // nil: nothing is logged
	Clock Clock        // the machine's if nil
}

// Reconciler is the loop.
type Reconciler struct {
	store    *store.Store
	log      *slog.Logger
	clock    Clock
	releases map[releaseKey]*mayfly.Release // that assignments name, besides the active ones
}

type releaseKey struct {
	store.Key
	number int
}

// Open returns a loop over a record. It begins with Run.
func Open(s *store.Store, opts Options) *Reconciler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = machineClock{}
	}
	return &Reconciler{store: s, log: opts.Log, clock: opts.Clock, releases: map[releaseKey]*mayfly.Release{}}
}

// Run keeps what runs as it is wanted until ctx ends, and returns nil then.
func (r *Reconciler) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		snap := r.store.Snapshot()
		seen := r.revisions(snap)
		wake, err := r.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case store.Lost(err): // another was first: look again
		case err != nil:
			r.log.Error("reconcile; it is tried again", "error", err)
			wake = r.clock.Now().Add(retryTime)
		}
		r.wait(ctx, snap, seen, wake)
	}
	return nil
}

// wait returns when something that is looked at has changed since snap, when it
// is time to wake, or when ctx ends.
func (r *Reconciler) wait(ctx context.Context, snap *store.Snapshot, seen [8]uint64, wake time.Time) {
	var timer <-chan time.Time
	if !wake.IsZero() {
		c, stop := r.clock.At(wake)
		defer stop()
		timer = c
	}
	for r.revisions(snap) == seen {
		select {
		case <-snap.Changed():
			snap = r.store.Snapshot()
		case <-timer:
			return
		case <-ctx.Done():
			return
		}
	}
}

// revisions says which state of the record is the present one, as far as it is
// looked at. The rest, such as containers of functions, changes more often.
func (r *Reconciler) revisions(snap *store.Snapshot) [8]uint64 {
	s := r.store
	return [8]uint64{snap.Deployed, s.Wishes.Revision(), s.Assignments.Revision(), s.Replicas.Revision(),
		s.Nodes.Revision(), s.Rollouts.Revision(), s.Volumes.Revision(), s.Scales.Revision()}
}

// pass looks, decides and writes once. It returns when to look again even if
// nothing changes; zero: not at all.
func (r *Reconciler) pass(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, passTime)
	defer cancel()
	if err := r.store.CatchUp(ctx); err != nil {
		return time.Time{}, err
	}
	v, err := r.look(ctx)
	if err != nil {
		return time.Time{}, err
	}
	changes, wake := plan(v)
	return wake, r.write(ctx, v, changes)
}

// write carries changes out, in order, until one loses.
func (r *Reconciler) write(ctx context.Context, v *view, changes []change) error {
	for i := range changes {
		c := &changes[i]
		if err := r.writeOne(ctx, v, c); err != nil {
			return fmt.Errorf("reconcile %s: %w", c.key.Name, err)
		}
		for _, n := range c.news {
			r.store.RecordNews(n)
		}
	}
	return nil
}

func (r *Reconciler) writeOne(ctx context.Context, v *view, c *change) (err error) {
	space, name := c.key.Space, c.key.Name
	switch c.do {
	case putAssignment:
		v.newest[space], err = r.store.Assignments.Chain(ctx, space, c.assignment.ID, &c.assignment, v.newest[space])
	case dropAssignment:
		v.newest[space], err = r.store.Assignments.Chain(ctx, space, c.assignment.ID, nil, v.newest[space])
	case dropReplica:
		err = r.store.Replicas.Delete(ctx, space, c.assignment.ID, c.seen)
	case putRollout:
		_, err = r.store.Rollouts.Put(ctx, space, name, c.rollout, c.seen)
	case dropRollout:
		err = r.store.Rollouts.Delete(ctx, space, name, c.seen)
	case dropWish:
		err = r.store.Wishes.Delete(ctx, space, name, c.seen)
	case dropScale:
		err = r.store.Scales.Delete(ctx, space, name, c.seen)
	default:
		err = errors.New("no such change")
	}
	return err
}

// machineClock is the clock on the wall.
type machineClock struct{}

func (machineClock) Now() time.Time { return time.Now() }

func (machineClock) At(t time.Time) (<-chan time.Time, func()) {
	timer := time.NewTimer(time.Until(t))
	return timer.C, func() { timer.Stop() }
}
