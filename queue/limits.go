package queue

import (
	"context"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// limits are what a workload's active release says about its queue. The zero
// value is no limit.
type limits struct {
	concurrency int     // granted at once
	rate        float64 // started a second
	burst       float64
	since       time.Time // of the rate; zero when it was there at Open
	key         mayfly.KeyLimit
}

// following are the limits after old ones, the rate being new at a time.
func (l limits) following(old limits, at time.Time) limits {
	switch {
	case l.rate == 0:
		l.since = time.Time{}
	case old.rate > 0:
		l.since = old.since
	default:
		l.since = at
	}
	return l
}

func limitsOf(w *mayfly.Workload) limits {
	l := limits{concurrency: max(0, w.Concurrency), key: w.Key}
	if w.Rate.PerSecond > 0 {
		l.rate, l.burst = w.Rate.PerSecond, float64(max(1, w.Rate.Burst))
	}
	return l
}

// bucket holds what a rate allows to start now. That of a workload is empty
// when the queue is opened, so that a restart brings no burst, and full when
// the rate is set later.
type bucket struct {
	tokens float64   // of which a start takes one
	at     time.Time // when they were counted
	timed  bool      // a timer waits for the next
}

// Bounds of timers of a rate. What a timer comes late is made up for, up to the
// slack: so much more than the burst may start at once.
const (
	rateSlack   = 10 * time.Millisecond
	rateLongest = time.Hour
)

// mayStart reports whether the rate of a flow lets a task start now. If not, the
// flow is looked at again when it does.
func (q *Queue) mayStart(f *flow) bool {
	l, b := f.limits, &f.bucket
	if l.rate == 0 {
		return true
	}
	at := time.Now()
	b.tokens = f.tokens(at)
	if b.at = at; b.tokens >= 1 {
		return true
	}
	if !b.timed {
		b.timed = true
		wait := rateLongest
		if seconds := (1 - b.tokens) / l.rate; seconds < wait.Seconds() {
			wait = time.Duration(seconds*float64(time.Second)) + time.Microsecond
		}
		q.addTimer(timer{at: at.Add(wait), flow: f})
	}
	return false
}

// tokens is how many tasks the rate of a flow lets start now.
func (f *flow) tokens(at time.Time) float64 {
	l, b := f.limits, &f.bucket
	return min(b.tokens+l.rate*at.Sub(b.at).Seconds(), l.burst+l.rate*rateSlack.Seconds())
}

// followRecord keeps limits current until ctx ends.
func (q *Queue) followRecord(ctx context.Context) {
	for {
		snap := q.store.Snapshot()
		q.applyLimits(snap, time.Now())
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return
		}
	}
}

// applyLimits takes the limits of a snapshot, new ones being set at a time.
func (q *Queue) applyLimits(snap *store.Snapshot, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if snap.Deployed <= q.deployed {
		return
	}
	q.deployed = snap.Deployed
	old := q.limits
	q.limits = map[flowKey]limits{}
	for key, w := range snap.Workloads {
		if l := limitsOf(&w.Workload); l != (limits{}) {
			key := flowKey{key.Space, key.Name}
			q.limits[key] = l.following(old[key], at)
		}
	}
	for key := range old {
		q.setLimits(key)
	}
	for key := range q.limits {
		q.setLimits(key)
	}
	q.match()
}

// setLimits gives a flow that is known the limits of its workload.
func (q *Queue) setLimits(key flowKey) {
	f, l := q.flows[key], q.limits[key]
	if f == nil || f.limits == l {
		return
	}
	switch {
	case f.limits.rate > 0:
		f.bucket.timed = false // the next may be due earlier now; a timer too many does no harm
	case l.since.IsZero():
		f.bucket = bucket{at: q.since}
	default:
		f.bucket = bucket{tokens: l.burst, at: l.since}
	}
	if f.limits.key != l.key {
		q.unblockAll(f)
	}
	f.limits = l
	q.update(f)
}

// noteLimits makes the limits hold that a submission was resolved with, even
// if the news of its deployment has not come here yet.
func (q *Queue) noteLimits(p *publish) {
	old := q.limits[p.flow]
	l := p.limits.following(old, time.Now())
	if p.revision > q.deployed && l != old {
		q.limits[p.flow] = l
		q.setLimits(p.flow)
	}
}
