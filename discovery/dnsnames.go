package discovery

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// domain is that of services: SERVICE.SPACE.mayfly. A service has plain names
// besides, for those of its app.
const domain = "mayfly"

// names is which services have names, whether or not they have endpoints now. It
// is replaced whole.
type names struct {
	services map[store.Key]nameOwner
	plain    map[plainName][]string // the services that a plain name is of
}

type plainName struct{ space, app, name string }

// nameOwner is what of a service decides who may know its name.
type nameOwner struct {
	app      string
	networks []string
}

func newNames(snap *store.Snapshot) *names {
	n := &names{services: make(map[store.Key]nameOwner, len(snap.Workloads)), plain: map[plainName][]string{}}
	for key, w := range snap.Workloads {
		l := &w.Workload
		if l.Service == nil && len(l.Provides) == 0 {
			continue // a function, which is called
		}
		one := nameOwner{app: l.App}
		if l.Service != nil {
			one.networks = l.Service.Networks
		}
		n.services[key] = one
		if l.App == "" {
			continue
		}
		n.add(plainName{key.Space, l.App, key.Name}, key.Name)
		if l.Service == nil {
			continue
		}
		for _, alias := range l.Service.Aliases {
			n.add(plainName{key.Space, l.App, strings.ToLower(alias)}, key.Name)
		}
	}
	return n
}

func (n *names) add(name plainName, service string) {
	if list := n.plain[name]; !slices.Contains(list, service) {
		list = append(list, service)
		slices.Sort(list)
		n.plain[name] = list
	}
}

// of lists the services that a name of its own app leads a consumer to. known is
// that the app has the name, whoever may know it.
func (n *names) of(c *Consumer, name string) (services []string, known bool) {
	all := n.plain[plainName{c.Space, c.App, name}]
	hidden := func(service string) bool { return !n.meet(c, service) }
	if slices.ContainsFunc(all, hidden) {
		return slices.DeleteFunc(slices.Clone(all), hidden), true
	}
	return all, len(all) > 0
}

// meet reports whether a consumer shares a network with a service of its space.
// Those of different apps, and those that name no network, are not kept apart.
func (n *names) meet(c *Consumer, service string) bool {
	a, b := n.services[store.Key{Space: c.Space, Name: c.Workload}], n.services[store.Key{Space: c.Space, Name: service}]
	if a.app != b.app || len(a.networks) == 0 || len(b.networks) == 0 {
		return true
	}
	return slices.ContainsFunc(a.networks, func(network string) bool { return slices.Contains(b.networks, network) })
}

// followNames keeps the names current.
func (s *DNS) followNames(ctx context.Context) error {
	var seen uint64
	for snap := s.d.store.Snapshot(); ; snap = s.d.store.Snapshot() {
		if snap.Deployed != seen {
			seen = snap.Deployed
			s.names.Store(newNames(snap))
		}
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// meaning is what a name stands for, to who asks.
type meaning struct {
	foreign  bool // not ours: others are to be asked
	unknown  bool // ours, and there is no such thing
	space    string
	services []string   // none: there is the name, and nothing has it
	one      netip.Addr // only the endpoint of this address
	port     string     // only endpoints of this name or protocol, for SRV
	udp      bool       // which of the two, where port is set
	ports    bool       // only endpoints that have a port
}

// understand says what a name means to a consumer. name is in lower case and has
// no dot at its end.
func (s *DNS) understand(name string, c *Consumer) meaning {
	var m meaning
	rest := name
	if strings.HasPrefix(name, "_") {
		port, proto, _ := strings.Cut(name[1:], ".")
		proto, after, _ := strings.Cut(proto, ".")
		if proto == "_tcp" || proto == "_udp" {
			m.port, m.udp, rest = port, proto == "_udp", after
		}
	}
	known := s.names.Load()
	m.space = c.Space
	var ofApp bool
	if m.services, ofApp = known.of(c, rest); ofApp {
		m.unknown = len(m.services) == 0
		return m
	}
	inner, ours := strings.CutSuffix(rest, "."+domain)
	if !ours && rest != domain {
		return meaning{foreign: true}
	}
	if rest == domain || inner == c.Space { // names above others
		m.unknown = m.port != ""
		return m
	}
	host, space := cutLast(inner)
	if space != c.Space {
		return meaning{unknown: true}
	}
	if m.services, ofApp = known.of(c, host); ofApp {
		m.unknown = len(m.services) == 0
		return m
	}
	if label, service, more := strings.Cut(host, "."); more {
		var ok bool
		if m.one, ok = parseHost(label); !ok {
			return meaning{unknown: true}
		}
		host = service
	}
	if !s.exists(known, space, host) || !known.meet(c, host) {
		return meaning{unknown: true}
	}
	m.services = []string{host}
	return m
}

// exists reports whether there is a service, or something outside, of a name.
func (s *DNS) exists(known *names, space, name string) bool {
	if _, ok := known.services[store.Key{Space: space, Name: name}]; ok {
		return true
	}
	if _, ok := s.d.store.Outside.Find(space, name); ok {
		return true
	}
	s.d.nodes.mu.Lock()
	defer s.d.nodes.mu.Unlock()
	b := s.d.nodes.buckets[bucketKey{space, false, name}]
	return b != nil && len(b.entries) > 0
}

// cutLast cuts around the last dot.
func cutLast(name string) (before, after string) {
	i := strings.LastIndexByte(name, '.')
	return name[:max(i, 0)], name[i+1:]
}

// hostOf is the label by which one address of a service is known, such as
// 10-88-0-5; it is what SRV records point to.
func hostOf(addr netip.Addr) string {
	if addr.Is4() {
		return strings.ReplaceAll(addr.String(), ".", "-")
	}
	return "x" + strings.ReplaceAll(addr.StringExpanded(), ":", "-")
}

// parseHost is the reverse of hostOf.
func parseHost(label string) (netip.Addr, bool) {
	text, six := strings.CutPrefix(label, "x")
	sep := "."
	if six {
		sep = ":"
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(text, "-", sep))
	return addr, err == nil && hostOf(addr) == label
}

// parseReverse returns the address that a name such as 5.0.88.10.in-addr.arpa
// is of.
func parseReverse(name string) (netip.Addr, bool) {
	text, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(text, ".")
	slices.Reverse(parts)
	addr, err := netip.ParseAddr(strings.Join(parts, "."))
	return addr, err == nil && addr.Is4()
}

// place is an endpoint as DNS sees it.
type place struct {
	service string
	addr    netip.Addr // invalid where it is known by a host name
	host    string     // of something outside
	port    uint16
}

// places lists the endpoints that a meaning is of.
func (s *DNS) places(m *meaning, list []place) []place {
	s.d.nodes.mu.Lock()
	for _, service := range m.services {
		b := s.d.nodes.buckets[bucketKey{m.space, false, service}]
		if b == nil {
			continue
		}
		for _, e := range b.entries {
			if m.port != "" && !m.asks(&e.Endpoint) || m.ports && e.Port == 0 {
				continue
			}
			p := place{service: service, port: e.Port}
			var err error
			if p.addr, err = netip.ParseAddr(e.Address); err != nil {
				p.host = e.Address
			}
			p.addr = p.addr.Unmap()
			if m.one.IsValid() && p.addr != m.one || len(list) == maxPlaces {
				continue
			}
			list = append(list, p)
		}
	}
	s.d.nodes.mu.Unlock()
	return list
}

// asks reports whether an endpoint is one of the port that was asked for.
func (m *meaning) asks(e *mayfly.Endpoint) bool {
	return (e.Name == m.port || e.Protocol == m.port) && (e.Protocol == "udp") == m.udp
}
