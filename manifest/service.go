package manifest

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Limits of one service.
const (
	maxWait     = 24 * time.Hour
	maxRestarts = 1_000_000

	unprobedHealthy = time.Second // that a program must live which nobody asks, for its release to be good
)

// service is one while the manifest is read: what came out of it, and where
// each thing that is checked at the end stood.
type service struct {
	Workload
	*decoder
	published []published
	waits     []wait
	alias     string // how the manifest calls it, where that is no host name
	networks  bool   // it names its networks
	guessed   bool   // how it is updated follows from what it has
}

// wait is a service that another waits for.
type wait struct {
	service string // workload's name
	at      place
	needed  bool // by depends_on: it must be in the manifest
}

// services adds the services of one file to what the reader found so far.
func (r *reader) services(f file, v any) error {
	if isEmpty(v) {
		return nil
	}
	all, ok := v.(map[string]any)
	if !ok {
		return f.errorf("services", "services must be a mapping of names").WithHint("write services: {NAME: {...}}")
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		d := &decoder{source: f.source, at: place("services").child(key), what: "service " + quote(key)}
		if strings.HasPrefix(key, "x-") {
			continue
		}
		m, ok := all[key].(map[string]any)
		if !ok {
			return f.errorf(d.at.key(), "%s must be a mapping", d.what).WithHint("say at least image, or stack and code")
		}
		m, err := r.extended(f, all, key, m, nil)
		if err != nil {
			return err
		}
		if !r.inProfile(d, m) {
			r.off[serviceName(key)] = true
			continue
		}
		if err := r.addService(f, d, key, m); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) addService(f file, d *decoder, key string, m map[string]any) error {
	name := serviceName(key)
	if mayfly.CheckName("service", name) != nil {
		return f.errorf(d.at.key(), "service %q is not a valid name", key).
			WithHint("use 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'")
	}
	if err := r.checkTaken(f.source, d.at, "service", name); err != nil {
		return err
	}
	m, err := r.serviceKeyRules(d, m)
	if err != nil {
		return err
	}
	s := &service{decoder: d}
	if name != key {
		s.alias = key
	}
	s.Name, s.Space, s.App = name, r.opts.Space, r.out.Name
	s.Service = &mayfly.Service{}
	r.service(s, f, m)
	if d.err != nil {
		return d.err
	}
	r.list = append(r.list, s)
	return nil
}

// checkTaken refuses a name that a function or a service has already.
func (r *reader) checkTaken(s *source, at place, what, name string) error {
	for _, f := range r.out.Functions {
		if f.Name == name && what == "function" {
			return s.errorf(at.key(), "function %q is defined in another file too", name).WithHint("rename one")
		}
		if f.Name == name {
			return s.errorf(at.key(), "%s %q: there is a function of that name", what, name).WithHint("rename one")
		}
	}
	for _, other := range r.list {
		if other.Name != name {
			continue
		}
		if what == "service" && other.source != s {
			return s.errorf(at.key(), "service %q is defined in another file too", name).WithHint("rename one")
		}
		return s.errorf(at.key(), "%s %q: there is a service of that name", what, name).WithHint("rename one")
	}
	return nil
}

// service reads what a service is.
func (r *reader) service(s *service, f file, m map[string]any) {
	d := s.decoder
	s.Image, s.Stack = d.text(m, "image"), d.text(m, "stack")
	s.CodeDir = r.codeDir(d, m, f.dir)
	s.rootOf(d, m)
	r.process(d, m, f, &s.Process)
	s.ReadOnly = d.boolean(m, d.either(m, "read_only", "readOnly"))
	s.Resources = d.resources(m)
	s.Labels = r.labels(d, m, f)
	s.Service.Hostname = d.hostname(m)
	if s.alias != "" {
		s.Service.Aliases = append(s.Service.Aliases, s.alias)
	}
	if name := d.text(m, "container_name"); name != "" && name != s.Name && name != s.alias {
		s.Service.Aliases = append(s.Service.Aliases, name)
	}
	s.Timeout, s.MaxBody = d.duration(m, "timeout", maxTimeout), d.size(m, "maxBody", 1, maxBody)
	s.Routes = r.routes(d, m, func() *mayfly.Workload { return &s.Workload.Workload })
	r.connections(s, f, m)
	s.Service.Restart = d.restart(m, f.compose)
	s.Scale = d.scale(m)
	s.Service.Startup, s.Service.Ready, s.Service.Live = d.probe(m, "startup"), d.probe(m, "ready"), d.probe(m, "live")
	s.Service.Update = d.update(m)
	s.stopping(d, m)
	s.Service.Processes = r.processes(d, m, f)
	s.Service.Sidecars = r.sidecars(d, m, f)
	r.composeKeys(s, f, m)
	s.defaults(m)
	s.check(d)
}

// rootOf checks that the root comes from exactly one place. Code is not a must:
// a stack may be all that there is to run.
func (s *service) rootOf(d *decoder, m map[string]any) {
	has := func(key string) bool { return m[key] != nil }
	switch {
	case has("image") && has("stack"):
		d.fail("stack", "keep one of them", "image and stack exclude each other")
	case has("image") && has("code"):
		d.fail("code", "keep one of them", "image and code exclude each other")
	case has("image"):
		if s.Image == "" {
			d.fail("image", "name an image", "image is empty")
		}
	case has("stack"):
		if err := mayfly.CheckName("stack", s.Stack); err != nil {
			d.fail("stack", "see mayfly stack ls", "stack %q is not a valid name", s.Stack)
		}
		if m["command"] == nil && m["entrypoint"] == nil && m["processes"] == nil {
			d.fail("", "add command: [PROGRAM]", "nothing says what to run on stack %s", s.Stack)
		}
	case has("code"):
		d.fail("code", "add stack: host, or one of mayfly stack ls", "code needs a stack")
	default:
		d.fail("", "add image: NAME, or stack: NAME", "nothing says what to run")
	}
}

// either returns which of two names of one thing is used.
func (d *decoder) either(m map[string]any, a, b string) string {
	if m[a] != nil && m[b] != nil {
		d.fail(b, "keep one of them", "%s and %s are the same", a, b)
	}
	if m[b] != nil {
		return b
	}
	return a
}

// process reads what is run, and as whom.
func (r *reader) process(d *decoder, m map[string]any, f file, p *mayfly.Process) {
	p.Command, p.Entrypoint = d.words(m, "command"), d.words(m, "entrypoint")
	p.Env = r.environment(d, m, f)
	p.User, p.WorkDir = d.text(m, "user"), d.text(m, d.either(m, "working_dir", "workdir"))
	if strings.ContainsRune(p.User, 0) {
		d.fail("user", "", "user holds a NUL byte")
	}
	if p.WorkDir != "" && (!path.IsAbs(p.WorkDir) || strings.ContainsRune(p.WorkDir, 0)) {
		d.fail(d.either(m, "working_dir", "workdir"), "begin it with /", "the working directory %q is not absolute", p.WorkDir)
	}
}

// environment is what the files say, and over it what is written here.
func (r *reader) environment(d *decoder, m map[string]any, f file) map[string]string {
	out := r.envFiles(d, m, f)
	for name, value := range d.environment(m, d.either(m, "environment", "env"), f.env) {
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
	}
	return out
}

func (d *decoder) resources(m map[string]any) (res mayfly.Resources) {
	res.Memory = d.size(m, d.either(m, "mem_limit", "memory"), minMemory, maxMemory)
	res.CPUs = d.number(m, "cpus", 0, 4096)
	if key := d.either(m, "pids_limit", "pids"); d.text(m, key) != "-1" {
		res.Pids = d.integer(m, key, 0, 1<<22)
	}
	res.Files = uint64(d.integer(m, "files", 3, 1<<30))
	return res
}

func (d *decoder) hostname(m map[string]any) string {
	name := d.text(m, "hostname")
	if name != "" && (len(name) > 64 || !hostPattern.MatchString(strings.ToLower(name)) || strings.HasPrefix(name, "*")) {
		d.fail("hostname", "use at most 64 of a-z, 0-9, '-' and '.'", "hostname %q is not a host name", name)
	}
	return name
}

// connections reads the four kinds of them.
func (r *reader) connections(s *service, f file, m map[string]any) {
	d := s.decoder
	s.Provides, s.Requires = d.provides(m), d.requires(m)
	for _, need := range s.Requires {
		if need.Service != "" && need.Space == "" {
			s.waits = append(s.waits, wait{need.Service, d.at.child("requires").child(need.Name), false})
		}
	}
	r.laterRequires(d, s.Requires)
	mounts := r.volumes(d, m, f.dir)
	s.Volumes, s.Mounts = mounts.volumes, mounts.mounts
	s.Secrets, s.Configs = r.secretMounts(d, m), r.configMounts(d, m, f.compose)
	s.published = d.ports(m)
	for _, p := range s.published {
		s.Service.Ports = append(s.Service.Ports, p.Port)
	}
}

// restart reads Compose's word, or our mapping.
func (d *decoder) restart(m map[string]any, compose bool) (r mayfly.Restart) {
	const hint = "use no, always, on-failure, on-failure:5 or unless-stopped"
	if _, ok := m["restart"].(map[string]any); ok {
		sub, under := d.mapping(m, "restart", hint)
		if sub.err = sub.keys(under, []string{"policy", "max"}, nil); sub.err == nil {
			r.Policy = sub.oneOf(under, "policy", mayfly.RestartAlways, mayfly.RestartOnFailure, mayfly.RestartNever)
			r.Max = int(sub.integer(under, "max", 0, maxRestarts))
		}
		d.done(sub)
		return r
	}
	word, times, counted := strings.Cut(d.text(m, "restart"), ":")
	switch {
	case word == "" && m["restart"] == nil:
		if compose {
			r.Policy = mayfly.RestartNever // as Compose has it
		}
		return r
	case word == "on-failure":
		r.Policy = word
		if counted {
			r.Max = int(d.integer(map[string]any{"restart": times}, "restart", 0, maxRestarts))
		}
		return r
	case counted:
	case word == "no", word == "false":
		r.Policy = mayfly.RestartNever
		return r
	case word == "always", word == "unless-stopped":
		r.Policy = mayfly.RestartAlways
		return r
	}
	d.fail("restart", hint, "restart cannot be %q", d.text(m, "restart"))
	return r
}

func (d *decoder) update(m map[string]any) (u mayfly.Update) {
	sub, under := d.mapping(m, "update", "write update: {surge: 1}")
	if sub == nil {
		return u
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"surge", "unavailable", "timeout", "healthy", "rollback"}, nil); sub.err != nil {
		return u
	}
	u.Surge, u.Unavailable = int(sub.integer(under, "surge", 0, maxScale)), int(sub.integer(under, "unavailable", 0, maxScale))
	u.Timeout, u.Healthy = sub.duration(under, "timeout", maxWait), sub.duration(under, "healthy", maxWait)
	if under["rollback"] != nil {
		u.NoRollback = !sub.boolean(under, "rollback")
	}
	if under["surge"] != nil && under["unavailable"] != nil && u.Surge == 0 && u.Unavailable == 0 {
		sub.fail("", "make one of them 1", "with surge 0 and unavailable 0 nothing could ever be updated")
	}
	return u
}

// stopping reads how an instance is asked to end.
func (s *service) stopping(d *decoder, m map[string]any) {
	s.Service.StopSignal = d.signal(m, "stop_signal")
	s.Service.StopGrace = d.duration(m, "stop_grace_period", maxWait)
	s.Service.DrainWait = d.duration(m, "drain", maxWait)
	sub, under := d.mapping(m, "stop", "write stop: {signal: QUIT, grace: 30s}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"signal", "grace"}, nil); sub.err != nil {
		return
	}
	if m["stop_signal"] != nil || m["stop_grace_period"] != nil {
		sub.fail("", "keep one of them", "stop says the same as stop_signal and stop_grace_period")
	}
	s.Service.StopSignal, s.Service.StopGrace = sub.signal(under, "signal"), sub.duration(under, "grace", maxWait)
}

// processes reads several programs of one container.
func (r *reader) processes(d *decoder, m map[string]any, f file) (all []mayfly.NamedProcess) {
	sub, under := d.mapping(m, "processes", "write processes: {NAME: {command: [PROGRAM]}}")
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	if m["command"] != nil {
		d.fail("command", "remove it, or make it one of processes", "command and processes exclude each other")
	}
	for _, name := range sub.each(under) {
		p := mayfly.NamedProcess{Name: name}
		if mayfly.CheckName("process", name) != nil {
			sub.fail(name, "use a-z, 0-9 and '-'", "process %q is not a valid name", name)
		}
		one, of := sub.under(name), map[string]any{"command": under[name]}
		if long, ok := under[name].(map[string]any); ok {
			one.err = one.keys(long, []string{"command", "entrypoint", "env", "environment", "env_file", "user", "workdir", "working_dir", "restart"}, nil)
			of = long
		}
		if one.err == nil {
			r.process(one, of, f, &p.Process)
			p.Restart = one.restart(of, false)
		}
		if len(p.Command)+len(p.Entrypoint) == 0 {
			one.fail("", "add command: [PROGRAM]", "nothing says what to run")
		}
		sub.done(one)
		all = append(all, p)
	}
	return all
}

var sidecarKeys = []string{
	"image", "command", "entrypoint", "env", "environment", "env_file", "user", "workdir", "working_dir", "memory", "mem_limit",
	"cpus", "pids", "pids_limit", "files", "volumes", "read_only", "readOnly", "ready",
}

// sidecars reads containers that stand beside each instance.
func (r *reader) sidecars(d *decoder, m map[string]any, f file) (all []mayfly.Sidecar) {
	sub, under := d.mapping(m, "sidecars", "write sidecars: {NAME: {image: IMAGE}}")
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	for _, name := range sub.each(under) {
		if mayfly.CheckName("sidecar", name) != nil {
			sub.fail(name, "use a-z, 0-9 and '-'", "sidecar %q is not a valid name", name)
		}
		one, of := sub.mapping(under, name, "write {image: IMAGE}")
		if one == nil {
			sub.fail(name, "add image: NAME", "sidecar %s: nothing says what to run", name)
			return nil
		}
		c := mayfly.Sidecar{Name: name}
		if one.err = one.keys(of, sidecarKeys, nil); one.err == nil {
			if c.Image = one.text(of, "image"); c.Image == "" {
				one.fail("", "add image: NAME", "nothing says what to run")
			}
			r.process(one, of, f, &c.Process)
			c.Resources = one.resources(of)
			c.ReadOnly = one.boolean(of, one.either(of, "read_only", "readOnly"))
			mounts := r.volumes(one, of, f.dir)
			if c.Volumes = mounts.volumes; len(mounts.mounts) > 0 {
				one.fail("volumes", "use a named volume", "a sidecar mounts only volumes")
			}
			c.Ready = one.probe(of, "ready")
		}
		sub.done(one)
		all = append(all, c)
	}
	return all
}

// probed says whether anything asks an instance how it is.
func (s *service) probed() bool {
	return s.Service.Ready != nil || s.Service.Startup != nil || s.Service.Live != nil ||
		slices.ContainsFunc(s.Provides, func(p mayfly.Provide) bool { return !p.Unprobed && (p.Ready != nil || p.Protocol != "udp") })
}

// defaults says what follows from the rest, where nobody does.
func (s *service) defaults(m map[string]any) {
	u := &s.Service.Update
	if u.Healthy == 0 && !s.probed() {
		u.Healthy = unprobedHealthy
	}
	if u.Surge != 0 || u.Unavailable != 0 || m["update"] != nil {
		return
	}
	for _, p := range s.Service.Ports {
		if p.Host != 0 {
			u.Unavailable, s.guessed = 1, true // the next one needs the port
		}
	}
	for _, v := range s.Volumes {
		if !v.ReadOnly {
			u.Unavailable, s.guessed = 1, true // two must not write at once
		}
	}
}

// check looks at what belongs together.
func (s *service) check(d *decoder) {
	d.probePorts("startup", s.Service.Startup, &s.Workload.Workload)
	d.probePorts("ready", s.Service.Ready, &s.Workload.Workload)
	d.probePorts("live", s.Service.Live, &s.Workload.Workload)
	for _, p := range s.Provides {
		if p.Ready != nil && p.Ready.HTTP != nil && p.Ready.HTTP.Port != 0 {
			sub := d.under("provides")
			sub.probePorts(p.Name, p.Ready, &s.Workload.Workload)
			d.done(sub)
		}
	}
	if s.Network == "none" && len(s.Provides)+len(s.Service.Ports) > 0 {
		d.fail("", "remove one of them", "without a network nothing can be provided or published")
	}
	if s.Network == "host" && len(s.Service.Ports) > 0 {
		d.fail("ports", "remove them", "with the machine's own network no ports are published")
	}
	published := map[mayfly.Port]bool{}
	for _, p := range s.published {
		key := mayfly.Port{Host: p.Host, HostIP: p.HostIP, Protocol: p.Protocol}
		if p.Host != 0 && published[key] {
			at := &decoder{source: d.source, at: p.at, what: d.what}
			at.fail("", "remove one", "the host port %s is here twice", hostPortText(p.Port))
			d.done(at)
		}
		published[key] = true
	}
	if n := s.Scale.Most(); n > 1 {
		for _, p := range s.published {
			if p.Host != 0 {
				at := &decoder{source: d.source, at: p.at, what: d.what}
				at.fail("", "leave the host port out, so that one is picked for each", "%d instances cannot all have the host port %s", n, hostPortText(p.Port))
				d.done(at)
			}
		}
	}
}
