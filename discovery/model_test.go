package discovery

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
)

// viewModel is a view, and in plain maps what it is to show to whom.
type viewModel struct {
	view *view
	ends map[string]mayfly.Endpoint
	subs []*modelSub
	next int
}

type modelSub struct {
	*Subscription
	old  bool     // it was looked at before
	has  []string // what it showed then
	read []string // what it has read
	owes map[string]bool
}

// want is what a subscription may choose from, found the simple way.
func (m *viewModel) want(s *modelSub) (list []string) {
	var ends []mayfly.Endpoint
	near := false
	for _, e := range m.ends {
		r := s.require
		if r.Service != "" && e.Service != r.Service || r.Role != "" && e.Role != r.Role {
			continue
		}
		if tag, ok := r.Tags["t"]; ok && !slices.Contains(tag.In, e.Tags["t"]) {
			continue
		}
		ends = append(ends, e)
		near = near || r.SameZone && e.Zone == s.consumer.Zone
	}
	slices.SortFunc(ends, func(a, b mayfly.Endpoint) int { return order(&a, &b) })
	for _, e := range ends {
		if !near || e.Zone == s.consumer.Zone {
			list = append(list, name(e))
		}
	}
	return list
}

func named(list []mayfly.Endpoint) (names []string) {
	for _, e := range list {
		names = append(names, name(e))
	}
	return names
}

// name is all that may change of an endpoint, after its id.
func name(e mayfly.Endpoint) string {
	return fmt.Sprintf("%s:%d%s%s%s%s", e.ID, e.Port, e.Service, e.Role, e.Zone, e.Tags["t"])
}

func idOf(name string) string { return name[:2] }

func (m *viewModel) set(r *rapid.T) {
	id := fmt.Sprint("e", rapid.IntRange(0, 8).Draw(r, "id"))
	e := mayfly.Endpoint{
		ID: id, Space: "default",
		Service: rapid.SampledFrom([]string{"x", "y"}).Draw(r, "service"),
		Role:    rapid.SampledFrom([]string{"", "r", "q"}).Draw(r, "role"),
		Zone:    rapid.SampledFrom([]string{"a", "b"}).Draw(r, "zone"),
		Port:    uint16(rapid.IntRange(1, 2).Draw(r, "port")),
		Tags:    map[string]string{"t": rapid.SampledFrom([]string{"1", "2"}).Draw(r, "tag")},
	}
	m.ends[id] = e
	m.view.mu.Lock()
	m.view.set(id, &e)
	m.view.mu.Unlock()
	m.after(r)
}

func (m *viewModel) remove(r *rapid.T) {
	if len(m.ends) == 0 {
		r.Skip()
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(m.ends))).Draw(r, "id")
	delete(m.ends, id)
	m.view.mu.Lock()
	m.view.set(id, nil)
	m.view.mu.Unlock()
	m.after(r)
}

func (m *viewModel) watch(r *rapid.T) {
	m.next++
	req := mayfly.Require{
		SameZone: rapid.Bool().Draw(r, "sameZone"),
		All:      rapid.Bool().Draw(r, "all"),
	}
	switch rapid.IntRange(0, 2).Draw(r, "by") {
	case 0:
		req.Service = "x"
	case 1:
		req.Role = "r"
	default:
		req.Service, req.Role = "x", "r"
	}
	if rapid.Bool().Draw(r, "tags") {
		req.Tags = map[string]mayfly.Match{"t": {In: []string{"1"}}}
	}
	c := Consumer{Space: "default", Zone: "a", Instance: fmt.Sprint("c", m.next)}
	sel, err := newSelector(c, &req)
	if err != nil {
		r.Fatal(err)
	}
	m.subs = append(m.subs, &modelSub{Subscription: m.view.watch(sel, c, req), owes: map[string]bool{}})
	m.after(r)
}

func (m *viewModel) pick(r *rapid.T) *modelSub {
	if len(m.subs) == 0 {
		r.Skip()
	}
	return rapid.SampledFrom(m.subs).Draw(r, "sub")
}

func (m *viewModel) ack(r *rapid.T) {
	s := m.pick(r)
	list, revision := s.Current()
	s.read = named(list)
	s.Ack(revision)
	clear(s.owes)
}

func (m *viewModel) look(r *rapid.T) {
	s := m.pick(r)
	list, _ := s.Current()
	s.read = named(list)
}

func (m *viewModel) close(r *rapid.T) {
	s := m.pick(r)
	s.Close()
	s.Close()
	m.subs = slices.DeleteFunc(m.subs, func(o *modelSub) bool { return o == s })
}

// shown is what a subscription shows, without reading it.
func (s *modelSub) shown() []string {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	if s.require.All {
		return named(s.group.endpoints())
	}
	if s.chosen == nil {
		return nil
	}
	return named([]mayfly.Endpoint{s.chosen.Endpoint})
}

// after looks at every subscription after a change.
func (m *viewModel) after(r *rapid.T) {
	for _, s := range m.subs {
		want, got := m.want(s), s.shown()
		switch {
		case s.require.All:
			if !slices.Equal(got, want) {
				r.Fatalf("%v: shows %q, want %q", s.require, got, want)
			}
		case len(want) == 0 && len(got) > 0, len(want) > 0 && (len(got) != 1 || !slices.Contains(want, got[0])):
			r.Fatalf("%v: shows %q, want one of %q", s.require, got, want)
		case len(s.has) == 1 && slices.ContainsFunc(want, func(n string) bool { return idOf(n) == idOf(s.has[0]) }) && idOf(got[0]) != idOf(s.has[0]):
			r.Fatalf("%v: moved from %q to %q", s.require, s.has, got)
		}
		woken := false
		select {
		case <-s.C():
			woken = true
		default:
		}
		if s.old && woken != !slices.Equal(got, s.has) {
			r.Fatalf("%v: from %q to %q, told: %v", s.require, s.has, got, woken)
		}
		for _, name := range s.read {
			id := idOf(name)
			if !slices.ContainsFunc(got, func(n string) bool { return idOf(n) == id }) {
				s.owes[id] = true
			}
		}
		s.has, s.old = got, true
		s.read = slices.DeleteFunc(s.read, func(n string) bool { return s.owes[idOf(n)] })
	}
}

func (m *viewModel) check(r *rapid.T) {
	owed := map[string]int{}
	for _, s := range m.subs {
		for id := range s.owes {
			owed[id]++
			if _, ok := m.view.owed[id][s.Subscription]; !ok {
				r.Fatalf("nobody waits for %v, which has seen %s", s.require, id)
			}
		}
	}
	for id, subs := range m.view.owed {
		if len(subs) != owed[id] {
			r.Fatalf("%d are waited for because of %s, want %d", len(subs), id, owed[id])
		}
	}
	if len(m.subs) == 0 && len(m.ends) == 0 && len(m.view.buckets) > 0 {
		r.Fatalf("buckets are left: %v", m.view.buckets)
	}
}

// TestViewAgreesWithModel: every subscription shows what it is to show, keeps what
// it has, is told if and only if that changes, and is waited for if and only if
// it has seen what went.
func TestViewAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &viewModel{view: newView(), ends: map[string]mayfly.Endpoint{}}
		r.Repeat(map[string]func(*rapid.T){
			"set": m.set, "remove": m.remove, "watch": m.watch, "ack": m.ack, "look": m.look, "close": m.close, "": m.check,
		})
	})
}
