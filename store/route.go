package store

import (
	"strings"

	"github.com/mayfly-run/mayfly"
)

// routeKey is a route of a space, spelled in one way.
type routeKey struct{ space, host, path string }

func newRouteKey(space string, r mayfly.Route) routeKey {
	return routeKey{space, strings.ToLower(r.Host), "/" + strings.Trim(r.Path, "/")}
}

// checkRoutes refuses routes that belong to another workload of the space. The
// mirror is locked.
func (m *mirror) checkRoutes(key Key, routes []mayfly.Route) error {
	for _, r := range routes {
		owner, taken := m.routes[newRouteKey(key.Space, r)]
		if taken && owner != key.Name {
			return mayfly.Errorf(mayfly.Conflict, "route %s%s of workload %q belongs to workload %q", r.Host, r.Path, key.Name, owner).
				WithHint("choose another path, or take it away from %q first", owner)
		}
	}
	return nil
}

// moveRoutes follows a workload from its record old, nil if there was none, to
// the record now. The mirror is locked.
func (m *mirror) moveRoutes(key Key, old, now *workloadRecord) {
	if old != nil && old.Release != nil {
		for _, r := range old.Release.Workload.Routes {
			delete(m.routes, newRouteKey(key.Space, r))
		}
	}
	if now.Release != nil {
		for _, r := range now.Release.Workload.Routes {
			m.routes[newRouteKey(key.Space, r)] = key.Name
		}
	}
}
