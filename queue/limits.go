package queue

import (
	"context"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// limits are what a workload's active release says about its queue. The zero
// value is no limit.
type limits struct {
	concurrency int // granted at once
	rate        mayfly.Rate
	key         mayfly.KeyLimit
}

func limitsOf(w *mayfly.Workload) limits {
	return limits{concurrency: max(0, w.Concurrency), rate: w.Rate, key: w.Key}
}

// followRecord keeps limits current until ctx ends.
func (q *Queue) followRecord(ctx context.Context) {
	for {
		snap := q.store.Snapshot()
		q.applyLimits(snap)
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return
		}
	}
}

func (q *Queue) applyLimits(snap *store.Snapshot) {
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
			q.limits[flowKey{key.Space, key.Name}] = l
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
	if f, l := q.flows[key], q.limits[key]; f != nil && f.limits != l {
		f.limits = l
		q.update(f)
	}
}

// noteLimits makes the limits hold that a submission was resolved with, even
// if the news of its deployment has not come here yet.
func (q *Queue) noteLimits(p *publish) {
	if p.revision <= q.deployed || p.limits == q.limits[p.flow] {
		return
	}
	q.limits[p.flow] = p.limits
	q.setLimits(p.flow)
}
