package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Mapped routes are beside the workloads in the state bucket, so that one
// condition covers both: of a map-route and a deploy that want the same route at
// the same time, one wins. No workload's name begins like this.
const mappedPrefix = "_route_"

// routeLogLength is how many changes of routes are remembered for those who
// follow them.
const routeLogLength = 4096

// RouteKey is what the requests have in common that routes are in conflict about.
type RouteKey struct{ Host, Path, Method string }

func routeKeyOf(r mayfly.Route) RouteKey {
	return RouteKey{strings.ToLower(r.Host), "/" + strings.Trim(r.Path, "/"), r.Method}
}

// RouteTarget is a route, and the active release of the workload that it leads to.
type RouteTarget struct {
	mayfly.MappedRoute
	Active *mayfly.Release // shared; nil: the workload is not there
}

// RouteChanges is what became of routes: all that there are under each key, none
// meaning that there are none any more.
type RouteChanges struct {
	Version uint64 // for the next call
	All     bool   // these are all keys that there are
	Keys    map[RouteKey][]RouteTarget
}

// claims is what the mirror knows of routes.
type claims struct {
	byKey   map[RouteKey][]mayfly.MappedRoute
	mapped  map[Key]mayfly.MappedRoute // by space and name of the record
	of      map[Key]map[Key]bool       // by workload: which of them are its
	log     []RouteKey                 // the newest changes, the last of them being number version
	version uint64
}

func newClaims() claims {
	return claims{byKey: map[RouteKey][]mayfly.MappedRoute{}, mapped: map[Key]mayfly.MappedRoute{}, of: map[Key]map[Key]bool{}}
}

func (c *claims) changed(key RouteKey) {
	c.version++
	if len(c.log) >= 2*routeLogLength {
		c.log = append(c.log[:0], c.log[routeLogLength:]...)
	}
	c.log = append(c.log, key)
}

func (c *claims) add(r mayfly.MappedRoute) {
	key := routeKeyOf(r.Route)
	c.byKey[key] = append(c.byKey[key], r)
	c.changed(key)
}

// remove takes away the claims that fit.
func (c *claims) remove(key RouteKey, fits func(*mayfly.MappedRoute) bool) {
	left := slices.DeleteFunc(slices.Clone(c.byKey[key]), func(r mayfly.MappedRoute) bool { return fits(&r) })
	if len(left) == 0 {
		delete(c.byKey, key)
	} else {
		c.byKey[key] = left
	}
	c.changed(key)
}

// check refuses a route that others have already. Routes with weights share one;
// a workload may say the same of one twice.
func (c *claims) check(want mayfly.MappedRoute) error {
	for _, r := range c.byKey[routeKeyOf(want.Route)] {
		own := r.Space == want.Space && r.Workload == want.Workload
		switch {
		case r.Space != want.Space:
			return mayfly.Errorf(mayfly.Conflict, "route %s of %s belongs to another space", want.Route, want.Workload).
				WithHint("choose another host or path")
		case own && r.OfRelease() == want.OfRelease() && (r.OfRelease() || r.Release == want.Release): // it is replaced
		case own && r.Release == want.Release && r.Strip == want.Strip && r.Port == want.Port && r.Weight == want.Weight:
		case r.Weight > 0 && want.Weight > 0:
		case own && r.From == mayfly.RoutePush:
			return mayfly.Errorf(mayfly.Conflict, "route %s of %s was pushed with it, and says otherwise", want.Route, want.Workload).
				WithHint("push it without, or give both a weight")
		case own && r.OfRelease():
			return mayfly.Errorf(mayfly.Conflict, "route %s of %s is in its manifest, where it says otherwise", want.Route, want.Workload).
				WithHint("change it there, or give both a weight")
		case own:
			return mayfly.Errorf(mayfly.Conflict, "route %s of %s was mapped before, and says otherwise", want.Route, want.Workload).
				WithHint("give both a weight, or take that one away: mayfly unmap-route %s", RouteFlags(r))
		default:
			return mayfly.Errorf(mayfly.Conflict, "route %s of %s belongs to %s, which has it %s", want.Route, want.Workload, r.Workload, fromText(r.From)).
				WithHint("choose another path, give both a weight, or take it away from %s first", r.Workload)
		}
	}
	return nil
}

func fromText(from string) string {
	switch from {
	case mayfly.RouteManifest:
		return "from its manifest"
	case mayfly.RoutePush:
		return "by push"
	}
	return "by map-route"
}

// RouteFlags is a route as map-route and unmap-route take it.
func RouteFlags(r mayfly.MappedRoute) string {
	text := r.Workload
	if r.Host != "" {
		text += " --host '" + r.Host + "'"
	}
	if r.Path != "/" {
		text += " --path " + r.Path
	}
	if r.Method != "" {
		text += " --method " + r.Method
	}
	return text
}

// checkRoutes refuses routes of a release that belong to others. The mirror is
// locked.
func (m *mirror) checkRoutes(key Key, routes []mayfly.Route) error {
	own := map[RouteKey]int{} // by key: how many, and -1 for one without a weight
	for _, r := range routes {
		k := routeKeyOf(r)
		if n := own[k]; n < 0 || n > 0 && r.Weight == 0 {
			return mayfly.Errorf(mayfly.Conflict, "route %s of %s is there twice", r, key.Name).WithHint("leave one out, or give both a weight")
		}
		if own[k]++; r.Weight == 0 {
			own[k] = -1
		}
		if err := m.claims.check(ofRelease(key, r)); err != nil {
			return err
		}
	}
	return nil
}

// ofRelease is a route that a release of a workload has.
func ofRelease(key Key, r mayfly.Route) mayfly.MappedRoute {
	from := mayfly.RouteManifest
	if r.Pushed {
		from = mayfly.RoutePush
	}
	return mayfly.MappedRoute{Route: r, Space: key.Space, Workload: key.Name, From: from}
}

// moveRoutes follows a workload from its record old, nil if there was none, to
// the record now. The mirror is locked.
func (m *mirror) moveRoutes(key Key, old, now *workloadRecord) {
	own := func(r *mayfly.MappedRoute) bool { return r.Space == key.Space && r.Workload == key.Name }
	if old != nil && old.Release != nil {
		for _, r := range old.Release.Workload.Routes {
			m.claims.remove(routeKeyOf(r), func(r *mayfly.MappedRoute) bool { return own(r) && r.OfRelease() })
		}
	}
	if now.Release != nil {
		for _, r := range now.Release.Workload.Routes {
			m.claims.add(ofRelease(key, r))
		}
	}
	for k := range m.claims.of[key] { // they lead to another release now
		m.claims.changed(routeKeyOf(m.claims.mapped[k].Route))
	}
}

// applyRoute takes a mapped route of the watch.
func (m *mirror) applyRoute(key Key, value []byte, seq uint64) error {
	m.newest[key.Space], m.deployed = seq, seq
	if old, ok := m.claims.mapped[key]; ok {
		delete(m.claims.mapped, key)
		if of := m.claims.of[Key{key.Space, old.Workload}]; len(of) > 1 {
			delete(of, key)
		} else {
			delete(m.claims.of, Key{key.Space, old.Workload})
		}
		id := old.ID()
		m.claims.remove(routeKeyOf(old.Route), func(r *mayfly.MappedRoute) bool { return r.From == mayfly.RouteMapped && r.ID() == id })
	}
	if value == nil {
		return nil
	}
	var r mayfly.MappedRoute
	if err := json.Unmarshal(value, &r); err != nil {
		return err
	}
	r.Space, r.From = key.Space, mayfly.RouteMapped
	m.claims.mapped[key] = r
	of := m.claims.of[Key{key.Space, r.Workload}]
	if of == nil {
		of = map[Key]bool{}
		m.claims.of[Key{key.Space, r.Workload}] = of
	}
	of[key] = true
	m.claims.add(r)
	return nil
}

// MapRoute keeps a route that is clean, in place of the same one with other
// settings. One that belongs to others is a Conflict, and a workload that is not
// there NotFound.
func (s *Store) MapRoute(ctx context.Context, r mayfly.MappedRoute) error {
	r.From = mayfly.RouteMapped
	name := mappedPrefix + r.ID()
	stored := r
	stored.Space, stored.From = "", ""
	s.deploys.Lock()
	defer s.deploys.Unlock()
	_, err := s.writeDeployed(ctx, Key{r.Space, name}, func(m *mirror) (any, error) {
		if w := m.workloads[Key{r.Space, r.Workload}]; w == nil || w.Release == nil {
			return nil, mayfly.Errorf(mayfly.NotFound, "there is no workload %q", r.Workload).WithHint("`mayfly workloads` lists those there are")
		}
		if m.claims.mapped[Key{r.Space, name}] == r {
			return nil, errNothing
		}
		return stored, m.claims.check(r)
	})
	return unlessNothing(err)
}

// UnmapRoute forgets a mapped route. One that is not there is no error.
func (s *Store) UnmapRoute(ctx context.Context, r mayfly.MappedRoute) error {
	name := mappedPrefix + r.ID()
	s.deploys.Lock()
	defer s.deploys.Unlock()
	_, err := s.writeDeployed(ctx, Key{r.Space, name}, func(m *mirror) (any, error) {
		if _, ok := m.claims.mapped[Key{r.Space, name}]; !ok {
			return nil, errNothing
		}
		return nil, nil
	})
	return unlessNothing(err)
}

// unmapAll forgets the mapped routes of a workload.
func (s *Store) unmapAll(ctx context.Context, key Key) error {
	for _, r := range s.MappedRoutes(key.Space, key.Name) {
		if err := s.UnmapRoute(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// errNothing means that a write would change nothing.
var errNothing = errors.New("nothing to write")

func unlessNothing(err error) error {
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// writeDeployed writes what next makes of the record, under the condition that
// neither a workload nor a mapped route of the space has changed meanwhile.
// s.deploys is held; next is called with the mirror locked.
func (s *Store) writeDeployed(ctx context.Context, key Key, next func(*mirror) (any, error)) (uint64, error) {
	all := bus.StateSubject(bus.WorkloadKey(key.Space, "*"))
	var newest uint64
	for asked := false; ; asked = true {
		s.mirror.mu.Lock()
		value, err := next(s.mirror)
		known := s.mirror.newest[key.Space]
		s.mirror.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if !asked {
			newest = known
		}
		rev, err := s.write(ctx, bus.WorkloadKey(key.Space, key.Name), value, condition{newest, all})
		if !errors.Is(err, errLost) {
			return rev, err
		}
		if newest, err = s.newestDeployed(ctx, key.Space); err != nil {
			return 0, err
		}
	}
}

// newestDeployed asks the engine which revision it will compare with, and returns
// when memory has it. It is not what memory remembers where the marker of a route
// that was removed has expired.
func (s *Store) newestDeployed(ctx context.Context, space string) (uint64, error) {
	msg, err := s.bus.Last(ctx, bus.StateStream, bus.StateSubject(bus.WorkloadKey(space, "*")))
	if errors.Is(err, bus.ErrNoMessage) {
		return 0, nil
	}
	if err == nil {
		err = s.mirror.wait(ctx, msg.Sequence)
	}
	if err != nil {
		return 0, unavailable("read the routes", err)
	}
	return msg.Sequence, nil
}

// MappedRoutes returns the mapped routes of a space, or of one of its workloads.
func (s *Store) MappedRoutes(space, workload string) []mayfly.MappedRoute {
	return s.routes(func(r *mayfly.MappedRoute) bool {
		return r.From == mayfly.RouteMapped && r.Space == space && (workload == "" || r.Workload == workload)
	})
}

// Routes returns the routes of a space, or of one of its workloads, those of
// manifests included, by host, path, method and workload.
func (s *Store) Routes(space, workload string) []mayfly.MappedRoute {
	return s.routes(func(r *mayfly.MappedRoute) bool {
		return r.Space == space && (workload == "" || r.Workload == workload)
	})
}

func (s *Store) routes(fits func(*mayfly.MappedRoute) bool) []mayfly.MappedRoute {
	list := []mayfly.MappedRoute{}
	s.mirror.mu.Lock()
	for _, all := range s.mirror.claims.byKey {
		for _, r := range all {
			if fits(&r) {
				list = append(list, r)
			}
		}
	}
	s.mirror.mu.Unlock()
	slices.SortFunc(list, func(a, b mayfly.MappedRoute) int { return strings.Compare(RouteOrder(a), RouteOrder(b)) })
	return list
}

// Routed reports whether a route leads to one release of a workload, whichever is
// the active one.
func (s *Store) Routed(space, workload string, number int) bool {
	m := s.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workloads[Key{space, workload}]; w != nil && w.Release != nil {
		for _, r := range w.Release.Workload.Routes {
			if r.Release == number {
				return true
			}
		}
	}
	for k := range m.claims.of[Key{space, workload}] {
		if m.claims.mapped[k].Release == number {
			return true
		}
	}
	return false
}

// RouteCount is how many routes lead to a workload.
func (s *Store) RouteCount(space, workload string) int {
	m := s.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.claims.of[Key{space, workload}])
	if w := m.workloads[Key{space, workload}]; w != nil && w.Release != nil {
		n += len(w.Release.Workload.Routes)
	}
	return n
}

// RouteOrder is the text by which routes are sorted. It is unique.
func RouteOrder(r mayfly.MappedRoute) string {
	return strings.Join([]string{r.Host, r.Path, r.Method, r.Workload, fmt.Sprintf("%08d", r.Release), r.From}, " ")
}

// RouteChanges returns what has become of routes since a version, 0 for all of
// them. A change of the active release is one of its routes.
func (s *Store) RouteChanges(since uint64) RouteChanges {
	m := s.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &m.claims
	out := RouteChanges{Version: c.version, Keys: map[RouteKey][]RouteTarget{}}
	behind := c.version - since
	if since == 0 || behind > uint64(len(c.log)) {
		out.All = true
		for key := range c.byKey {
			out.Keys[key] = m.targets(key)
		}
		return out
	}
	for _, key := range c.log[uint64(len(c.log))-behind:] {
		if _, done := out.Keys[key]; !done {
			out.Keys[key] = m.targets(key)
		}
	}
	return out
}

// targets is where a key leads. The mirror is locked.
func (m *mirror) targets(key RouteKey) []RouteTarget {
	var list []RouteTarget
	for _, r := range m.claims.byKey[key] {
		t := RouteTarget{MappedRoute: r}
		if w := m.active[Key{r.Space, r.Workload}]; w != nil {
			t.Active = &w.Release
		}
		list = append(list, t)
	}
	return list
}
