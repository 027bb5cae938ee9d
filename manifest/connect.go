package manifest

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Limits of what one workload is connected to.
const (
	maxConnections = 256
	maxOnChange    = time.Hour
)

var (
	connectionPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	protocolPattern   = regexp.MustCompile(`^[a-z][a-z0-9+.-]{0,31}$`)
)

// schemes are the names of provided ports that say what is spoken there.
var schemes = []string{
	"amqp", "amqps", "ftp", "grpc", "http", "https", "imap", "kafka", "ldap", "ldaps", "memcached", "mongodb", "mqtt", "mysql",
	"nats", "postgres", "postgresql", "redis", "rediss", "sftp", "smtp", "ssh", "udp", "ws", "wss",
}

// mapping returns the mapping under a key and a decoder of it; nil where there
// is none, and what is something else is an error.
func (d *decoder) mapping(m map[string]any, key, hint string) (*decoder, map[string]any) {
	under, ok := m[key].(map[string]any)
	if m[key] == nil {
		return nil, nil
	}
	if !ok {
		d.fail(key, hint, "%s must be a mapping", key)
		return nil, nil
	}
	return d.under(key), under
}

func (d *decoder) under(key string) *decoder {
	return &decoder{source: d.source, at: d.at.child(key), what: d.what + ": " + key}
}

func (d *decoder) each(m map[string]any) []string {
	if len(m) > maxConnections {
		d.fail("", "", "more than %d entries", maxConnections)
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}

// provides reads the ports that others may use.
func (d *decoder) provides(m map[string]any) (all []mayfly.Provide) {
	const hint = "write provides: {http: 80}"
	sub, under := d.mapping(m, "provides", hint)
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	for _, name := range sub.each(under) {
		if !connectionPattern.MatchString(name) {
			sub.fail(name, "use a-z, 0-9, '-' and '_', starting with a letter", "%q is not a name for a port", name)
		}
		p := sub.provide(under, name)
		for _, other := range all {
			if p.Port != 0 && p.Port == other.Port && (p.Protocol == "udp") == (other.Protocol == "udp") {
				sub.fail(name, "", "%s and %s are the same port %d", other.Name, name, p.Port)
			}
		}
		all = append(all, p)
	}
	return all
}

func (d *decoder) provide(m map[string]any, name string) mayfly.Provide {
	p := mayfly.Provide{Name: name}
	if slices.Contains(schemes, name) {
		p.Protocol = name
	}
	under, ok := m[name].(map[string]any)
	if !ok {
		p.Port, p.Protocol = d.providedPort(m, name, p.Protocol)
		return p
	}
	sub := d.under(name)
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"port", "protocol", "role", "tags", "ready"}, nil); sub.err != nil {
		return p
	}
	if under["protocol"] != nil {
		p.Protocol = sub.protocolName(under, "protocol")
	}
	p.Port, p.Protocol = sub.providedPort(under, "port", p.Protocol)
	p.Role = sub.connectionName(under, "role")
	p.Tags = sub.tags(under)
	p.Ready = sub.probe(under, "ready")
	return p
}

// providedPort reads a number, or one with a protocol as in 53/udp. None means
// that one is picked.
func (d *decoder) providedPort(m map[string]any, key, protocol string) (uint16, string) {
	text := d.text(m, key)
	number, after, has := strings.Cut(text, "/")
	if has {
		if after != "udp" && after != "tcp" {
			d.fail(key, "write 53/udp or 80", "port %q is not a port", text)
		}
		if after == "udp" || protocol == "" {
			protocol = after
		}
	}
	if number == "" && !has {
		return 0, protocol
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		d.fail(key, "use 1 to 65535, or 0 for one that is picked", "port %q is not a port", text)
	}
	return uint16(n), protocol
}

func (d *decoder) protocolName(m map[string]any, key string) string {
	s := d.text(m, key)
	if s != "" && !protocolPattern.MatchString(s) {
		d.fail(key, "write it as a URL begins: http, mysql, tcp, udp", "%s %q is not a protocol", key, s)
	}
	return s
}

func (d *decoder) connectionName(m map[string]any, key string) string {
	s := d.text(m, key)
	if s != "" && !connectionPattern.MatchString(s) {
		d.fail(key, "use a-z, 0-9, '-' and '_', starting with a letter", "%s %q is not a valid name", key, s)
	}
	return s
}

func (d *decoder) tags(m map[string]any) map[string]string {
	sub, under := d.mapping(m, "tags", "write tags: {NAME: VALUE}")
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	tags := map[string]string{}
	for _, name := range sub.each(under) {
		tags[name] = sub.text(under, name)
	}
	return tags
}

// requires reads what a workload needs of others.
func (d *decoder) requires(m map[string]any) (all []mayfly.Require) {
	const hint = "write requires: {db: SERVICE}, or requires: [SERVICE]"
	if list, ok := m["requires"].([]any); ok {
		short := map[string]any{}
		for i, item := range list {
			name, ok := item.(string)
			if !ok {
				d.fail("requires", hint, "item %d must be a name", i+1)
			}
			short[name] = nil
		}
		m = map[string]any{"requires": short}
	}
	sub, under := d.mapping(m, "requires", hint)
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	seen := map[string]string{}
	for _, name := range sub.each(under) {
		if !connectionPattern.MatchString(name) {
			sub.fail(name, "use a-z, 0-9, '-' and '_', starting with a letter", "%q cannot name what is required", name)
		}
		variable := variableOf(name)
		if other, ok := seen[variable]; ok {
			sub.fail(name, "rename one", "%s and %s would both be %s_HOST", other, name, variable)
		}
		seen[variable] = name
		all = append(all, sub.require(under, name))
	}
	return all
}

// variableOf is what the variables of a requirement begin with.
func variableOf(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func (d *decoder) require(m map[string]any, name string) mayfly.Require {
	r := mayfly.Require{Name: name}
	under, ok := m[name].(map[string]any)
	if !ok {
		if r.Service = d.text(m, name); r.Service == "" {
			r.Service = serviceName(name)
		}
		d.workloadName(name, r.Service)
		r.OnChange.Restart = true
		return r
	}
	sub := d.under(name)
	defer d.done(sub)
	known := []string{"service", "port", "role", "space", "tags", "prefer", "all", "optional", "via", "on_change"}
	if sub.err = sub.keys(under, known, nil); sub.err != nil {
		return r
	}
	r.Service, r.Role, r.Port = sub.text(under, "service"), sub.connectionName(under, "role"), sub.text(under, "port")
	if r.Service == "" && r.Role == "" {
		r.Service = serviceName(name)
	}
	if r.Service != "" {
		sub.workloadName("service", r.Service)
	}
	if r.Space = sub.text(under, "space"); r.Space != "" && mayfly.CheckName("space", r.Space) != nil {
		sub.fail("space", "", "space %q is not a valid name", r.Space)
	}
	r.Tags = sub.matches(under)
	r.SameZone = sub.oneOf(under, "prefer", "same-zone") != ""
	r.Proxy = sub.oneOf(under, "via", "proxy", "direct") == "proxy"
	r.All, r.Optional = sub.boolean(under, "all"), sub.boolean(under, "optional")
	r.OnChange = sub.onChange(under)
	if under["on_change"] == nil && !r.Proxy {
		r.OnChange.Restart = true // a program that read an address once must not be left with a stale one
	}
	if r.Proxy && r.All {
		sub.fail("all", "remove one of them", "all and via: proxy exclude each other: a proxy is one address")
	}
	return r
}

func (d *decoder) workloadName(key, name string) {
	if mayfly.CheckName("service", name) != nil {
		d.fail(key, "use 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'", "service %q is not a valid name", name)
	}
}

// matches reads which values of tags are wanted.
func (d *decoder) matches(m map[string]any) map[string]mayfly.Match {
	const hint = "write tags: {NAME: VALUE}, {NAME: [A, B]} or {NAME: {regex: PATTERN}}"
	sub, under := d.mapping(m, "tags", hint)
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	all := map[string]mayfly.Match{}
	for _, name := range sub.each(under) {
		var match mayfly.Match
		switch v := under[name].(type) {
		case []any:
			match.In = sub.texts(under, name, hint)
		case map[string]any:
			below := sub.under(name)
			if below.err = below.keys(v, []string{"regex"}, nil); below.err == nil {
				match.Pattern = below.text(v, "regex")
				if _, err := regexp.Compile(match.Pattern); err != nil || match.Pattern == "" {
					below.fail("regex", "see github.com/google/re2/wiki/Syntax", "regex %q is not a regular expression", match.Pattern)
				}
			}
			sub.done(below)
		default:
			if match.Value = sub.text(under, name); match.Value == "" {
				sub.fail(name, hint, "the tag %s has no value", name)
			}
		}
		all[name] = match
	}
	return all
}

// texts reads a list of scalars that are not empty.
func (d *decoder) texts(m map[string]any, key, hint string) (all []string) {
	for i, item := range d.list(m, key, maxConnections, hint) {
		text, ok := scalarText(item)
		if !ok || text == "" || strings.ContainsRune(text, 0) {
			d.fail(key, hint, "%s: item %d must be a text", key, i+1)
		}
		all = append(all, text)
	}
	return all
}

// onChange reads what is done in an instance after a change: a word as in
// restart, none or HUP, or a mapping.
func (d *decoder) onChange(m map[string]any) (o mayfly.OnChange) {
	const hint = "write on_change: restart, none, {signal: HUP} or {exec: [PROGRAM]}"
	if word, ok := m["on_change"].(string); ok {
		switch word {
		case "none": // the program watches its files
			return o
		case "restart":
			o.Restart = true
			return o
		}
		if o.Signal, ok = signalName(word); !ok {
			d.fail("on_change", hint, "on_change cannot be %q", word)
		}
		return o
	}
	sub, under := d.mapping(m, "on_change", hint)
	if sub == nil {
		return o
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"exec", "signal", "restart", "timeout"}, nil); sub.err != nil {
		return o
	}
	o.Exec, o.Signal = sub.words(under, "exec"), sub.signal(under, "signal")
	o.Restart, o.Timeout = sub.boolean(under, "restart"), sub.duration(under, "timeout", maxOnChange)
	set := 0
	for _, is := range []bool{under["exec"] != nil, o.Signal != "", o.Restart} {
		if is {
			set++
		}
	}
	switch {
	case under["exec"] != nil && len(o.Exec) == 0:
		sub.fail("exec", "", "exec is empty")
	case set > 1:
		sub.fail("", "keep one of them", "exec, signal and restart exclude each other")
	case set == 0:
		sub.fail("", hint, "nothing says what to do")
	case o.Timeout != 0 && len(o.Exec) == 0:
		sub.fail("timeout", "remove it", "timeout is of exec")
	}
	return o
}

// signal reads a signal's name, with or without SIG, or its number.
func (d *decoder) signal(m map[string]any, key string) string {
	text := d.text(m, key)
	if text == "" {
		return ""
	}
	name, ok := signalName(text)
	if !ok {
		d.fail(key, "write it like TERM or HUP", "%s %q is not a signal", key, text)
	}
	return name
}

func signalName(text string) (string, bool) {
	sig, ok := mayfly.ParseSignal(text)
	return mayfly.SignalName(sig), ok
}

// serviceName is the workload's name of a service of a Compose file, which may
// have letters that host names have not.
func serviceName(key string) string { return nameOf(key) }

// nameOf makes of a key what mayfly.CheckName takes, if that is possible.
func nameOf(key string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, strings.ToLower(key))
	return strings.Trim(name, "-")
}
