package manifest

import (
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Limits of one function.
const (
	minMemory      = 4 << 20
	maxMemory      = 1 << 43 // 8 TB
	maxTimeout     = 24 * time.Hour
	maxBody        = 1 << 34 // 16 GB
	maxConcurrency = 1_000_000
)

var functionKeys = []string{
	"image", "stack", "code", "handler", "protocol", "command", "entrypoint", "env", "memory", "cpus", "pids", "files",
	"timeout", "isolation", "concurrency", "routes", "maxBody", "network", "user", "workdir", "readOnly",
	"retries", "rate", "key", "schedules",
}

// laterKeys are the design's, but nothing honours them yet.
var laterKeys = []string{
	"events", "scale", "provides", "requires", "volumes", "secrets", "labels", "build",
	"processes", "on_change", "profiles", "priority", "tmpfs", "dns", "replicas",
}

var handlerPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./-]*\.[A-Za-z_$][A-Za-z0-9_$]*$`)

// functions adds the workloads of one file to what the reader found so far.
func (r *reader) functions(s *source, v any, dir string, env map[string]string) error {
	if isEmpty(v) {
		return nil
	}
	all, ok := v.(map[string]any)
	if !ok {
		return s.errorf("functions", "functions must be a mapping of names").WithHint("write functions: {NAME: {...}}")
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		at := place("functions").child(name)
		if err := mayfly.CheckName("function", name); err != nil {
			e := s.errorf(at.key(), "function %q is not a valid name", name)
			return e.WithHint("use 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'")
		}
		for _, f := range r.out.Functions {
			if f.Name == name {
				return s.errorf(at.key(), "function %q is defined in another file too", name).WithHint("rename one")
			}
		}
		d := &decoder{source: s, at: at, what: "function " + quote(name)}
		m, ok := all[name].(map[string]any)
		if !ok {
			return s.errorf(at.key(), "%s must be a mapping", d.what).WithHint("say at least image, or stack and code")
		}
		f, err := r.function(d, m, dir, env)
		if err == nil {
			f.Schedules = r.schedules(d, m, name)
			err = d.err
		}
		if err != nil {
			return err
		}
		f.Name, f.Space = name, r.opts.Space
		r.out.Functions = append(r.out.Functions, f)
	}
	return nil
}

func (r *reader) function(d *decoder, m map[string]any, dir string, env map[string]string) (Function, error) {
	var f Function
	if err := d.keys(m, functionKeys, laterKeys); err != nil {
		return f, err
	}
	f.Image, f.Stack, f.Handler = d.text(m, "image"), d.text(m, "stack"), d.text(m, "handler")
	f.Protocol = mayfly.Protocol(d.oneOf(m, "protocol", "http", "cgi", "stdio", "handler"))
	f.Isolation = mayfly.Isolation(d.oneOf(m, "isolation", "run", "instance"))
	f.Command, f.Entrypoint = d.words(m, "command"), d.words(m, "entrypoint")
	f.Env = d.environment(m, "env", env)
	f.User, f.WorkDir = d.text(m, "user"), d.text(m, "workdir")
	f.ReadOnly = d.boolean(m, "readOnly")
	f.Network = d.oneOf(m, "network", "bridge", "none", "host")
	f.Memory = d.size(m, "memory", minMemory, maxMemory)
	f.CPUs = d.number(m, "cpus", 0.01, 4096)
	f.Pids = d.integer(m, "pids", 1, 1<<22)
	f.Files = uint64(d.integer(m, "files", 3, 1<<30))
	f.Timeout = d.duration(m, "timeout", maxTimeout)
	f.Concurrency = int(d.integer(m, "concurrency", 0, maxConcurrency))
	f.MaxBody = d.size(m, "maxBody", 1, maxBody)
	f.tasks(d, m)
	f.Routes = r.routes(d, m)
	f.CodeDir = r.codeDir(d, m, dir)
	f.origin(d, m)
	f.protocol(d)
	if f.WorkDir != "" && !path.IsAbs(f.WorkDir) {
		d.fail("workdir", "begin it with /", "workdir %q is not absolute", f.WorkDir)
	}
	return f, d.err
}

// origin checks that the root comes from exactly one place.
func (f *Function) origin(d *decoder, m map[string]any) {
	has := func(key string) bool { return m[key] != nil }
	switch {
	case has("image") && (has("stack") || has("code")):
		other := "code"
		if has("stack") {
			other = "stack"
		}
		d.fail(other, "keep one of them", "image and %s exclude each other", other)
	case has("image"):
		if f.Image == "" {
			d.fail("image", "name an image", "image is empty")
		}
	case has("stack") && has("code"):
		if err := mayfly.CheckName("stack", f.Stack); err != nil {
			d.fail("stack", "see mayfly stack ls", "stack %q is not a valid name", f.Stack)
		}
	case has("stack"):
		d.fail("stack", "add code: ./FOLDER", "stack needs code")
	case has("code"):
		d.fail("code", "add stack: host, or one of mayfly stack ls", "code needs a stack")
	default:
		d.fail("", "add image: NAME, or stack: NAME and code: ./FOLDER", "nothing says what to run")
	}
}

// protocol fills in the defaults and checks what belongs together.
func (f *Function) protocol(d *decoder) {
	if f.Protocol == "" {
		f.Protocol = mayfly.HTTP
		if f.Handler != "" {
			f.Protocol = mayfly.Handler
		}
	}
	if f.Isolation == "" {
		f.Isolation = mayfly.IsolationRun
	}
	switch {
	case f.Protocol == mayfly.Handler && f.Handler == "":
		d.fail("protocol", "add handler: FILE.FUNCTION, as in main.handle", "protocol handler needs a handler")
	case f.Handler != "" && f.Protocol != mayfly.Handler:
		d.fail("handler", "remove one of them", "handler and protocol %s exclude each other", f.Protocol)
	case f.Handler != "" && f.Image != "":
		d.fail("handler", "use stack and code", "handler needs a stack, whose loader calls it")
	case f.Handler != "" && (!handlerPattern.MatchString(f.Handler) || strings.Contains(f.Handler, "..") || strings.Contains(f.Handler, "//")):
		d.fail("handler", "write FILE.FUNCTION, as in main.handle", "handler %q is not valid", f.Handler)
	case f.Handler != "" && (f.Command != nil || f.Entrypoint != nil):
		key := "command"
		if f.Command == nil {
			key = "entrypoint"
		}
		d.fail(key, "remove one of them", "handler and %s exclude each other", key)
	case f.Stack != "" && f.Handler == "" && len(f.Command)+len(f.Entrypoint) == 0:
		d.fail("", "add command: [./PROGRAM], or handler: FILE.FUNCTION", "nothing says how to start the code")
	case f.Isolation == mayfly.IsolationInstance && (f.Protocol == mayfly.CGI || f.Protocol == mayfly.Stdio):
		d.fail("isolation", "use protocol http or handler, or isolation run",
			"isolation instance does not fit protocol %s, which is a process for each run", f.Protocol)
	}
}

// routes reads a list of paths or of {path, host}.
func (r *reader) routes(d *decoder, m map[string]any) []mayfly.Route {
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
		sub := &decoder{source: d.source, at: d.at.child("routes").item(i), what: d.what}
		route, ok := sub.route(item)
		if ok && d.err == nil {
			for _, other := range slices.Concat(routes, r.allRoutes()) {
				if other == route {
					sub.fail("", "give each route to one function", "route %s is here twice", routeText(route))
				}
			}
			routes = append(routes, route)
		}
		if sub.err != nil && d.err == nil {
			d.err = sub.err
		}
	}
	return routes
}

func (r *reader) allRoutes() []mayfly.Route {
	var all []mayfly.Route
	for _, f := range r.out.Functions {
		all = append(all, f.Routes...)
	}
	return all
}

func routeText(r mayfly.Route) string { return r.Host + r.Path }

var hostPattern = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

func (d *decoder) route(item any) (mayfly.Route, bool) {
	route := mayfly.Route{Path: "/"}
	switch item := item.(type) {
	case string:
		route.Path = item
		if i := strings.IndexByte(item, '/'); i > 0 { // example.org/path, as map-route has it
			route.Host, route.Path = item[:i], item[i:]
		}
	case map[string]any:
		if d.err = d.keys(item, []string{"path", "host"}, nil); d.err != nil {
			return route, false
		}
		route.Host = d.text(item, "host")
		if item["path"] != nil {
			route.Path = d.text(item, "path")
		}
	default:
		d.fail("", "write /path or {path: /path, host: example.org}", "a route must be a path")
		return route, false
	}
	route.Host = strings.ToLower(route.Host)
	if route.Host != "" && (len(route.Host) > 253 || !hostPattern.MatchString(route.Host)) {
		d.fail("host", "write it like example.org", "route host %q is not a host name", route.Host)
	}
	switch clean := path.Clean(route.Path); {
	case !strings.HasPrefix(route.Path, "/"):
		d.fail("path", "begin it with /", "route path %q is not absolute", route.Path)
	case strings.ContainsAny(route.Path, "?#\x00") || len(route.Path) > 1024:
		d.fail("path", "leave out ? and #", "route path %q is not a path", excerpt(route.Path))
	default:
		route.Path = clean
	}
	return route, d.err == nil
}

// codeDir resolves code, which must be a folder beneath the manifest's own.
func (r *reader) codeDir(d *decoder, m map[string]any, dir string) string {
	code := d.text(m, "code")
	if m["code"] == nil || d.err != nil {
		return ""
	}
	beneath := filepath.Join(dir, filepath.FromSlash(code))
	if code == "" || filepath.IsAbs(code) || !filepath.IsLocal(beneath) {
		d.fail("code", "use a relative path without ..", "code %q is not beneath the manifest's folder", code)
		return ""
	}
	full := filepath.Join(r.dir, beneath)
	if r.root == nil {
		return full
	}
	info, err := r.root.Stat(beneath)
	switch {
	case err != nil:
		d.fail("code", "", "code folder %q cannot be opened: %s", code, cause(err))
	case !info.IsDir():
		d.fail("code", "name its folder", "code %q is not a folder", code)
	}
	return full
}
