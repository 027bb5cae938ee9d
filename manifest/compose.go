package manifest

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// isCompose says whether a file is Compose's by its name. What Compose leaves
// open is then as Compose has it: volumes are shared, nothing restarts.
func isCompose(name string) bool {
	base := filepath.Base(name)
	return strings.HasPrefix(base, "compose.") || strings.HasPrefix(base, "docker-compose.") || strings.HasPrefix(base, "container-compose.")
}

// inCompose says whether the last of the files that led to it is Compose's: by its
// name, or else as the one that includes it.
func inCompose(stack []string) bool {
	for _, name := range slices.Backward(stack) {
		if isCompose(name) {
			return true
		}
		if strings.HasPrefix(filepath.Base(name), "mayfly.") {
			return false
		}
	}
	return false
}

// composeKeys reads what Compose says in its own words.
func (r *reader) composeKeys(s *service, f file, m map[string]any) {
	d := s.decoder
	d.healthcheck(m, s)
	r.dependsOn(s, m)
	r.links(s, m)
	r.deploySection(s, m)
	r.networks(s, f, m)
	d.cpuKeys(m, &s.Resources)
	r.ulimits(d, m, &s.Resources)
	s.tmpfs(d, m)
	d.securityOpt(m)
	if m["init"] != nil && !d.boolean(m, "init") {
		r.warn(d, "init", "init: false is ignored: an init is always process 1")
	}
	s.provideExposed(d, m, f.compose)
}

// healthcheck makes Compose's check the readiness of the service.
func (d *decoder) healthcheck(m map[string]any, s *service) {
	sub, under := d.mapping(m, "healthcheck", "write healthcheck: {test: [CMD, PROGRAM]}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	known := []string{"test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"}
	if sub.err = sub.keys(under, known, nil); sub.err != nil {
		return
	}
	if sub.boolean(under, "disable") {
		return
	}
	command := sub.healthTest(under)
	if command == nil {
		return
	}
	if s.Service.Ready != nil {
		d.fail("ready", "keep one of them", "ready and healthcheck are the same")
	}
	p := &mayfly.Probe{Exec: command, Timeout: 30 * time.Second}
	p.Every = sub.duration(under, "interval", maxProbeTime)
	if under["timeout"] != nil && under["timeout"] != "0s" {
		p.Timeout = sub.duration(under, "timeout", maxProbeTime)
	}
	if under["start_period"] != "0s" {
		p.Grace = sub.duration(under, "start_period", maxProbeTime)
	}
	if under["start_interval"] != nil {
		sub.duration(under, "start_interval", maxProbeTime) // a start is watched closely anyway
	}
	p.Failures = int(sub.integer(under, "retries", 0, 10000))
	s.Service.Ready = p
}

// healthTest is the command of a check; nil where there is none.
func (d *decoder) healthTest(m map[string]any) []string {
	const hint = `write test: [CMD, PROGRAM], or test: COMMAND for a shell`
	if text, ok := m["test"].(string); ok && text != "" {
		return []string{"/bin/sh", "-c", text}
	}
	words := d.words(m, "test")
	if len(words) == 0 {
		d.fail("test", hint, "nothing says what to run")
		return nil
	}
	switch {
	case words[0] == "NONE" && len(words) == 1:
		return nil
	case words[0] == "CMD" && len(words) > 1:
		return words[1:]
	case words[0] == "CMD-SHELL" && len(words) == 2:
		return []string{"/bin/sh", "-c", words[1]}
	}
	d.fail("test", hint, "test begins with %q", words[0])
	return nil
}

// dependsOn reads what must be before the service starts.
func (r *reader) dependsOn(s *service, m map[string]any) {
	const hint = "write depends_on: [SERVICE]"
	d := s.decoder
	switch v := m["depends_on"].(type) {
	case nil:
	case []any:
		for i, name := range d.texts(m, "depends_on", hint) {
			r.after(s, d.at.child("depends_on").item(i), mayfly.After{Workload: serviceName(name), Condition: mayfly.AfterStarted})
		}
	case map[string]any:
		sub := d.under("depends_on")
		for _, name := range sub.each(v) {
			r.after(s, sub.at.child(name), r.afterOf(sub, v, name))
		}
		d.done(sub)
	default:
		d.fail("depends_on", hint, "depends_on must be a list or a mapping")
	}
}

func (r *reader) afterOf(d *decoder, m map[string]any, name string) mayfly.After {
	a := mayfly.After{Workload: serviceName(name), Condition: mayfly.AfterStarted}
	sub, under := d.mapping(m, name, "write {condition: service_healthy}")
	if sub == nil {
		return a
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"condition", "required", "restart"}, nil); sub.err != nil {
		return a
	}
	switch sub.oneOf(under, "condition", "service_started", "service_healthy", "service_completed_successfully") {
	case "service_healthy":
		a.Condition = mayfly.AfterReady
	case "service_completed_successfully":
		a.Condition = mayfly.AfterCompleted
	}
	a.Optional = under["required"] != nil && !sub.boolean(under, "required")
	if sub.boolean(under, "restart") {
		r.warn(sub, "restart", "restart is ignored: a name leads to the new container; write requires: {%s: {on_change: restart}} to be restarted", name)
	}
	return a
}

func (r *reader) after(s *service, at place, a mayfly.After) {
	for _, other := range s.Service.After {
		if other.Workload == a.Workload {
			return
		}
	}
	s.Service.After = append(s.Service.After, a)
	s.waits = append(s.waits, wait{a.Workload, at, !a.Optional})
}

// links are an order, and other names for services.
func (r *reader) links(s *service, m map[string]any) {
	d := s.decoder
	for i, text := range d.texts(m, "links", "write links: [SERVICE:NAME]") {
		name, alias, has := strings.Cut(text, ":")
		r.after(s, d.at.child("links").item(i), mayfly.After{Workload: serviceName(name), Condition: mayfly.AfterStarted})
		if !has || alias == name {
			continue
		}
		r.later(d, func(*decoder) {
			if target := r.find(serviceName(name)); target != nil && !slices.Contains(target.Service.Aliases, alias) && target.Name != alias {
				target.Service.Aliases = append(target.Service.Aliases, alias)
			}
		})
	}
}

// deploySection reads what a service is given, and how it is kept.
func (r *reader) deploySection(s *service, m map[string]any) {
	d := s.decoder
	sub, under := d.mapping(m, "deploy", "write deploy: {replicas: 2}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	known := []string{"mode", "replicas", "labels", "update_config", "rollback_config", "resources", "restart_policy", "placement", "endpoint_mode"}
	if sub.err = sub.keys(under, known, nil); sub.err != nil {
		return
	}
	if mode := sub.text(under, "mode"); mode != "" && mode != "replicated" {
		sub.fail("mode", "leave it out", "mode %q is not supported yet", mode)
	}
	if under["replicas"] != nil {
		if m["scale"] != nil || m["replicas"] != nil {
			sub.fail("replicas", "keep one of them", "scale and replicas are the same")
		}
		s.Scale = scaleOf(int(sub.integer(under, "replicas", 0, maxScale)))
	}
	maps.Copy(labelsInto(&s.Labels), sub.labelList(under))
	for _, key := range []string{"endpoint_mode", "rollback_config"} {
		if !isEmpty(under[key]) {
			r.warn(sub, key, "%s is ignored", key)
		}
	}
	if sub2, placement := sub.mapping(under, "placement", ""); sub2 != nil {
		sub2.err = sub2.keys(placement, nil, []string{"constraints", "max_replicas_per_node", "preferences"})
		sub.done(sub2)
	}
	r.deployResources(sub, under, s)
	r.restartPolicy(sub, under, m, s)
	r.updateConfig(sub, under, s)
}

func labelsInto(m *map[string]string) map[string]string {
	if *m == nil {
		*m = map[string]string{}
	}
	return *m
}

func (r *reader) deployResources(d *decoder, m map[string]any, s *service) {
	sub, under := d.mapping(m, "resources", "write resources: {limits: {memory: 256MB}}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"limits", "reservations"}, nil); sub.err != nil {
		return
	}
	if limits, of := sub.mapping(under, "limits", ""); limits != nil {
		if limits.err = limits.keys(of, []string{"cpus", "memory", "pids"}, []string{"devices", "generic_resources"}); limits.err == nil {
			given := limits.resources(of)
			limits.takes("memory", s.Resources.Memory != 0, given.Memory != 0, func() { s.Resources.Memory = given.Memory })
			limits.takes("cpus", s.Resources.CPUs != 0, given.CPUs != 0, func() { s.Resources.CPUs = given.CPUs })
			limits.takes("pids", s.Resources.Pids != 0, given.Pids != 0, func() { s.Resources.Pids = given.Pids })
		}
		sub.done(limits)
	}
	if kept, of := sub.mapping(under, "reservations", ""); kept != nil {
		if kept.err = kept.keys(of, []string{"cpus", "memory"}, []string{"devices", "generic_resources", "pids"}); kept.err == nil {
			kept.resources(of) // only to say what is wrong with them
			r.warn(kept, "", "reservations are ignored: nothing is reserved; limits bound a service")
		}
		sub.done(kept)
	}
}

// takes has set called for a value that is given, unless another key said it.
func (d *decoder) takes(key string, had, given bool, set func()) {
	if had && given {
		d.fail(key, "keep one of them", "%s is said twice", key)
	}
	if given {
		set()
	}
}

func (r *reader) restartPolicy(d *decoder, m, above map[string]any, s *service) {
	sub, under := d.mapping(m, "restart_policy", "write restart_policy: {condition: on-failure}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"condition", "delay", "max_attempts", "window"}, nil); sub.err != nil {
		return
	}
	policy := mayfly.Restart{Policy: mayfly.RestartAlways, Max: int(sub.integer(under, "max_attempts", 0, maxRestarts))}
	switch sub.oneOf(under, "condition", "none", "on-failure", "any") {
	case "none":
		policy = mayfly.Restart{Policy: mayfly.RestartNever}
	case "on-failure":
		policy.Policy = mayfly.RestartOnFailure
	}
	for _, key := range []string{"delay", "window"} {
		if under[key] != nil {
			r.warn(sub, key, "%s is ignored: three restarts come at once, then ever later ones", key)
		}
	}
	if above["restart"] == nil {
		s.Service.Restart = policy
	}
}

func (r *reader) updateConfig(d *decoder, m map[string]any, s *service) {
	sub, under := d.mapping(m, "update_config", "write update_config: {order: start-first}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	known := []string{"parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"}
	if sub.err = sub.keys(under, known, nil); sub.err != nil {
		return
	}
	u := &s.Service.Update
	atOnce := max(int(sub.integer(under, "parallelism", 0, maxScale)), 1)
	if sub.oneOf(under, "order", "stop-first", "start-first") == "start-first" {
		u.Surge = atOnce
	} else {
		u.Unavailable = atOnce
	}
	u.NoRollback = sub.oneOf(under, "failure_action", "continue", "pause", "rollback") != "rollback"
	if under["monitor"] != nil && under["monitor"] != "0s" {
		u.Healthy = sub.duration(under, "monitor", maxWait)
	}
	for _, key := range []string{"delay", "max_failure_ratio"} {
		if under[key] != nil {
			r.warn(sub, key, "%s is ignored: each step waits until what was started is ready", key)
		}
	}
}

// cpuKeys reads Compose's older ways to bound cores.
func (d *decoder) cpuKeys(m map[string]any, res *mayfly.Resources) {
	if n := d.integer(m, "cpu_count", 0, 4096); n > 0 {
		d.takes("cpu_count", res.CPUs != 0, true, func() { res.CPUs = float64(n) })
	}
	if m["cpu_quota"] == nil && m["cpu_period"] == nil {
		return
	}
	const usual = 100_000 // microseconds, the kernel's
	period := float64(max(d.micros(m, "cpu_period"), 0))
	if period == 0 {
		period = usual
	}
	if quota := d.micros(m, "cpu_quota"); quota > 0 {
		d.takes("cpu_quota", res.CPUs != 0, true, func() { res.CPUs = float64(quota) / period })
	}
}

// micros reads microseconds, or a duration.
func (d *decoder) micros(m map[string]any, key string) int64 {
	if n, err := time.ParseDuration(d.text(m, key)); err == nil && n != 0 {
		return n.Microseconds()
	}
	return d.integer(m, key, -1, 1<<40)
}

func (r *reader) ulimits(d *decoder, m map[string]any, res *mayfly.Resources) {
	sub, under := d.mapping(m, "ulimits", "write ulimits: {nofile: 65536}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	for _, key := range sub.each(under) {
		limit := strconv.FormatInt(res.Pids, 10)
		switch key {
		case "nofile":
			sub.takes(key, res.Files != 0, true, func() { res.Files = sub.limit(under, key) })
		case "nproc":
			sub.limit(under, key)
			r.warn(sub, key, "nproc is ignored: pids_limit bounds the processes of each container (now %s; 0 is the default)", limit)
		default:
			sub.fail(key, "remove it", "the limit %q is not supported yet", key)
		}
	}
}

// limit reads a number, or a mapping of which the hard one is what may be had.
func (d *decoder) limit(m map[string]any, key string) uint64 {
	const most = 1 << 30
	if _, ok := m[key].(map[string]any); !ok {
		return uint64(max(d.integer(m, key, -1, most), 0))
	}
	sub, under := d.mapping(m, key, "")
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"soft", "hard"}, nil); sub.err != nil {
		return 0
	}
	return uint64(max(sub.integer(under, "soft", -1, most), sub.integer(under, "hard", -1, most), 0))
}

// tmpfs reads what is in memory: a path, or path:size=64m.
func (s *service) tmpfs(d *decoder, m map[string]any) {
	list := m["tmpfs"]
	if text, ok := list.(string); ok {
		m = map[string]any{"tmpfs": []any{text}}
	}
	for i, text := range d.texts(m, "tmpfs", "write tmpfs: [/path]") {
		sub := d.item("tmpfs", i)
		target, options, _ := strings.Cut(text, ":")
		t := mayfly.Mount{Type: "tmpfs", Target: path.Clean(target)}
		if !path.IsAbs(target) || t.Target == "/" {
			sub.fail("", "write the path in the container", "%q is not an absolute path below /", target)
		}
		for _, option := range strings.FieldsFunc(options, func(c rune) bool { return c == ',' }) {
			name, value, _ := strings.Cut(option, "=")
			switch name {
			case "size":
				t.Size = sub.size(map[string]any{"size": value}, "size", 1, maxMemory)
			case "ro":
				t.ReadOnly = true
			case "rw", "noexec", "nosuid", "nodev":
			default:
				sub.fail("", "use size and ro", "the option %q of a tmpfs is not supported", name)
			}
		}
		d.done(sub)
		s.Mounts = append(s.Mounts, t)
	}
	if size := d.size(m, "shm_size", 0, maxMemory); size > 0 {
		s.Mounts = append(s.Mounts, mayfly.Mount{Type: "tmpfs", Target: "/dev/shm", Size: size})
	}
}

// securityOpt takes what holds for every container anyway.
func (d *decoder) securityOpt(m map[string]any) {
	for i, text := range d.texts(m, "security_opt", "write security_opt: [no-new-privileges:true]") {
		switch text {
		case "no-new-privileges", "no-new-privileges:true", "no-new-privileges=true":
		default:
			sub := d.item("security_opt", i)
			sub.fail("", "remove it", "the security option %q is not supported yet", text)
			d.done(sub)
		}
	}
}

// provideExposed makes endpoints of what Compose publishes or exposes. A service
// of a Compose file that does neither can be reached all the same, at any port.
func (s *service) provideExposed(d *decoder, m map[string]any, compose bool) {
	ports := d.expose(m)
	names := map[mayfly.Port]published{}
	for _, p := range s.published {
		key := mayfly.Port{Container: p.Container, Protocol: p.Protocol}
		ports, names[key] = append(ports, key), p
	}
	if m["provides"] != nil || !compose && m["expose"] == nil {
		return
	}
	for _, p := range ports {
		one := mayfly.Provide{Name: fmt.Sprintf("tcp-%d", p.Container), Port: p.Container, Protocol: p.Protocol, Unprobed: true}
		if p.Protocol != "" {
			one.Name = fmt.Sprintf("%s-%d", p.Protocol, p.Container)
		}
		if said := names[p]; said.name != "" {
			one.Name = said.name
		}
		if said := names[p]; said.protocol != "" && one.Protocol == "" {
			one.Protocol = said.protocol
		}
		if !slices.ContainsFunc(s.Provides, func(o mayfly.Provide) bool { return o.Name == one.Name }) {
			s.Provides = append(s.Provides, one)
		}
	}
	if compose && len(s.Provides) == 0 && s.Network != "none" {
		s.Provides = []mayfly.Provide{{Name: "address", Protocol: mayfly.AddressOnly, Unprobed: true}}
	}
}

// inProfile says whether a service takes part.
func (r *reader) inProfile(d *decoder, m map[string]any) bool {
	profiles, ok := m["profiles"].([]any)
	if !ok || len(profiles) == 0 {
		return true
	}
	for _, p := range profiles {
		if text, ok := p.(string); ok && slices.Contains(r.opts.Profiles, text) {
			return true
		}
	}
	return slices.Contains(r.opts.Profiles, "*")
}
