package mayfly

import (
	"cmp"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Route sends the web requests that it matches to a workload. Of several that
// match, the one of this very host comes before the one of the longest wildcard,
// and that before one of any host; then the longest path; then one of the method.
type Route struct {
	Host    string `json:"host,omitempty"`    // "*.example.org" is any name beneath; any host if empty
	Path    string `json:"path"`              // prefix, by whole segments
	Method  string `json:"method,omitempty"`  // "GET" is HEAD too; any if empty
	Strip   bool   `json:"strip,omitempty"`   // the workload sees what follows Path, and Path in X-Forwarded-Prefix
	Port    string `json:"port,omitempty"`    // of a service: name or number of a provided port; its only one, or that named http, if empty
	Weight  int    `json:"weight,omitempty"`  // share of the requests, among routes with the same host, path and method; 0: all
	Release int    `json:"release,omitempty"` // of a function; 0: the active one
	Pushed  bool   `json:"pushed,omitempty"`  // of a release's own: push said it, and no manifest
}

// MaxWeight is the largest weight of a route.
const MaxWeight = 1000

// The places that a route comes from.
const (
	RouteManifest = "manifest" // it comes and goes with a release
	RoutePush     = "push"     // the same
	RouteMapped   = "mapped"   // it comes with map-route, and goes with unmap-route or with its workload
)

// MappedRoute is a route and the workload that it leads to.
type MappedRoute struct {
	Route
	Space    string `json:"space"`
	Workload string `json:"workload"`
	From     string `json:"from,omitempty"` // RouteManifest, RoutePush or RouteMapped
}

// OfRelease says whether a route comes and goes with a release.
func (m *MappedRoute) OfRelease() bool { return m.From != RouteMapped }

// ID names a mapped route: the one of a workload to a release, host, path and
// method.
func (m *MappedRoute) ID() string {
	number := ""
	if m.Release != 0 {
		number = strconv.Itoa(m.Release)
	}
	return IDOf(m.Space, m.Workload, m.Host, m.Path, m.Method, number)
}

// String is a route as people write it.
func (r Route) String() string {
	text := r.Host + r.Path
	if r.Method != "" {
		text = r.Method + " " + text
	}
	return text
}

var (
	hostPattern   = regexp.MustCompile(`^(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)
	methodPattern = regexp.MustCompile(`^[A-Z][A-Z-]{0,31}$`)
)

// Clean returns the route in the one way in which it is kept, or the field that is
// wrong and an Invalid error.
func (r Route) Clean() (clean Route, field string, err *Error) {
	r.Host = strings.TrimSuffix(strings.ToLower(r.Host), ".")
	r.Path = cmp.Or(r.Path, "/")
	r.Method = strings.ToUpper(r.Method)
	switch {
	case r.Host != "" && (len(r.Host) > 253 || !hostPattern.MatchString(r.Host)):
		return r, "host", Errorf(Invalid, "route host %q is not a host name", r.Host).WithHint("write it like example.org or *.example.org")
	case !strings.HasPrefix(r.Path, "/"):
		return r, "path", Errorf(Invalid, "route path %q is not absolute", r.Path).WithHint("begin it with /")
	case strings.ContainsAny(r.Path, "?#\x00") || len(r.Path) > 1024:
		return r, "path", Errorf(Invalid, "route path %q is not a path", r.Path[:min(len(r.Path), 80)]).WithHint("leave out ? and #")
	case r.Method != "" && !methodPattern.MatchString(r.Method):
		return r, "method", Errorf(Invalid, "route method %q is not a method", r.Method).WithHint("write it like GET or POST")
	case r.Weight < 0 || r.Weight > MaxWeight:
		return r, "weight", Errorf(Invalid, "weight must be from 0 to %d", MaxWeight)
	case r.Release < 0:
		return r, "release", Errorf(Invalid, "there is no release %d", r.Release)
	}
	r.Path = path.Clean(r.Path)
	return r, "", nil
}

// CheckRoute returns an Invalid error unless a route that is clean can lead to the
// workload.
func (w *Workload) CheckRoute(r Route) error {
	if w.Service == nil {
		if r.Port != "" {
			return Errorf(Invalid, "%s is a function, of which no port is chosen", w.Name).WithHint("leave the route's port out")
		}
		return nil
	}
	if r.Release != 0 {
		return Errorf(Invalid, "%s is a service, of which one release runs at a time", w.Name).
			WithHint("deploy the other one as a service of its own, and share the route by weights")
	}
	_, err := w.RoutePort(r.Port)
	return err
}

// RoutePort returns the provided port of a service that a route with that port
// leads to.
func (w *Workload) RoutePort(port string) (Provide, error) {
	var names []string
	var fit []Provide
	for _, p := range w.Provides {
		if p.Protocol == "udp" {
			continue
		}
		names = append(names, p.Name)
		if port == p.Name || p.Port != 0 && port == strconv.Itoa(int(p.Port)) || port == "" && p.Name == "http" {
			return p, nil
		}
		fit = append(fit, p)
	}
	switch {
	case len(names) == 0:
		return Provide{}, Errorf(Invalid, "%s provides no port that a route could lead to", w.Name).WithHint("add provides: {http: PORT} to it")
	case port != "":
		return Provide{}, Errorf(Invalid, "%s provides no port %q", w.Name, port).WithHint("it provides %s", strings.Join(names, ", "))
	case len(fit) > 1:
		return Provide{}, Errorf(Invalid, "%s provides several ports, and none is called http", w.Name).WithHint("choose one for the route: port: %s", strings.Join(names, " or "))
	}
	return fit[0], nil
}
