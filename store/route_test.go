package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func mapped(workload string, r mayfly.Route) mayfly.MappedRoute {
	return mayfly.MappedRoute{Route: r, Space: "default", Workload: workload}
}

func TestMapRoute(t *testing.T) {
	s := open(t)
	deploy(t, s, thumb(mayfly.Route{Path: "/thumb"}))
	deploy(t, s, mayfly.Workload{Space: "default", Name: "other"})
	for _, tt := range []struct {
		name string
		r    mayfly.MappedRoute
		bad  string // part of a Conflict's text
	}{
		{"new", mapped("other", mayfly.Route{Path: "/a"}), ""},
		{"again", mapped("other", mayfly.Route{Path: "/a"}), ""},
		{"with other settings", mapped("other", mayfly.Route{Path: "/a", Strip: true}), ""},
		{"another's by map-route", mapped("thumb", mayfly.Route{Path: "/a"}), "route /a of thumb belongs to other, which has it by map-route"},
		{"another's by manifest", mapped("other", mayfly.Route{Path: "/thumb"}), "route /thumb of other belongs to thumb, which has it from its manifest"},
		{"its own manifest's", mapped("thumb", mayfly.Route{Path: "/thumb"}), ""},
		{"its own manifest's, otherwise", mapped("thumb", mayfly.Route{Path: "/thumb", Strip: true}), "is in its manifest, where it says otherwise"},
		{"of one method", mapped("thumb", mayfly.Route{Path: "/a", Method: "POST"}), ""},
		{"of a host", mapped("thumb", mayfly.Route{Host: "a.test", Path: "/a"}), ""},
		{"a share", mapped("other", mayfly.Route{Path: "/w", Weight: 9}), ""},
		{"another share", mapped("thumb", mayfly.Route{Path: "/w", Weight: 1}), ""},
		{"of its own", mapped("other", mayfly.Route{Path: "/w", Weight: 1, Release: 1}), ""},
		{"no share", mapped("other", mayfly.Route{Path: "/w", Release: 2}), "was mapped before, and says otherwise"},
	} {
		err := s.MapRoute(t.Context(), tt.r)
		if tt.bad == "" && err != nil || tt.bad != "" && (mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	wantKind(t, s.MapRoute(t.Context(), mapped("nobody", mayfly.Route{Path: "/n"})), mayfly.NotFound)
	rel, err := s.PutRelease(t.Context(), thumb(mayfly.Route{Path: "/a"}), "sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	w, _ := s.Workload("default", "thumb")
	_, err = s.SetWorkload(t.Context(), "default", "thumb", rel.Number, w.Revision)
	wantKind(t, err, mayfly.Conflict) // a deploy that wants what is mapped
	deploy(t, s, thumb())             // mapped routes survive it
	if got := len(s.MappedRoutes("default", "thumb")); got != 4 {
		t.Errorf("%d routes after another release", got)
	}
	if err := s.UnmapRoute(t.Context(), mapped("other", mayfly.Route{Path: "/a"})); err != nil {
		t.Error(err)
	}
	if err := s.UnmapRoute(t.Context(), mapped("other", mayfly.Route{Path: "/a"})); err != nil {
		t.Errorf("twice: %v", err)
	}
	if err := s.MapRoute(t.Context(), mapped("thumb", mayfly.Route{Path: "/a"})); err != nil {
		t.Errorf("what was unmapped: %v", err)
	}
	again := openOn(t, s.bus) // as after a restart
	if got, want := fmt.Sprint(again.Routes("default", "")), fmt.Sprint(s.Routes("default", "")); got != want {
		t.Errorf("a restart makes\n%s of\n%s", got, want)
	}
	w, _ = s.Workload("default", "thumb")
	if err := s.DeleteWorkload(t.Context(), "default", "thumb", w.Revision); err != nil {
		t.Fatal(err)
	}
	if left := s.Routes("default", "thumb"); len(left) > 0 {
		t.Errorf("the workload is gone, and these lead to it: %v", left)
	}
}

// Each round one of several stores wins a route, by a deploy or by map-route.
func TestOneOfManyWinsARoute(t *testing.T) {
	const writers = 6
	first := open(t)
	for round := range 5 {
		path := fmt.Sprintf("/same%d", round)
		var wg sync.WaitGroup
		errs := make([]error, writers)
		for i := range writers {
			s := openOn(t, first.bus)
			w := mayfly.Workload{Space: "default", Name: fmt.Sprintf("w%d-%d", round, i)}
			if i%2 == 0 {
				deploy(t, s, w)
				wg.Go(func() { errs[i] = s.MapRoute(t.Context(), mapped(w.Name, mayfly.Route{Path: path})) })
				continue
			}
			w.Routes = []mayfly.Route{{Path: path}}
			rel, err := s.PutRelease(t.Context(), w, "sha256:1")
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { _, errs[i] = s.SetWorkload(t.Context(), w.Space, w.Name, rel.Number, 0) })
		}
		wg.Wait()
		oneWins(t, errs)
	}
}

// A marker of a route that was removed expires some time; the next write finds out.
func TestRouteAfterItsMarkerExpired(t *testing.T) {
	s := open(t)
	deploy(t, s, thumb())
	r := mapped("thumb", mayfly.Route{Path: "/a"})
	if err := errors.Join(s.MapRoute(t.Context(), r), s.UnmapRoute(t.Context(), r)); err != nil {
		t.Fatal(err)
	}
	s.mirror.mu.Lock()
	s.mirror.newest["default"] += 1000 // memory has another revision than the engine, as then
	s.mirror.mu.Unlock()
	if err := s.MapRoute(t.Context(), r); err != nil {
		t.Error(err)
	}
}

func TestRouteChanges(t *testing.T) {
	s := open(t)
	deploy(t, s, thumb(mayfly.Route{Path: "/thumb"}))
	all := s.RouteChanges(0)
	if !all.All || len(all.Keys) != 1 || all.Keys[RouteKey{Path: "/thumb"}][0].Active.Number != 1 {
		t.Fatalf("at first %+v", all)
	}
	if none := s.RouteChanges(all.Version); none.All || len(none.Keys) != 0 || none.Version != all.Version {
		t.Errorf("nothing happened: %+v", none)
	}
	if err := s.MapRoute(t.Context(), mapped("thumb", mayfly.Route{Path: "/m"})); err != nil {
		t.Fatal(err)
	}
	one := s.RouteChanges(all.Version)
	if one.All || len(one.Keys) != 1 || len(one.Keys[RouteKey{Path: "/m"}]) != 1 {
		t.Errorf("one was mapped: %+v", one)
	}
	deploy(t, s, thumb())
	next := s.RouteChanges(one.Version)
	gone, there := next.Keys[RouteKey{Path: "/thumb"}]
	if moved := next.Keys[RouteKey{Path: "/m"}]; !there || len(gone) != 0 || len(moved) != 1 || moved[0].Active.Number != 2 {
		t.Errorf("after a deploy without a route: %+v", next)
	}
	for i := range 3 * routeLogLength {
		s.mirror.mu.Lock()
		s.mirror.claims.changed(RouteKey{Path: fmt.Sprint("/", i)})
		s.mirror.mu.Unlock()
	}
	if late := s.RouteChanges(next.Version); !late.All || len(late.Keys) != 1 {
		t.Errorf("too far behind: %+v", late)
	}
}
