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
	"scale", "retries", "rate", "key", "schedules", "events", "provides", "requires", "volumes", "secrets", "configs", "labels",
}

// laterKeys are the design's, but nothing honours them yet.
var laterKeys = []string{
	"build", "processes", "profiles", "priority", "tmpfs", "dns", "replicas",
}

var handlerPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./-]*\.[A-Za-z_$][A-Za-z0-9_$]*$`)

// functions adds the workloads of one file to what the reader found so far.
func (r *reader) functions(in file, v any) error {
	s := in.source
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
		if err := r.checkTaken(s, at, "function", name); err != nil {
			return err
		}
		d := &decoder{source: s, at: at, what: "function " + quote(name)}
		m, ok := all[name].(map[string]any)
		if !ok {
			return s.errorf(at.key(), "%s must be a mapping", d.what).WithHint("say at least code, or image")
		}
		f, err := r.function(d, m, in)
		if err == nil {
			f.Schedules = r.schedules(d, m, name)
			f.Events = d.events(m)
			d.checkLimits(&f)
			err = d.err
		}
		if err != nil {
			return err
		}
		f.Name, f.Space, f.App = name, r.opts.Space, r.out.Name
		r.out.Functions = append(r.out.Functions, f)
	}
	return nil
}

func (r *reader) function(d *decoder, m map[string]any, in file) (Workload, error) {
	var f Workload
	if err := d.keys(m, functionKeys, laterKeys); err != nil {
		return f, err
	}
	f.Image, f.Stack, f.Handler = d.text(m, "image"), d.text(m, "stack"), d.text(m, "handler")
	f.Protocol = mayfly.Protocol(d.oneOf(m, "protocol", "http", "cgi", "stdio", "handler"))
	f.Isolation = mayfly.Isolation(d.oneOf(m, "isolation", "run", "instance"))
	f.Command, f.Entrypoint = d.words(m, "command"), d.words(m, "entrypoint")
	f.Env = d.environment(m, "env", in.env)
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
	f.CodeDir = r.codeDir(d, m, in.dir)
	name := d.at.last()
	f.Routes = r.routes(d, m, func() *mayfly.Workload { return &mayfly.Workload{Name: name} })
	r.functionConnections(d, m, in, &f)
	f.origin(d, m)
	f.protocol(d)
	f.Scale = f.functionScale(d, m)
	if f.WorkDir != "" && !path.IsAbs(f.WorkDir) {
		d.fail("workdir", "begin it with /", "workdir %q is not absolute", f.WorkDir)
	}
	return f, d.err
}

// functionConnections reads what a function is connected to, as a service is.
func (r *reader) functionConnections(d *decoder, m map[string]any, in file, f *Workload) {
	f.Provides, f.Requires = d.provides(m), d.requires(m)
	r.laterRequires(d, f.Requires)
	mounts := r.volumes(d, m, in.dir)
	f.Volumes, f.Mounts = mounts.volumes, mounts.mounts
	f.Secrets, f.Configs = r.secretMounts(d, m), r.configMounts(d, m, false)
	f.Labels = d.labelList(m)
}

// origin checks that the root comes from exactly one place.
func (f *Workload) origin(d *decoder, m map[string]any) {
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
	case has("code"): // what it is, is found out
	default:
		d.fail("", "add code: ./FOLDER, or image: NAME", "nothing says what to run")
	}
}

// protocol fills in the defaults and checks what belongs together. What is found
// out from the code is left open.
func (f *Workload) protocol(d *decoder) {
	starts := f.Handler != "" || len(f.Command)+len(f.Entrypoint) > 0
	if open := f.Image == "" && (f.Stack == "" || !starts); !open {
		if f.Protocol == "" {
			f.Protocol = mayfly.HTTP
			if f.Handler != "" {
				f.Protocol = mayfly.Handler
			}
		}
		if f.Isolation == "" {
			f.Isolation = mayfly.IsolationRun
		}
	}
	switch {
	case f.Protocol == mayfly.Handler && f.Handler == "" && starts:
		d.fail("protocol", "add handler: FILE.FUNCTION, as in main.handle", "protocol handler needs a handler")
	case f.Handler != "" && f.Protocol != mayfly.Handler && f.Protocol != "":
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
	case f.Isolation == mayfly.IsolationInstance && (f.Protocol == mayfly.CGI || f.Protocol == mayfly.Stdio):
		d.fail("isolation", "use protocol http or handler, or isolation run",
			"isolation instance does not fit protocol %s, which is a process for each run", f.Protocol)
	}
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
