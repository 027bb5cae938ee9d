package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/scale"
	"github.com/mayfly-run/mayfly/store"
)

// countOf is how many instances of a service there shall be: as people ask, else
// as the scaler says, else as the release does. What was never scaled begins with
// one that is there, so that it is seen whether it works.
func countOf(w *mayfly.Workload, scaled *mayfly.Scaled, wish *int) int {
	switch {
	case wish != nil:
		return *wish
	case !w.Scale.Scaled():
		return w.Scale.Count()
	case scaled == nil:
		return max(w.Scale.Count(), 1)
	}
	return min(max(scaled.Count, w.Scale.Count()), w.Scale.Most())
}

// Requests are those that come to services by their routes. The router package
// gives them.
type Requests interface {
	// Needed gives decide what the requests of a service need, and needed the most
	// within idle. Wake is called when more instances are needed than decide
	// returns.
	Needed(space, workload string, idle time.Duration, decide func(scale.Needed) int)
}

// Scaler has services have as many instances as their requests need. What it
// decides it writes into the record, where the loop finds it; so the loop of
// another machine, or the next daemon's, goes on from there.
//
// It looks at a service when the router says that more is needed, when the record
// changes, and when it is time for fewer.
type Scaler struct {
	store *store.Store
	log   *slog.Logger
	clock Clock

	wake chan struct{}

	mu     sync.Mutex
	nudged map[store.Key]bool

	seen map[store.Key]*attended // of Run alone
}

// attended is a service that is scaled, as this loop knows it.
type attended struct {
	from time.Time // when it was seen first: what ran by then was needed
	due  time.Time // when it is to be looked at; zero: when something happens
}

// NewScaler returns a scaler of a record. It begins with Run.
func NewScaler(s *store.Store, opts Options) *Scaler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = machineClock{}
	}
	return &Scaler{store: s, log: opts.Log, clock: opts.Clock, wake: make(chan struct{}, 1),
		nudged: map[store.Key]bool{}, seen: map[store.Key]*attended{}}
}

// Wake says that a service needs more instances than it has been asked for. It
// does not block.
func (s *Scaler) Wake(space, workload string) {
	s.mu.Lock()
	s.nudged[store.Key{Space: space, Name: workload}] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run scales services until ctx ends, and returns nil then.
func (s *Scaler) Run(ctx context.Context, requests Requests) error {
	for ctx.Err() == nil {
		snap := s.store.Snapshot()
		wishes, rollouts := s.store.Wishes.Changed(), s.store.Rollouts.Changed()
		for key := range s.seen {
			if w := snap.Workloads[key]; w == nil || w.Workload.Service == nil || !w.Workload.Scale.Scaled() {
				delete(s.seen, key)
			}
		}
		for key, w := range snap.Workloads {
			if w.Workload.Service != nil && w.Workload.Scale.Scaled() {
				s.look(ctx, requests, key, w)
			}
		}
		s.attend(ctx, requests, snap, wishes, rollouts)
	}
	return nil
}

// attend looks at services one by one until the record has changed, or ctx ends.
func (s *Scaler) attend(ctx context.Context, requests Requests, snap *store.Snapshot, wishes, rollouts <-chan struct{}) {
	workloads, deployed := snap.Workloads, snap.Deployed
	for {
		timer, stop := s.timer()
		over := false
		select {
		case <-snap.Changed(): // most often containers, which are nothing to us
			snap = s.store.Snapshot()
			over = snap.Deployed != deployed
		case <-wishes:
			over = true
		case <-rollouts:
			over = true
		case <-s.wake:
		case <-timer:
		case <-ctx.Done():
			over = true
		}
		stop()
		if over {
			return
		}
		for _, key := range s.due() {
			if w := workloads[key]; w != nil {
				s.look(ctx, requests, key, w)
			}
		}
	}
}

// timer is for the service that is due first.
func (s *Scaler) timer() (<-chan time.Time, func()) {
	var first time.Time
	for _, a := range s.seen {
		if !a.due.IsZero() && (first.IsZero() || a.due.Before(first)) {
			first = a.due
		}
	}
	if first.IsZero() {
		return nil, func() {}
	}
	return s.clock.At(first)
}

// due is the services that are to be looked at now.
func (s *Scaler) due() (keys []store.Key) {
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, a := range s.seen {
		if s.nudged[key] || !a.due.IsZero() && !a.due.After(now) {
			keys = append(keys, key)
		}
	}
	clear(s.nudged)
	return keys
}

// look decides how many instances a service shall have, and writes it down if it
// is another number.
func (s *Scaler) look(ctx context.Context, requests Requests, key store.Key, w *store.Workload) {
	now := s.clock.Now().UTC()
	a := s.seen[key]
	if a == nil {
		a = &attended{from: now}
		s.seen[key] = a
	}
	a.due = time.Time{}
	b := scale.Of(&w.Workload)
	if wish, _ := s.store.Wishes.Find(key.Space, key.Name); wish.Value.Scale != nil {
		requests.Needed(key.Space, key.Name, b.Idle, func(scale.Needed) int { return math.MaxInt })
		a.from = now // what people asked for is not less than what is needed, as soon as they ask no more
		return
	}
	rec, known := s.store.Scales.Find(key.Space, key.Name)
	before := scale.State{Count: countOf(&w.Workload, nil, nil)}
	if known {
		before = scale.State{Count: rec.Value.Count, Down: rec.Value.Down}
	}
	if ro, _ := s.store.Rollouts.Find(key.Space, key.Name); ro.Value.Release != w.Number || ro.Value.State == mayfly.RolloutUnderWay {
		a.from = now // a release is tried though nobody asks for it
		b.Min = max(b.Min, 1)
	}
	var next scale.State
	var what scale.Needed
	requests.Needed(key.Space, key.Name, b.Idle, func(n scale.Needed) int {
		next, a.due = decide(b, before, n, a.from, now)
		what = n
		if b.Max > 0 && next.Count >= b.Max {
			return math.MaxInt // nothing more can be done
		}
		return next.Count
	})
	if known && next.Count == before.Count {
		return
	}
	why := because(b, before.Count, next.Count, what)
	_, err := s.store.Scales.Put(ctx, key.Space, key.Name, mayfly.Scaled{Count: next.Count, Down: next.Down, Since: now, Why: why}, rec.Revision)
	if err != nil {
		if ctx.Err() == nil && !store.Lost(err) {
			s.log.Error("scale a service; it is tried again", "service", key.Name, "error", err)
		}
		a.due = now.Add(retryTime)
		return
	}
	if next.Count != before.Count {
		s.store.RecordNews(mayfly.News{Space: key.Space, Type: "service.scaled", Subject: key.Name, Release: w.Number,
			Text: fmt.Sprintf("scaled from %d to %d: %s", before.Count, next.Count, why)})
	}
}

// decide says how many instances there shall be, and when to look again. What ran
// at the time from counts as needed then.
func decide(b scale.Bounds, before scale.State, n scale.Needed, from, now time.Time) (next scale.State, due time.Time) {
	need := scale.Need(b, n.Load)
	held := max(n.Held, need)
	young := now.Before(from.Add(b.Idle))
	if young {
		held = max(held, before.Count)
	}
	next, due = scale.Next(b, before, need, held, now)
	by := func(t time.Time) {
		if due.IsZero() || t.Before(due) {
			due = t
		}
	}
	if next.Count > b.Min {
		by(now.Add(b.Idle)) // the router tells of more, not of less
	}
	if young && next.Count > b.Min {
		by(from.Add(b.Idle))
	}
	if !n.Until.IsZero() && next.Count > b.Min {
		by(n.Until.Add(b.Idle))
	}
	if n.Waiting > 0 && (b.Max == 0 || next.Count < b.Max) {
		by(now.Add(scale.Later(n.Oldest)))
	}
	return next, due
}

// because says for people why there are more or fewer.
func because(b scale.Bounds, before, after int, n scale.Needed) string {
	switch {
	case after == 0:
		return fmt.Sprintf("nobody has asked for it for %s", b.Idle)
	case after < before:
		return fmt.Sprintf("no more were needed for %s", b.Idle)
	case n.InFlight+n.Waiting == 0:
		return "so many are to be there always, or for a new release"
	case before == 0 && n.Waiting == 1:
		return "a request waits for it"
	case before == 0:
		return fmt.Sprintf("%d requests wait for it", n.Waiting)
	}
	return fmt.Sprintf("%d requests are under way, %d wait, and an instance serves %d", n.InFlight, n.Waiting, b.Each)
}
