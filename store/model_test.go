package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// model is what the store promises, in plain maps, for one space.
type model struct {
	space     string
	last      map[string]int            // highest release number ever given
	releases  map[string][]int          // numbers that exist
	active    map[string]mayfly.Release // without times
	revision  map[string]uint64         // of workloads and instances, by name or id
	instances map[string]mayfly.Instance
}

func TestStoreAgreesWithModel(t *testing.T) {
	b, err := bus.Open(t.Context(), t.TempDir(), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var spaces atomic.Int64
	rapid.Check(t, func(r *rapid.T) {
		m := &machine{t: t, bus: b, model: model{
			space:     fmt.Sprintf("s%d", spaces.Add(1)),
			last:      map[string]int{},
			releases:  map[string][]int{},
			active:    map[string]mayfly.Release{},
			revision:  map[string]uint64{},
			instances: map[string]mayfly.Instance{},
		}}
		m.reopen(r)
		defer m.clear(r)
		r.Repeat(map[string]func(*rapid.T){
			"release":         m.release,
			"set":             m.set,
			"delete":          m.delete,
			"put instance":    m.putInstance,
			"update instance": m.updateInstance,
			"delete instance": m.deleteInstance,
			"reopen":          m.reopen,
			"":                m.check,
		})
	})
}

type machine struct {
	model
	t     *testing.T
	bus   *bus.Bus
	store *Store
}

func (m *machine) reopen(r *rapid.T) {
	if m.store != nil {
		m.store.Close()
	}
	var err error
	if m.store, err = Open(m.t.Context(), m.bus, Options{}); err != nil {
		r.Fatal(err)
	}
}

// clear keeps the next check from reading what this one wrote.
func (m *machine) clear(r *rapid.T) {
	m.store.Close()
	for _, name := range []string{bus.StateStream, bus.ReleasesStream} {
		stream, err := m.bus.JetStream().Stream(m.t.Context(), name)
		if err == nil {
			err = stream.Purge(m.t.Context())
		}
		if err != nil {
			r.Fatal(err)
		}
	}
}

func want(r *rapid.T, err error, kind mayfly.Kind) {
	if mayfly.KindOf(err) != kind {
		r.Fatalf("got error %v, want kind %q", err, kind)
	}
}

func (m *machine) name(r *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "name")
}

// seen draws a revision to act on: the right one, or one that is out of date.
func (m *machine) seen(r *rapid.T, of string) (revision uint64, right bool) {
	if rapid.Bool().Draw(r, "stale") {
		return m.revision[of] + 1, false
	}
	return m.revision[of], true
}

func (m *machine) release(r *rapid.T) {
	w := mayfly.Workload{Space: m.space, Name: m.name(r)}
	for _, path := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"/x", "/y", "/z"}), 0, 2, rapid.ID).Draw(r, "routes") {
		w.Routes = append(w.Routes, mayfly.Route{Path: path})
	}
	rel, err := m.store.PutRelease(m.t.Context(), w, "sha256:1")
	if err != nil || rel.Number != m.last[w.Name]+1 {
		r.Fatalf("release %d, %v; want %d", rel.Number, err, m.last[w.Name]+1)
	}
	m.last[w.Name] = rel.Number
	m.releases[w.Name] = append(m.releases[w.Name], rel.Number)
}

func (m *machine) set(r *rapid.T) {
	name := m.name(r)
	number := rapid.IntRange(1, 5).Draw(r, "number")
	seen, right := m.seen(r, name)
	rel, err := m.store.Release(m.t.Context(), m.space, name, number)
	rev, setErr := m.store.SetWorkload(m.t.Context(), m.space, name, number, seen)
	switch {
	case !slices.Contains(m.releases[name], number):
		want(r, err, mayfly.NotFound)
		want(r, setErr, mayfly.NotFound)
	case !right || m.routeTaken(name, rel.Workload.Routes):
		want(r, err, "")
		want(r, setErr, mayfly.Conflict)
	default:
		want(r, errors.Join(err, setErr), "")
		m.active[name], m.revision[name] = rel, rev
	}
}

func (m *machine) routeTaken(name string, routes []mayfly.Route) bool {
	for other, rel := range m.active {
		if other == name {
			continue
		}
		for _, route := range rel.Workload.Routes {
			if slices.Contains(routes, route) {
				return true
			}
		}
	}
	return false
}

func (m *machine) delete(r *rapid.T) {
	name := m.name(r)
	seen, right := m.seen(r, name)
	_, exists := m.active[name]
	err := m.store.DeleteWorkload(m.t.Context(), m.space, name, seen)
	switch {
	case !exists:
		want(r, err, mayfly.NotFound)
	case !right:
		want(r, err, mayfly.Conflict)
	default:
		want(r, err, "")
		delete(m.active, name)
		delete(m.revision, name)
		delete(m.releases, name)
	}
}

func (m *machine) putInstance(r *rapid.T) {
	in := mayfly.Instance{ID: mayfly.NewID(), Space: m.space, State: mayfly.Starting,
		Name: rapid.SampledFrom([]string{"", "p", "q"}).Draw(r, "name")}
	taken := false
	for _, other := range m.instances {
		taken = taken || in.Name != "" && other.Name == in.Name
	}
	rev, err := m.store.PutInstance(m.t.Context(), in)
	if taken {
		want(r, err, mayfly.Conflict)
		return
	}
	want(r, err, "")
	m.instances[in.ID], m.revision[in.ID] = in, rev
}

func (m *machine) anyInstance(r *rapid.T) (mayfly.Instance, bool) {
	ids := slices.Sorted(maps.Keys(m.instances))
	if len(ids) == 0 {
		return mayfly.Instance{ID: mayfly.NewID(), Space: m.space}, false
	}
	return m.instances[ids[rapid.IntRange(0, len(ids)-1).Draw(r, "instance")]], true
}

func (m *machine) updateInstance(r *rapid.T) {
	in, exists := m.anyInstance(r)
	in.State = rapid.SampledFrom([]mayfly.State{mayfly.Running, mayfly.Stopping, mayfly.Exited}).Draw(r, "state")
	seen, right := m.seen(r, in.ID)
	rev, err := m.store.UpdateInstance(m.t.Context(), in, seen)
	switch {
	case !exists:
		want(r, err, mayfly.NotFound)
	case !right:
		want(r, err, mayfly.Conflict)
	default:
		want(r, err, "")
		m.instances[in.ID], m.revision[in.ID] = in, rev
	}
}

func (m *machine) deleteInstance(r *rapid.T) {
	in, exists := m.anyInstance(r)
	err := m.store.DeleteInstance(m.t.Context(), m.space, in.ID)
	if !exists {
		want(r, err, mayfly.NotFound)
		return
	}
	want(r, err, "")
	delete(m.instances, in.ID)
	delete(m.revision, in.ID)
}

func (m *machine) check(r *rapid.T) {
	workloads := m.store.Workloads(m.space)
	if len(workloads) != len(m.active) {
		r.Fatalf("%d workloads, want %d", len(workloads), len(m.active))
	}
	for _, w := range workloads {
		name := w.Workload.Name
		if w.Number != m.active[name].Number || w.Revision != m.revision[name] {
			r.Fatalf("workload %s: release %d at %d, want %d at %d", name, w.Number, w.Revision, m.active[name].Number, m.revision[name])
		}
	}
	instances := m.store.Instances(m.space)
	if len(instances) != len(m.instances) {
		r.Fatalf("%d instances, want %d", len(instances), len(m.instances))
	}
	for _, in := range instances {
		if in.State != m.instances[in.ID].State || in.Revision != m.revision[in.ID] {
			r.Fatalf("instance %s is %s at %d, want %s at %d", in.ID, in.State, in.Revision, m.instances[in.ID].State, m.revision[in.ID])
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		list, err := m.store.Releases(m.t.Context(), m.space, name)
		if err != nil {
			r.Fatal(err)
		}
		if len(list) != len(m.releases[name]) {
			r.Fatalf("%d releases of %s, want %v", len(list), name, m.releases[name])
		}
	}
}
