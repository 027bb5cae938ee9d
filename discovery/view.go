package discovery

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mayfly-run/mayfly"
)

// view is every endpoint that is there, and who wants to know of which. A change
// costs a match for each group that chooses among the endpoints of the same
// service or role, and a signal for each subscription to which it makes a
// difference; however many others there are.
type view struct {
	clock atomic.Uint64 // counts changes: it is raised with mu held, before the change can be seen

	mu      sync.Mutex
	entries map[string]*entry
	buckets map[bucketKey]*bucket
	anon    uint64                              // subscriptions without an instance
	owed    map[string]map[*Subscription]uint64 // by endpoint: who is to acknowledge its end, with which revision
	paid    map[chan struct{}]struct{}          // whom an acknowledgement may concern
}

func newView() *view {
	v := &view{
		entries: map[string]*entry{}, buckets: map[bucketKey]*bucket{},
		owed: map[string]map[*Subscription]uint64{}, paid: map[chan struct{}]struct{}{},
	}
	v.clock.Store(1)
	return v
}

// set makes e what the endpoint id is, nil being nothing, and reports whether
// that is a change.
func (v *view) set(id string, e *mayfly.Endpoint) bool {
	old := v.entries[id]
	if old == nil && e == nil {
		return false
	}
	var next *entry
	if e != nil {
		next = &entry{Endpoint: *e, hash: hash(id)}
		if old != nil && same(&old.Endpoint, e) {
			return false
		}
		v.entries[id] = next
	} else {
		delete(v.entries, id)
	}
	v.apply(old, next, v.clock.Add(1))
	return true
}

func (v *view) apply(old, next *entry, now uint64) {
	var keys []bucketKey
	if old != nil {
		keys = keysOf(&old.Endpoint)
	}
	if next != nil {
		for _, key := range keysOf(&next.Endpoint) {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	for _, key := range keys {
		b := v.bucket(key)
		was, is := within(old, key), within(next, key)
		b.replace(was, is)
		for _, g := range b.groups {
			g.replace(was, is, now)
		}
		v.tidy(key)
	}
}

// within returns e if it is in the bucket.
func within(e *entry, key bucketKey) *entry {
	if e != nil && slices.Contains(keysOf(&e.Endpoint), key) {
		return e
	}
	return nil
}

func (v *view) bucket(key bucketKey) *bucket {
	b := v.buckets[key]
	if b == nil {
		b = &bucket{groups: map[string]*group{}}
		v.buckets[key] = b
	}
	return b
}

// tidy forgets a bucket in which there is nothing.
func (v *view) tidy(key bucketKey) {
	if b := v.buckets[key]; len(b.entries) == 0 && len(b.groups) == 0 {
		delete(v.buckets, key)
	}
}

func (b *bucket) replace(old, next *entry) {
	search := func(e *entry) (int, bool) {
		return slices.BinarySearchFunc(b.entries, e, func(a, b *entry) int { return order(&a.Endpoint, &b.Endpoint) })
	}
	if old != nil {
		if i, ok := search(old); ok {
			b.entries = slices.Delete(b.entries, i, i+1)
		}
	}
	if next != nil {
		i, _ := search(next)
		b.entries = slices.Insert(b.entries, i, next)
	}
}

// find is what a subscription of the moment would get.
func (v *view) find(sel *selector, c Consumer, all bool) []mayfly.Endpoint {
	b := v.buckets[sel.bucket]
	if b == nil {
		return nil
	}
	g := b.groups[sel.id]
	if g == nil {
		g = newGroup(b, sel, v.clock.Load())
	}
	if all {
		return g.endpoints()
	}
	s := &Subscription{consumer: c, hash: hash(c.key())}
	if g.pick(s); s.chosen == nil {
		return nil
	}
	return []mayfly.Endpoint{s.chosen.Endpoint}
}
