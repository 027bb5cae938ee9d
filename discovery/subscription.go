package discovery

import (
	"cmp"
	"context"
	"slices"

	"github.com/mayfly-run/mayfly"
)

// Consumer is who requires something.
type Consumer struct {
	Space    string `json:"space"` // where a requirement that names no space looks
	App      string `json:"app,omitempty"`
	Workload string `json:"workload,omitempty"`
	Instance string `json:"instance,omitempty"` // decides, with the workload, which one of several endpoints is chosen
	Zone     string `json:"zone,omitempty"`     // what SameZone prefers

	// Has is which endpoints it already uses, by id, as from before a restart. They
	// are chosen rather than others, and drains of those that are not there any more
	// wait for its first acknowledgement.
	Has   []string `json:"-"`
	NoAck bool     `json:"-"` // it never acknowledges, and no drain waits for it
}

func (c *Consumer) key() string { return c.Space + "/" + c.Workload + "/" + c.Instance }

// Subscription tells one consumer what it may use. Its methods are safe for
// concurrent use.
type Subscription struct {
	consumer Consumer
	require  mayfly.Require
	view     *view
	group    *group
	hash     uint64
	c        chan struct{}
	done     chan struct{}

	// Guarded by the view's mutex.
	closed   bool
	chosen   *entry // unless require.All
	chosenAt uint64 // when that began
	changed  uint64 // when chosen last changed
	read     uint64 // revision that Current last returned
	acked    uint64
	owes     []debt // endpoints that it has seen, and that went; oldest first
}

// debt is an endpoint of which is to be said that it is not used any more.
type debt struct {
	id       string
	revision uint64 // with which it is said
}

// maxOwed is for how many endpoints that went a consumer is waited for. It is met
// by one that never acknowledges.
const maxOwed = 4096

// watch adds a subscription.
func (v *view) watch(sel *selector, c Consumer, r mayfly.Require) *Subscription {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := &Subscription{consumer: c, require: r, view: v, c: make(chan struct{}, 1), done: make(chan struct{})}
	if s.hash = hash(c.key()); c.Instance == "" {
		v.anon++
		s.hash += v.anon
	}
	b := v.bucket(sel.bucket)
	if s.group = b.groups[sel.id]; s.group == nil {
		s.group = newGroup(b, sel, v.clock.Load())
		b.groups[sel.id] = s.group
	}
	s.group.add(s, v.clock.Load())
	first := s.changed // what its first acknowledgement says
	if r.All {
		first = s.group.changed
	}
	for _, id := range c.Has {
		if v.entries[id] == nil {
			s.owe(id, first)
		}
	}
	return s
}

// C has a value when Current has changed since it was last received from. Several
// changes may be one value. It is not closed.
func (s *Subscription) C() <-chan struct{} { return s.c }

// Done is closed by Close.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Consumer is who subscribed.
func (s *Subscription) Consumer() Consumer { return s.consumer }

// Require is what was subscribed to.
func (s *Subscription) Require() mayfly.Require { return s.require }

// Current returns what the consumer may use: one endpoint, or all in a stable
// order, or none. The slice is shared and must not be written to. The revision is
// for Ack; it rises with each change.
func (s *Subscription) Current() (endpoints []mayfly.Endpoint, revision uint64) {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	if s.require.All {
		s.read = s.group.changed
		return s.group.endpoints(), s.read
	}
	s.read = s.changed
	if s.chosen != nil {
		endpoints = []mayfly.Endpoint{s.chosen.Endpoint}
	}
	return endpoints, s.read
}

// Ack says that the consumer uses what Current returned with the revision, and
// nothing that went before it.
func (s *Subscription) Ack(revision uint64) {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	revision = min(revision, s.read) // what was not read cannot be used
	if s.closed || revision <= s.acked {
		return
	}
	s.acked = revision
	s.settle(revision)
}

// Close ends the subscription. Nobody waits for it any more.
func (s *Subscription) Close() {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.done)
	s.settle(^uint64(0))
	s.group.drop(s)
	if b := s.group.bucket; s.group.empty() {
		delete(b.groups, s.group.sel.id)
	}
	s.view.tidy(s.group.sel.bucket)
}

func (s *Subscription) chosenID() string {
	if s.chosen == nil {
		return ""
	}
	return s.chosen.ID
}

// owe notes that the consumer is to acknowledge the end of an endpoint.
func (s *Subscription) owe(id string, revision uint64) {
	if s.consumer.NoAck {
		return
	}
	if len(s.owes) >= maxOwed {
		s.settle(s.owes[0].revision)
	}
	s.owes = append(s.owes, debt{id, revision})
	if s.view.owed[id] == nil {
		s.view.owed[id] = map[*Subscription]uint64{}
	}
	s.view.owed[id][s] = revision
}

// settle forgets what is owed up to a revision.
func (s *Subscription) settle(revision uint64) {
	i := slices.IndexFunc(s.owes, func(d debt) bool { return d.revision > revision })
	if i < 0 {
		i = len(s.owes)
	}
	if i == 0 {
		return
	}
	for _, d := range s.owes[:i] {
		if subs := s.view.owed[d.id]; subs[s] == d.revision {
			if delete(subs, s); len(subs) == 0 {
				delete(s.view.owed, d.id)
			}
		}
	}
	if s.owes = s.owes[i:]; len(s.owes) == 0 {
		s.owes = nil
	}
	for c := range s.view.paid {
		wakeUp(c)
	}
}

// awaitPaid waits until nobody owes anything for the endpoints, or ctx ends, and
// returns who still does.
func (v *view) awaitPaid(ctx context.Context, ids []string) []Consumer {
	c := make(chan struct{}, 1)
	v.mu.Lock()
	v.paid[c] = struct{}{}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		delete(v.paid, c)
		v.mu.Unlock()
	}()
	for {
		if !v.indebted(ids) {
			return nil
		}
		select {
		case <-c:
		case <-ctx.Done():
			return v.debtors(ids)
		}
	}
}

// indebted reports whether anybody owes anything for the endpoints.
func (v *view) indebted(ids []string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(ids, func(id string) bool { return len(v.owed[id]) > 0 })
}

// debtors lists whom a drain of the endpoints waits for.
func (v *view) debtors(ids []string) []Consumer {
	v.mu.Lock()
	defer v.mu.Unlock()
	seen := map[*Subscription]bool{}
	var list []Consumer
	for _, id := range ids {
		for s := range v.owed[id] {
			if !seen[s] {
				seen[s] = true
				list = append(list, s.consumer)
			}
		}
	}
	slices.SortFunc(list, func(a, b Consumer) int { return cmp.Compare(a.key(), b.key()) })
	return list
}
