package manifest

import (
	"errors"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

var routeKeys = []string{"path", "host", "method", "strip", "port", "weight", "release"}

// routes reads a list of paths or of {path, host...} of a workload. Whether they
// fit it is looked at when all of it is read.
func (r *reader) routes(d *decoder, m map[string]any, workload func() *mayfly.Workload) []mayfly.Route {
	if m["routes"] == nil {
		return nil
	}
	list, ok := m["routes"].([]any)
	if !ok {
		d.fail("routes", "write routes: [/path]", "routes must be a list")
		return nil
	}
	var routes []mayfly.Route
	for i, item := range list {
		sub := d.item("routes", i)
		route, ok := sub.route(item)
		if ok && d.err == nil {
			r.checkTwice(sub, route, slices.Concat(routes, r.allRoutes))
			routes = append(routes, route)
		}
		if sub.err != nil && d.err == nil {
			d.err = sub.err
		}
		r.later(sub, func(d *decoder) {
			err := workload().CheckRoute(route)
			if bad := (*mayfly.Error)(nil); errors.As(err, &bad) {
				d.fail("", bad.Hint, "%s", bad.Text)
			}
		})
	}
	r.allRoutes = append(r.allRoutes, routes...)
	return routes
}

// checkTwice refuses a route that is there already, unless both have a weight.
func (r *reader) checkTwice(d *decoder, route mayfly.Route, others []mayfly.Route) {
	for _, o := range others {
		if o.Host == route.Host && o.Path == route.Path && o.Method == route.Method && (o.Weight == 0 || route.Weight == 0) {
			d.fail("", "give each route to one function, or all of them a weight", "route %s is here twice", route)
		}
	}
}

// route reads one route.
func (d *decoder) route(item any) (mayfly.Route, bool) {
	route := mayfly.Route{Path: "/"}
	switch item := item.(type) {
	case string:
		if method, rest, ok := strings.Cut(item, " "); ok { // GET /path, as mayfly routes has it
			route.Method, item = method, rest
		}
		route.Path = item
		if i := strings.IndexByte(item, '/'); i > 0 { // example.org/path, as map-route has it
			route.Host, route.Path = item[:i], item[i:]
		}
	case map[string]any:
		if d.err = d.keys(item, routeKeys, nil); d.err != nil {
			return route, false
		}
		route.Host, route.Method, route.Port = d.text(item, "host"), d.text(item, "method"), d.text(item, "port")
		route.Strip = d.boolean(item, "strip")
		route.Weight = int(d.integer(item, "weight", 1, mayfly.MaxWeight))
		route.Release = int(d.integer(item, "release", 1, 1<<31))
		if item["path"] != nil {
			route.Path = d.text(item, "path")
		}
	default:
		d.fail("", "write /path or {path: /path, host: example.org}", "a route must be a path")
		return route, false
	}
	if d.err != nil {
		return route, false
	}
	clean, field, err := route.Clean()
	if err != nil {
		d.fail(field, err.Hint, "%s", err.Text)
	}
	return clean, d.err == nil
}
