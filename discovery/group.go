package discovery

import (
	"slices"

	"github.com/mayfly-run/mayfly"
)

// entry is an endpoint in the view. It is never changed, only replaced.
type entry struct {
	mayfly.Endpoint
	hash uint64
}

// bucket is the endpoints of one service or role, and the groups of those who
// choose among them.
type bucket struct {
	entries []*entry // in order
	groups  map[string]*group
}

// group is all subscriptions that select the same. What they may choose from is
// kept once, and a change is matched once for all of them.
type group struct {
	sel    *selector
	bucket *bucket
	tiers  [2][]*member // in order; those in the preferred zone, and the others
	tier   int          // the one that is chosen from

	all     map[*Subscription]struct{} // want every endpoint
	changed uint64                     // when what they get last changed
	list    []mayfly.Endpoint          // what they get; nil until somebody asks
	one     map[string]map[*Subscription]struct{}
}

// member is an endpoint that matches.
type member struct {
	*entry
	since uint64 // when it could first be chosen
}

func newGroup(b *bucket, sel *selector, now uint64) *group {
	g := &group{sel: sel, bucket: b, all: map[*Subscription]struct{}{}, one: map[string]map[*Subscription]struct{}{}, changed: now}
	for _, e := range b.entries {
		if sel.matches(&e.Endpoint) {
			t := g.tierOf(e)
			g.tiers[t] = append(g.tiers[t], &member{e, now})
		}
	}
	g.tier = g.best()
	return g
}

func (g *group) empty() bool { return len(g.all) == 0 && len(g.one) == 0 }

func (g *group) tierOf(e *entry) int {
	if g.sel.zone != "" && e.Zone == g.sel.zone {
		return 0
	}
	return 1
}

func (g *group) best() int {
	if len(g.tiers[0]) > 0 {
		return 0
	}
	return 1
}

func (g *group) candidates() []*member { return g.tiers[g.tier] }

// endpoints is what those who want all of them get.
func (g *group) endpoints() []mayfly.Endpoint {
	if g.list == nil {
		g.list = make([]mayfly.Endpoint, len(g.candidates()))
		for i, m := range g.candidates() {
			g.list[i] = m.Endpoint
		}
	}
	return g.list
}

// find returns where an endpoint is in a list, or would be.
func find(list []*member, e *entry) (int, bool) {
	return slices.BinarySearchFunc(list, e, func(m *member, e *entry) int { return order(&m.Endpoint, &e.Endpoint) })
}

// replace makes one endpoint another: old is nil when it appears, e is nil when it
// goes. now is later than any change before.
func (g *group) replace(old, e *entry, now uint64) {
	since, had := now, false // it could be chosen
	if old != nil && g.sel.matches(&old.Endpoint) {
		if at, ok := g.remove(old); ok {
			since, had = at, true
		}
	}
	has := false
	if e != nil && g.sel.matches(&e.Endpoint) {
		t := g.tierOf(e)
		i, _ := find(g.tiers[t], e)
		g.tiers[t] = slices.Insert(g.tiers[t], i, &member{e, since})
		has = t == g.best()
	}
	if best := g.best(); best != g.tier {
		var kept *entry
		if had && has {
			kept = e
		}
		g.turn(best, kept, now)
	} else if had || has {
		g.tellAll(now)
	}
	switch {
	case had && has:
		g.renew(e, now)
	case had:
		g.gone(old.ID, since, now)
		g.choose(old.ID, now)
	case has:
		g.choose("", now)
	}
}

// remove returns since when the endpoint could be chosen, and whether it could.
func (g *group) remove(e *entry) (since uint64, ok bool) {
	t := g.tierOf(e)
	i, ok := find(g.tiers[t], e)
	if !ok {
		return 0, false
	}
	since = g.tiers[t][i].since
	g.tiers[t] = slices.Delete(g.tiers[t], i, i+1)
	return since, t == g.tier
}

// turn goes over to the other tier. What was in the former one is gone; kept is
// in both.
func (g *group) turn(tier int, kept *entry, now uint64) {
	former := g.candidates()
	g.tier = tier
	g.tellAll(now)
	for _, m := range g.candidates() {
		if m.entry != kept {
			m.since = now
		}
	}
	for _, m := range former {
		g.gone(m.ID, m.since, now)
		g.choose(m.ID, now)
	}
}

func (g *group) tellAll(now uint64) {
	g.list, g.changed = nil, now
	for s := range g.all {
		wakeUp(s.c)
	}
}

// gone notes that those who have seen an endpoint are to say that they have
// turned away from it.
func (g *group) gone(id string, since, now uint64) {
	for s := range g.all {
		if s.read >= since {
			s.owe(id, now)
		}
	}
	for s := range g.one[id] {
		if s.read >= s.chosenAt {
			s.owe(id, now)
		}
	}
}

// renew tells those who chose an endpoint that it is not what it was.
func (g *group) renew(e *entry, now uint64) {
	for s := range g.one[e.ID] {
		s.chosen, s.changed = e, now
		wakeUp(s.c)
	}
}

// choose chooses anew for those who have the endpoint id, or none if it is empty.
func (g *group) choose(id string, now uint64) {
	subs := g.one[id]
	if len(subs) == 0 {
		return
	}
	delete(g.one, id)
	for s := range subs {
		g.chooseFor(s, now)
		wakeUp(s.c)
	}
}

func (g *group) chooseFor(s *Subscription, now uint64) {
	g.pick(s)
	s.changed, s.chosenAt = now, now
	id := s.chosenID()
	if g.one[id] == nil {
		g.one[id] = map[*Subscription]struct{}{}
	}
	g.one[id][s] = struct{}{}
}

// pick gives a consumer the endpoint that it had before, else the one that it is
// drawn to most.
func (g *group) pick(s *Subscription) {
	s.chosen = nil
	var best uint64
	for _, m := range g.candidates() {
		if slices.Contains(s.consumer.Has, m.ID) {
			s.chosen = m.entry
			return
		}
		if n := score(s.hash, m.hash); s.chosen == nil || n > best {
			s.chosen, best = m.entry, n
		}
	}
}

func (g *group) add(s *Subscription, now uint64) {
	if s.require.All {
		g.all[s] = struct{}{}
		return
	}
	g.chooseFor(s, now)
}

func (g *group) drop(s *Subscription) {
	delete(g.all, s)
	id := s.chosenID()
	if delete(g.one[id], s); len(g.one[id]) == 0 {
		delete(g.one, id)
	}
}
