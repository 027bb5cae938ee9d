package manifest

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// defaultNetwork is that of services that name none, where others do.
const defaultNetwork = "default"

// networks reads which networks of the app a service is in.
func (r *reader) networks(s *service, f file, m map[string]any) {
	d := s.decoder
	r.networkMode(s, m)
	switch v := m["networks"].(type) {
	case nil:
		return
	case []any:
		s.Service.Networks = d.texts(m, "networks", "write networks: [NAME]")
		for i, name := range s.Service.Networks {
			at := d.item("networks", i)
			r.later(at, func(d *decoder) { r.checkDeclared(d, "networks", name) })
		}
	case map[string]any:
		sub := d.under("networks")
		for _, name := range sub.each(v) {
			s.Service.Networks = append(s.Service.Networks, name)
			r.network(sub, v, name, s)
			r.later(sub.under(name), func(d *decoder) { r.checkDeclared(d, "networks", name) })
		}
		d.done(sub)
	default:
		d.fail("networks", "write networks: [NAME]", "networks must be a list or a mapping")
	}
	if s.Network != "" && s.Network != "bridge" {
		d.fail("networks", "keep one of them", "networks and network %s exclude each other", s.Network)
	}
	slices.Sort(s.Service.Networks)
	s.Service.Networks = slices.Compact(s.Service.Networks)
	s.networks = true
}

func (r *reader) network(d *decoder, m map[string]any, name string, s *service) {
	sub, under := d.mapping(m, name, "write {aliases: [NAME]}")
	if sub == nil {
		return
	}
	defer d.done(sub)
	known := []string{"aliases", "priority", "gw_priority", "use_service_name_alias"}
	later := []string{"ipv4_address", "ipv6_address", "link_local_ips", "mac_address", "driver_opts", "interface_name"}
	if sub.err = sub.keys(under, known, later); sub.err != nil {
		return
	}
	for _, key := range []string{"priority", "gw_priority", "use_service_name_alias"} {
		if under[key] != nil {
			r.warn(sub, key, "%s is ignored: a container has one network card", key)
		}
	}
	if isEmpty(under["aliases"]) {
		return
	}
	for _, alias := range sub.texts(under, "aliases", "write aliases: [NAME]") {
		if !hostPattern.MatchString(strings.ToLower(alias)) && !connectionPattern.MatchString(strings.ToLower(alias)) {
			sub.fail("aliases", "", "alias %q is not a host name", alias)
		}
		if alias != s.Name && !slices.Contains(s.Service.Aliases, alias) {
			s.Service.Aliases = append(s.Service.Aliases, alias)
		}
	}
}

// networkMode reads what network a container has, in Compose's words or ours.
func (r *reader) networkMode(s *service, m map[string]any) {
	d := s.decoder
	key := d.either(m, "network_mode", "net")
	if m["network"] != nil {
		key = d.either(m, key, "network")
	}
	switch mode := d.text(m, key); mode {
	case "", "default":
	case "bridge", "none", "host":
		s.Network = mode
	default:
		if strings.HasPrefix(mode, "service:") || strings.HasPrefix(mode, "container:") {
			d.fail(key, "make it one of sidecars:", "%s %q is not supported yet", key, mode)
			return
		}
		d.fail(key, "use bridge, none or host", "%s cannot be %q", key, mode)
	}
}

// topNetworks reads the networks of the app.
func (r *reader) topNetworks(f file, v any) error {
	all, err := f.topMapping("networks", v)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		d := &decoder{source: f.source, at: place("networks").child(name), what: "network " + quote(name)}
		m, ok := all[name].(map[string]any)
		if !ok && all[name] != nil {
			d.fail("", "write {}", "it must be a mapping")
		}
		if d.err == nil {
			d.err = d.keys(m, []string{"name", "driver", "driver_opts", "attachable", "external", "internal", "ipam", "labels", "enable_ipv4", "enable_ipv6"}, nil)
		}
		if driver := d.text(m, "driver"); driver != "" && driver != "bridge" && driver != "overlay" && driver != "default" {
			d.fail("driver", "leave it out", "driver %q is not supported yet", driver)
		}
		if !isEmpty(m["external"]) && d.text2(m, "external") != "false" {
			d.fail("external", "use requires: to reach services of other apps", "a network that others share is not supported yet")
		}
		if d.boolean(m, "internal") {
			d.fail("internal", "remove it", "a network without a way out is not supported yet")
		}
		for _, key := range []string{"name", "driver_opts", "attachable", "ipam", "labels", "enable_ipv6"} {
			if !isEmpty(m[key]) && m[key] != false {
				r.warn(d, key, "%s is ignored: networks are the app's own, and addresses are picked", key)
			}
		}
		if d.err != nil {
			return d.err
		}
		r.declared["networks"][name] = declaration{at: d, name: name}
	}
	return err
}

// text2 is text where a mapping is as good as true.
func (d *decoder) text2(m map[string]any, key string) string {
	if _, ok := m[key].(map[string]any); ok {
		return "true"
	}
	return d.text(m, key)
}

// joinDefault puts services that name no network into the default one, where
// any other names some; else all of the app are together.
func (r *reader) joinDefault() {
	if !slices.ContainsFunc(r.list, func(s *service) bool { return s.networks }) {
		return
	}
	for _, s := range r.list {
		if !s.networks && (s.Network == "" || s.Network == "bridge") {
			s.Service.Networks = []string{defaultNetwork}
		}
	}
	separate := map[string]bool{}
	for _, s := range r.list {
		for _, n := range s.Service.Networks {
			separate[n] = true
		}
	}
	if len(separate) == 1 { // one for all is the same as none
		for _, s := range r.list {
			s.Service.Networks = nil
		}
	}
}

var hostPattern = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
