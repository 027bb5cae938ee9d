package router

import (
	"context"

	"github.com/mayfly-run/mayfly"
)

// MapRoute has a route lead to a workload from now on. The same one with other
// settings is replaced. A route that others have is a Conflict.
func (r *Router) MapRoute(ctx context.Context, m mayfly.MappedRoute) (mayfly.MappedRoute, error) {
	clean, _, bad := m.Route.Clean()
	if bad != nil {
		return m, bad
	}
	m.Route, m.From = clean, mayfly.RouteMapped
	m.Pushed = false
	w, err := r.store.Workload(m.Space, m.Workload)
	if err != nil {
		return m, err
	}
	if err := w.Workload.CheckRoute(m.Route); err != nil {
		return m, err
	}
	if m.Release != 0 {
		if _, err := r.store.Release(ctx, m.Space, m.Workload, m.Release); err != nil {
			return m, err
		}
	}
	defer r.Refresh()
	return m, r.store.MapRoute(ctx, m)
}

// UnmapRoutes takes away the mapped routes of a workload with the host, path and
// method of want, of its release or, where that is 0, of any; or all of them.
// It returns them.
func (r *Router) UnmapRoutes(ctx context.Context, want mayfly.MappedRoute, all bool) ([]mayfly.MappedRoute, error) {
	clean, _, bad := want.Route.Clean()
	if bad != nil {
		return nil, bad
	}
	if _, err := r.store.Workload(want.Space, want.Workload); err != nil {
		return nil, err
	}
	gone := []mayfly.MappedRoute{}
	kept := "" // where the routes that fit and stay come from
	defer r.Refresh()
	for _, m := range r.store.Routes(want.Space, want.Workload) {
		fits := m.Host == clean.Host && m.Path == clean.Path && m.Method == clean.Method && (clean.Release == 0 || m.Release == clean.Release)
		if !all && !fits {
			continue
		}
		if m.OfRelease() {
			if fits {
				kept = m.From
			}
			continue
		}
		if err := r.store.UnmapRoute(ctx, m); err != nil {
			return gone, err
		}
		gone = append(gone, m)
	}
	switch {
	case all || len(gone) > 0:
		return gone, nil
	case kept == mayfly.RoutePush:
		return nil, mayfly.Errorf(mayfly.Conflict, "route %s of %s was pushed with it", clean, want.Workload).
			WithHint("push it again with the --path that it is to have, or --path '' for none")
	case kept == mayfly.RouteManifest:
		return nil, mayfly.Errorf(mayfly.Conflict, "route %s of %s is in its manifest", clean, want.Workload).
			WithHint("take it out of routes: of %s there, and deploy again", want.Workload)
	default:
		return nil, mayfly.Errorf(mayfly.NotFound, "no route %s is mapped to %s", clean, want.Workload).WithHint("`mayfly routes %s` lists those there are", want.Workload)
	}
}

// ListRoutes returns the routes of a space, or of one of its workloads.
func (r *Router) ListRoutes(_ context.Context, space, workload string) ([]mayfly.MappedRoute, error) {
	if workload != "" {
		if _, err := r.store.Workload(space, workload); err != nil {
			return nil, err
		}
	}
	return r.store.Routes(space, workload), nil
}
