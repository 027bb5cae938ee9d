package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/place"
	"github.com/mayfly-run/mayfly/store"
)

// planner turns a view into changes.
type planner struct {
	*view
	changes []change
	wake    time.Time // when something is due; zero: never
	wants   []want
}

// want is a replica that has no node yet.
type want struct {
	s      *service
	step   *step
	number int
}

// plan decides what is to be written now, and when to look again if nothing
// happens until then.
func plan(v *view) ([]change, time.Time) {
	p := &planner{view: v}
	steps := make([]*step, 0, len(v.services))
	for _, s := range v.services {
		switch {
		case s.wanted != nil:
			steps = append(steps, p.step(s))
		case s.gone:
			p.end(s)
		}
	}
	p.place()
	var notes []change // first: what was decided once is not decided anew after a crash
	for _, st := range steps {
		notes = st.note(notes)
	}
	return append(notes, p.changes...), p.wake
}

// by has the plan made again at t.
func (p *planner) by(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// end stops what is left of a service that is not wanted any more, and then
// forgets it.
func (p *planner) end(s *service) {
	for _, sl := range s.slots {
		if p.over(s, sl) {
			continue
		}
		if sl.Stop && sl.Patient {
			sl.Stop, sl.Patient = false, false // it is told once more
		}
		p.stop(s, sl, "the service was deleted")
	}
	if len(s.slots) > 0 {
		return
	}
	if s.rolloutRev != 0 {
		p.changes = append(p.changes, change{do: dropRollout, key: s.Key, seen: s.rolloutRev})
	}
	if s.scaledRev != 0 {
		p.changes = append(p.changes, change{do: dropScale, key: s.Key, seen: s.scaledRev})
	}
	if s.wishRev != 0 {
		p.changes = append(p.changes, change{do: dropWish, key: s.Key, seen: s.wishRev})
	}
}

// over removes an assignment that is carried out to the end, or whose node is not
// there any more, and reports whether it was one. Should the node come back, it
// stops what nobody assigns to it.
func (p *planner) over(s *service, sl *slot) bool {
	stopped := sl.replica != nil && sl.replica.State == mayfly.ReplicaStopped
	if !stopped && !sl.lost {
		return false
	}
	c := change{do: dropAssignment, key: s.Key, assignment: sl.Assignment}
	if sl.lost {
		c.news = append(c.news, s.news("replica.lost", fmt.Sprintf("replica %d of release %d was on node %s, which is gone", sl.Replica, sl.Release, sl.Node), sl.Release, sl.Replica, sl.Node))
	}
	if sl.lost && sl.replica != nil { // its node would remove it; first, for the assignment tells that it is there
		p.changes = append(p.changes, change{do: dropReplica, key: s.Key, assignment: sl.Assignment, seen: sl.replicaRev})
	}
	p.changes = append(p.changes, c)
	return true
}

func (p *planner) stop(s *service, sl *slot, why string) {
	if sl.Stop {
		return
	}
	a := sl.Assignment
	a.Stop, a.Reason = true, why
	p.changes = append(p.changes, change{do: putAssignment, key: s.Key, assignment: a})
}

// place finds nodes for all that is wanted, the largest first.
func (p *planner) place() {
	if len(p.wants) == 0 {
		return
	}
	requests := make([]place.Request, len(p.wants))
	for i, w := range p.wants {
		requests[i] = p.request(w)
	}
	for i, answer := range place.Place(p.board(), requests) {
		w := p.wants[i]
		if answer.Node == "" {
			w.step.unplaced(w.number, answer.Reason)
			continue
		}
		a := mayfly.Assignment{
			ID: p.id(), Space: w.s.Space, Workload: w.s.Name, Release: w.step.target.Number, Generation: w.step.next.Generation,
			Replica: w.number, Node: answer.Node, Reason: w.step.why, Created: p.now,
		}
		text := fmt.Sprintf("replica %d of release %d runs on node %s", a.Replica, a.Release, a.Node)
		p.changes = append(p.changes, change{do: putAssignment, key: w.s.Key, assignment: a,
			news: []mayfly.News{w.s.news("replica.placed", text, a.Release, a.Replica, a.Node)}})
	}
}

// board is the nodes with what they have.
func (p *planner) board() []place.Node {
	nodes := make([]place.Node, len(p.nodes))
	index := map[string]*place.Node{}
	for i, n := range p.nodes {
		nodes[i] = place.Node{Name: n.Name, Labels: n.Labels, Memory: n.Memory, CPUs: n.CPUs}
		index[n.Name] = &nodes[i]
	}
	for _, s := range p.services {
		for _, sl := range s.slots {
			if sl.replica != nil && sl.replica.State == mayfly.ReplicaStopped {
				continue // it has nothing any more
			}
			if n := index[sl.Node]; n != nil {
				n.Has = append(n.Has, s.load(s.releases[sl.Release], sl.Replica))
			}
		}
	}
	return nodes
}

// load is what an instance takes of a node, its sidecars included. Of a release
// that is not known any more it is nothing.
func (s *service) load(rel *mayfly.Release, replica int) place.Load {
	l := place.Load{Space: s.Space, Service: s.Name, Replica: replica}
	if rel == nil {
		return l
	}
	w := &rel.Workload
	l.Memory, l.CPUs = w.Memory, w.CPUs
	if w.Service != nil {
		l.Ports = w.Service.Ports
		for i := range w.Service.Sidecars {
			l.Memory += w.Service.Sidecars[i].Memory
			l.CPUs += w.Service.Sidecars[i].CPUs
		}
	}
	return l
}

func (p *planner) request(w want) place.Request {
	rel := w.step.target
	r := place.Request{Load: w.s.load(rel, w.number), Labels: rel.Workload.Service.Nodes}
	for _, m := range volumesOf(&rel.Workload) {
		if v := p.volumes[store.Key{Space: w.s.Space, Name: m.Volume}]; v.Node != "" {
			r.Node, r.Why = v.Node, "volume "+m.Volume+" is there"
			break
		}
	}
	return r
}

// volumesOf is what an instance mounts, its sidecars included.
func volumesOf(w *mayfly.Workload) []mayfly.VolumeMount {
	all := slices.Clip(w.Volumes)
	if w.Service != nil {
		for i := range w.Service.Sidecars {
			all = append(all, w.Service.Sidecars[i].Volumes...)
		}
	}
	return all
}

// note writes a service's rollout down when it is another than before.
func (st *step) note(notes []change) []change {
	s := st.service
	if len(st.ending) > 0 {
		st.next.Unplaced = "" // what ends may leave room, and is about to
	}
	if st.next == s.rollout && s.rolloutRev != 0 {
		return notes
	}
	if st.next.Unplaced != "" && st.next.Unplaced != s.rollout.Unplaced {
		st.news = append(st.news, s.news("replica.unplaced", st.next.Unplaced, st.target.Number, 0, ""))
	}
	return append(notes, change{do: putRollout, key: s.Key, rollout: st.next, seen: s.rolloutRev, news: st.news})
}

// byNumber sorts slots: the lower replica first, the older of two first.
func byNumber(list []*slot) {
	slices.SortFunc(list, func(a, b *slot) int {
		return cmp.Or(cmp.Compare(a.Replica, b.Replica), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}
