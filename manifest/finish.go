package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// pending is a check that needs the whole manifest.
type pending struct {
	at decoder
	do func(*decoder)
}

// later has a check done when everything is read.
func (r *reader) later(d *decoder, do func(*decoder)) {
	at := *d
	at.err = nil
	r.checks = append(r.checks, pending{at, do})
}

// warn adds a line for the person who deploys.
func (r *reader) warn(d *decoder, key, format string, args ...any) {
	at := d.at
	if key != "" {
		at = at.child(key).key()
	}
	r.out.Warnings = append(r.out.Warnings, d.errorf(at, "%s: %s", d.what, fmt.Sprintf(format, args...)).Text)
}

// finish does what needs the whole manifest, and puts everything in order.
func (r *reader) finish() error {
	for i := range r.checks {
		c := &r.checks[i]
		if c.do(&c.at); c.at.err != nil {
			return c.at.err
		}
	}
	r.joinDefault()
	if err := cmp.Or(r.checkWaits(), r.checkHostPorts(), r.checkNames(), r.checkWriters()); err != nil {
		return err
	}
	order, err := r.order()
	if err != nil {
		return err
	}
	for _, s := range order {
		r.out.Services = append(r.out.Services, s.Workload)
	}
	for i := range r.out.Services {
		r.nameStorage(&r.out.Services[i].Workload)
	}
	for i := range r.out.Functions {
		r.nameStorage(&r.out.Functions[i].Workload)
	}
	r.out.Off = slices.Sorted(maps.Keys(r.off))
	slices.SortFunc(r.out.Functions, func(a, b Workload) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.out.Volumes, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.out.Secrets, func(a, b Secret) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.out.Configs, func(a, b Config) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// nameStorage puts the names in the space for the manifest's own, and says what
// the stack is made of.
func (r *reader) nameStorage(w *mayfly.Workload) {
	w.Base = r.stacks[w.Stack]
	for i := range w.Volumes {
		w.Volumes[i].Volume = r.declared["volumes"][w.Volumes[i].Volume].name
	}
	for i := range w.Secrets {
		w.Secrets[i].Secret = r.declared["secrets"][w.Secrets[i].Secret].name
	}
	for i := range w.Configs {
		w.Configs[i].Config = r.declared["configs"][w.Configs[i].Config].name
	}
	if w.Service == nil {
		return
	}
	for _, c := range w.Service.Sidecars {
		for i := range c.Volumes {
			c.Volumes[i].Volume = r.declared["volumes"][c.Volumes[i].Volume].name
		}
	}
}

// find is the service of a name; nil if there is none.
func (r *reader) find(name string) *service {
	for _, s := range r.list {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// checkDeclared refuses a name that stands nowhere at the top.
func (r *reader) checkDeclared(d *decoder, kind, key string) {
	if _, ok := r.declared[kind][key]; ok || kind == "networks" && key == defaultNetwork {
		return
	}
	what := strings.TrimSuffix(kind, "s")
	hint := fmt.Sprintf("add it at the top: %s: {%s: {}}", kind, key)
	if what != "volume" && what != "network" {
		hint = fmt.Sprintf("add it at the top: %s: {%s: {file: ./FILE}}", kind, key)
	}
	if near := nearest(key, slices.Collect(maps.Keys(r.declared[kind]))); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.fail("", hint, "the %s %q is not declared", what, key)
}

func (r *reader) checkMounted(d *decoder, key string, _ bool) { r.checkDeclared(d, "volumes", key) }

// laterRequires checks the ports of what is required in the manifest itself.
func (r *reader) laterRequires(d *decoder, all []mayfly.Require) {
	for _, need := range all {
		at := d.under("requires").under(need.Name)
		at.what = d.what
		r.later(at, func(d *decoder) { r.checkRequire(d, need) })
	}
}

func (r *reader) checkRequire(d *decoder, need mayfly.Require) {
	if need.Space != "" && need.Space != r.opts.Space || need.Service == "" {
		return
	}
	var provides []mayfly.Provide
	if s := r.find(need.Service); s != nil {
		provides = s.Provides
	} else if i := slices.IndexFunc(r.out.Functions, func(f Workload) bool { return f.Name == need.Service }); i >= 0 {
		provides = r.out.Functions[i].Provides
	} else {
		return // a warning says so
	}
	var names []string
	for _, p := range provides {
		if p.Name == need.Port || need.Port == "" {
			return
		}
		names = append(names, p.Name)
	}
	switch {
	case len(names) == 0:
		d.fail("", "add provides: {NAME: PORT} to it", "service %q provides nothing", need.Service)
	default:
		d.fail("port", "it provides "+strings.Join(names, ", "), "service %q provides no port %q", need.Service, need.Port)
	}
}

// checkWaits refuses to wait for what Compose would refuse, and warns of what
// has to come from elsewhere.
func (r *reader) checkWaits() error {
	for _, s := range r.list {
		for _, w := range s.waits {
			if r.find(w.service) != nil || slices.ContainsFunc(r.out.Functions, func(f Workload) bool { return f.Name == w.service }) {
				continue
			}
			if w.needed && r.off[w.service] {
				return s.errorf(w.at, "%s: depends on %q, whose profile is not on", s.what, w.service).WithHint("turn it on with --profile, or add required: false")
			}
			if w.needed {
				err := s.errorf(w.at, "%s: depends on %q, and there is no such service", s.what, w.service)
				if near := nearest(w.service, r.names()); near != "" {
					return err.WithHint("did you mean %q?", near)
				}
				return err.WithHint("remove it, or add required: false")
			}
			if r.required(s, w) {
				r.out.Warnings = append(r.out.Warnings, s.errorf(w.at, "%s requires %q, which is not in this manifest: it waits until that is there", s.what, w.service).Text)
			}
		}
	}
	return nil
}

func (r *reader) names() (all []string) {
	for _, s := range r.list {
		all = append(all, s.Name)
	}
	return all
}

// required says whether a wait is one for a requirement that gates the start.
func (r *reader) required(s *service, w wait) bool {
	return slices.ContainsFunc(s.Requires, func(need mayfly.Require) bool { return need.Service == w.service && !need.Optional })
}

// checkHostPorts refuses two services that want one port of the node.
func (r *reader) checkHostPorts() error {
	type taken struct {
		by   *service
		port published
	}
	var all []taken
	for _, s := range r.list {
		for _, p := range s.published {
			if p.Host == 0 {
				continue
			}
			for _, t := range all {
				if t.by != s && t.port.Host == p.Host && t.port.Protocol == p.Protocol && (t.port.HostIP == p.HostIP || t.port.HostIP == "" || p.HostIP == "") {
					return s.errorf(p.at, "services %q and %q both want the host port %s", t.by.Name, s.Name, hostPortText(p.Port)).
						WithHint("give one another port, or none for one that is picked")
				}
			}
			all = append(all, taken{s, p})
		}
	}
	return nil
}

// checkNames refuses a plain name that would lead to two services.
func (r *reader) checkNames() error {
	owner := map[string]*service{}
	for _, s := range r.list {
		owner[s.Name] = s
	}
	for _, s := range r.list {
		for _, alias := range s.Service.Aliases {
			name := strings.ToLower(alias)
			if other, ok := owner[name]; ok && other != s && !r.apart(s, other) {
				return s.errorf(s.at.key(), "%s: its other name %q is %s's too", s.what, alias, other.what).WithHint("rename one")
			}
			if owner[name] == nil {
				owner[name] = s
			}
		}
	}
	return nil
}

// apart says whether two services share no network, and so never meet; then one
// alias may mean either.
func (r *reader) apart(a, b *service) bool {
	if len(a.Service.Networks) == 0 || len(b.Service.Networks) == 0 {
		return false
	}
	return !slices.ContainsFunc(a.Service.Networks, func(n string) bool { return slices.Contains(b.Service.Networks, n) })
}

// checkWriters refuses two services that write to a volume with one writer, and
// lets those of a shared one follow each other without a gap.
func (r *reader) checkWriters() error {
	writers := map[string]*service{}
	shared := map[string]bool{}
	for _, v := range r.out.Volumes {
		shared[v.Name] = v.Shared
	}
	for _, s := range r.list {
		alone := false
		for _, v := range s.Volumes {
			d, ok := r.declared["volumes"][v.Volume]
			if v.ReadOnly || !ok || d.shared {
				continue
			}
			alone = true
			if shared[d.name] {
				continue
			}
			if other := writers[v.Volume]; other != nil && other != s {
				return s.errorf(s.at.child("volumes"), "services %q and %q both write to the volume %q, which has one writer at a time", other.Name, s.Name, v.Volume).
					WithHint("mount it with :ro in one, or declare it with shared: true")
			}
			writers[v.Volume] = s
			if s.Scale.Most() > 1 && s.Scale.Active == 0 {
				r.out.Warnings = append(r.out.Warnings, s.errorf(s.at.child("volumes"),
					"%s has %d instances and the volume %q one writer at a time, so that only one can run; declare the volume with shared: true", s.what, s.Scale.Most(), v.Volume).Text)
			}
		}
		if !alone && !slices.ContainsFunc(s.Service.Ports, func(p mayfly.Port) bool { return p.Host != 0 }) && s.guessed {
			s.Service.Update.Unavailable = 0
		}
	}
	return nil
}

// order puts each service after those that it waits for, and refuses a cycle.
func (r *reader) order() ([]*service, error) {
	slices.SortFunc(r.list, func(a, b *service) int { return strings.Compare(a.Name, b.Name) })
	done := map[*service]bool{}
	var order, path []*service
	var visit func(s *service) error
	visit = func(s *service) error {
		if done[s] {
			return nil
		}
		if i := slices.Index(path, s); i >= 0 {
			return r.cycle(path[i:])
		}
		path = append(path, s)
		for _, w := range s.waits {
			if next := r.find(w.service); next != nil && r.gates(s, w) {
				if err := visit(next); err != nil {
					return err
				}
			}
		}
		path = path[:len(path)-1]
		done[s] = true
		order = append(order, s)
		return nil
	}
	for _, s := range r.list {
		if err := visit(s); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// gates says whether a service does not start before another.
func (r *reader) gates(s *service, w wait) bool {
	if r.required(s, w) {
		return true
	}
	return slices.ContainsFunc(s.Service.After, func(a mayfly.After) bool { return a.Workload == w.service })
}

// cycle says that services wait for each other, in a circle.
func (r *reader) cycle(path []*service) error {
	var names []string
	for _, s := range path {
		names = append(names, s.Name)
	}
	first, next := path[0], path[0]
	if len(path) > 1 {
		next = path[1]
	}
	at := first.at
	for _, w := range first.waits {
		if w.service == next.Name && r.gates(first, w) {
			at = w.at
		}
	}
	return first.errorf(at, "services wait for each other: %s", strings.Join(append(names, names[0]), " -> ")).
		WithHint("remove one of these, or make a requirement optional: true")
}
