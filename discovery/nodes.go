package discovery

import (
	"time"

	"github.com/mayfly-run/mayfly"
)

// nodes is what each node has said, and the view that follows from it: of an
// endpoint that several nodes vouch for, this node's word counts, else that of
// whichever is alive.
//
//	          heard of            silent for a lease
//	unknown ───────────> alive ──────────────────────> lost
//	                       ^         heard of            │
//	                       └─────────────────────────────┘
//
// What a lost node said is kept, but not shown.
type nodes struct {
	*view
	self  string
	lease time.Duration
	each  map[string]*nodeState

	sweepAt time.Time // when endSweep is due; zero: never
}

type nodeState struct {
	lost  bool
	until time.Time // when it is lost, unless it is heard of
	epoch uint64    // of its newest start that is known
	has   map[string]vouched
}

// vouched is an endpoint as a node published it.
type vouched struct {
	mayfly.Endpoint
	epoch  uint64
	unread bool // the stream is read anew, and it did not come yet
}

func newNodes(self string, lease time.Duration) *nodes {
	return &nodes{view: newView(), self: self, lease: lease, each: map[string]*nodeState{self: {has: map[string]vouched{}}}}
}

// node returns the state of a node. One that is new is given a lease.
func (n *nodes) node(name string, now time.Time) *nodeState {
	state := n.each[name]
	if state == nil {
		state = &nodeState{until: now.Add(n.lease), has: map[string]vouched{}}
		n.each[name] = state
	}
	return state
}

// put takes what a node published of an endpoint, nil being that it withdrew it.
// An earlier start's word does not count against a later one's.
func (n *nodes) put(node, id string, e *vouched, now time.Time) (changed bool) {
	state := n.node(node, now)
	if e == nil {
		delete(state.has, id)
	} else {
		if old, ok := state.has[id]; ok && old.epoch > e.epoch {
			return false
		}
		state.has[id] = *e
	}
	return n.refresh(id)
}

// refresh shows of an endpoint what is to be shown.
func (n *nodes) refresh(id string) bool { return n.set(id, n.shown(id)) }

func (n *nodes) shown(id string) *mayfly.Endpoint {
	if e, ok := n.each[n.self].has[id]; ok {
		return &e.Endpoint
	}
	var best string
	for name, state := range n.each {
		if _, ok := state.has[id]; ok && !state.lost && (best == "" || name < best) {
			best = name
		}
	}
	if best == "" {
		return nil
	}
	e := n.each[best].has[id].Endpoint
	return &e
}

// heard notes that a node is alive, and reports whether it had been lost.
func (n *nodes) heard(node string, epoch uint64, now time.Time) (back bool) {
	state := n.node(node, now)
	if epoch < state.epoch {
		return false
	}
	state.epoch = epoch
	state.until = now.Add(n.lease)
	if !state.lost {
		return false
	}
	state.lost = false
	for id := range state.has {
		n.refresh(id)
	}
	return true
}

// expire takes away what nodes had said that have been silent for a lease. It
// returns their names.
func (n *nodes) expire(now time.Time) (lost []string) {
	if !n.sweepAt.IsZero() && !now.Before(n.sweepAt) {
		n.endSweep()
	}
	for name, state := range n.each {
		if name == n.self || state.lost || now.Before(state.until) {
			continue
		}
		state.lost = true
		lost = append(lost, name)
		for id := range state.has {
			n.refresh(id)
		}
	}
	return lost
}

// excuse gives every node a fresh lease, after a time in which this one could not
// hear them.
func (n *nodes) excuse(now time.Time) {
	for _, state := range n.each {
		state.until = now.Add(n.lease)
	}
}

// sweep begins a reading of the stream from its beginning, which may be another
// one: what other nodes had said goes unless it is read again within a lease.
func (n *nodes) sweep(now time.Time) {
	n.sweepAt = now.Add(n.lease)
	for name, state := range n.each {
		if name == n.self {
			continue
		}
		for id, e := range state.has {
			e.unread = true
			state.has[id] = e
		}
	}
}

func (n *nodes) endSweep() {
	n.sweepAt = time.Time{}
	for _, state := range n.each {
		for id, e := range state.has {
			if e.unread {
				delete(state.has, id)
				n.refresh(id)
			}
		}
	}
}
