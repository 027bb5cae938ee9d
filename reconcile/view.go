package reconcile

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// view is the record at one moment, as far as it matters here. Deciding reads
// nothing else. What it points to is shared and is not written to.
type view struct {
	now      time.Time
	id       func() string // makes ids
	services []*service
	nodes    []mayfly.NodeInfo
	volumes  map[store.Key]mayfly.Volume
	newest   map[string]uint64 // by space: where the chain of assignments is
}

// service is a workload that runs all the time, or did.
type service struct {
	store.Key
	wanted     *mayfly.Release // nil: none
	gone       bool            // it was deleted, or is a function now; with neither, nothing is known
	wish       mayfly.Wish
	wishRev    uint64
	scaled     *mayfly.Scaled // nil: nothing has scaled it yet
	scaledRev  uint64
	rollout    mayfly.Rollout
	rolloutRev uint64 // 0: there is none yet
	slots      []*slot
	releases   map[int]*mayfly.Release // of its slots and its rollout, where they still exist
}

// slot is an assignment and what its node says of it.
type slot struct {
	mayfly.Assignment
	replica    *mayfly.Replica // nil: nothing yet
	replicaRev uint64
	lost       bool // its node is not there any more, and another is
}

// look reads the record.
func (r *Reconciler) look(ctx context.Context) (*view, error) {
	s := r.store
	assignments := s.Assignments.State()
	v := &view{now: r.clock.Now().UTC(), id: mayfly.NewID, newest: assignments.Newest, volumes: map[store.Key]mayfly.Volume{}}
	all := map[store.Key]*service{}
	at := func(key store.Key) *service {
		if all[key] == nil {
			all[key] = &service{Key: key}
		}
		return all[key]
	}
	nodes := map[string]bool{}
	for _, rec := range s.Nodes.List("") {
		v.nodes = append(v.nodes, rec.Value)
		nodes[rec.Value.Name] = true
	}
	for _, rec := range s.Volumes.List("") {
		v.volumes[rec.Key] = rec.Value
	}
	for i := range assignments.Records {
		a := assignments.Records[i].Value
		sl := &slot{Assignment: a, lost: !nodes[a.Node] && len(nodes) > 0}
		if rep, ok := s.Replicas.Find(a.Space, a.ID); ok {
			sl.replica, sl.replicaRev = &rep.Value, rep.Revision
		}
		svc := at(store.Key{Space: a.Space, Name: a.Workload})
		svc.slots = append(svc.slots, sl)
	}
	for _, rec := range s.Rollouts.List("") {
		svc := at(rec.Key)
		svc.rollout, svc.rolloutRev = rec.Value, rec.Revision
	}
	for _, rec := range s.Wishes.List("") {
		svc := at(rec.Key)
		svc.wish, svc.wishRev = rec.Value, rec.Revision
	}
	for _, rec := range s.Scales.List("") {
		svc := at(rec.Key)
		svc.scaled, svc.scaledRev = &rec.Value, rec.Revision
	}
	snap := s.Snapshot()
	for key, w := range snap.Workloads {
		if w.Workload.Service != nil {
			at(key).wanted = &w.Release
		} else if all[key] != nil {
			all[key].gone = true
		}
	}
	for key, svc := range all {
		svc.gone = svc.gone || svc.wanted == nil && s.Deleted(key.Space, key.Name)
		v.services = append(v.services, svc)
	}
	slices.SortFunc(v.services, func(a, b *service) int {
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(a.Name, b.Name))
	})
	return v, r.readReleases(ctx, v)
}

// readReleases gives each service the releases that it still has to do with. Only
// those that are not the wanted one are read, and kept for as long as they matter.
func (r *Reconciler) readReleases(ctx context.Context, v *view) error {
	used := map[releaseKey]*mayfly.Release{}
	for _, svc := range v.services {
		svc.releases = map[int]*mayfly.Release{}
		if svc.wanted != nil {
			svc.releases[svc.wanted.Number] = svc.wanted
		}
		numbers := []int{svc.rollout.Stable, svc.rollout.Release}
		for _, sl := range svc.slots {
			numbers = append(numbers, sl.Release)
		}
		for _, n := range numbers {
			if n == 0 || svc.releases[n] != nil {
				continue
			}
			rel, err := r.release(ctx, releaseKey{svc.Key, n})
			if err != nil {
				return err
			}
			used[releaseKey{svc.Key, n}], svc.releases[n] = rel, rel
		}
	}
	r.releases = used
	return nil
}

// release returns nil for one that does not exist.
func (r *Reconciler) release(ctx context.Context, key releaseKey) (*mayfly.Release, error) {
	if rel, ok := r.releases[key]; ok {
		return rel, nil
	}
	rel, err := r.store.Release(ctx, key.Space, key.Name, key.number)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil, nil
	}
	return &rel, err
}
