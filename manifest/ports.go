package manifest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/mayfly-run/mayfly"
)

const (
	maxPorts = 1000 // of one service
	portHint = `write ports: ["8080:80"], or "80" for a host port that is picked`
)

// published is a port of a service on the node, and where that stands.
type published struct {
	mayfly.Port
	name     string // as the long syntax has it
	protocol string // of the application, likewise
	at       place
}

// ports reads what is published on the node, in Compose's syntaxes.
func (d *decoder) ports(m map[string]any) (all []published) {
	if m["ports"] == nil {
		return nil
	}
	list, ok := m["ports"].([]any)
	if !ok {
		d.fail("ports", portHint, "ports must be a list")
		return nil
	}
	for i, item := range list {
		sub := d.item("ports", i)
		some := sub.port(item)
		d.done(sub)
		if all = append(all, some...); len(all) > maxPorts {
			d.fail("ports", "", "more than %d ports", maxPorts)
		}
		if d.err != nil {
			return nil
		}
	}
	return all
}

// port reads one entry, which may be a range.
func (d *decoder) port(item any) (all []published) {
	long, ok := item.(map[string]any)
	if ok {
		return d.longPort(long)
	}
	text, ok := scalarText(item)
	if !ok || text == "" || len(text) > 200 {
		d.fail("", portHint, "a port must be a text or a mapping")
		return nil
	}
	if strings.Contains(text, "-") && !d.portRange(text) {
		return nil
	}
	configs, err := types.ParsePortConfig(text)
	if err != nil {
		d.fail("", portHint, "%q is not a port", text)
		return nil
	}
	for _, c := range configs {
		all = append(all, d.publish(c))
	}
	return all
}

// portRange refuses ranges that are too long to look at, and those that let
// one port be any of several.
func (d *decoder) portRange(text string) bool {
	text, _, _ = strings.Cut(text, "/")
	if i := strings.LastIndexByte(text, ']'); i >= 0 {
		text = text[i+1:]
	}
	parts := strings.Split(text, ":")
	var lengths []int
	for _, part := range parts {
		from, to, is := strings.Cut(part, "-")
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if is && (errA != nil || errB != nil || b < a || b-a >= maxPorts) {
			d.fail("", "", "%q is not a range of at most %d ports", part, maxPorts)
			return false
		}
		if is {
			lengths = append(lengths, b-a)
		} else {
			lengths = append(lengths, 0)
		}
	}
	if n := len(lengths); n > 1 && lengths[n-2] != lengths[n-1] {
		d.fail("", "name one host port, or none for one that is picked", "%q lets the host port be any of several", text)
		return false
	}
	return true
}

func (d *decoder) longPort(m map[string]any) []published {
	known := []string{"target", "published", "host_ip", "protocol", "mode", "name", "app_protocol"}
	if d.err = d.keys(m, known, nil); d.err != nil {
		return nil
	}
	c := types.ServicePortConfig{
		Target: uint32(d.integer(m, "target", 1, 65535)), Published: d.text(m, "published"), HostIP: d.text(m, "host_ip"),
		Protocol: d.oneOf(m, "protocol", "tcp", "udp"), Name: d.text(m, "name"), AppProtocol: d.protocolName(m, "app_protocol"),
	}
	d.oneOf(m, "mode", "host", "ingress")
	if m["target"] == nil {
		d.fail("", "add target: 80", "nothing says which port of the container")
	}
	if strings.Contains(c.Published, "-") {
		d.fail("published", "name one host port, or none for one that is picked", "published %q lets the host port be any of several", c.Published)
	}
	if c.Name != "" && !connectionPattern.MatchString(c.Name) {
		d.fail("name", "use a-z, 0-9, '-' and '_', starting with a letter", "%q is not a name for a port", c.Name)
	}
	return []published{d.publish(c)}
}

func (d *decoder) publish(c types.ServicePortConfig) published {
	p := published{Port: mayfly.Port{Container: uint16(c.Target), HostIP: c.HostIP}, name: c.Name, protocol: c.AppProtocol, at: d.at}
	switch c.Protocol {
	case "", "tcp":
	case "udp":
		p.Protocol = "udp"
	default:
		d.fail("", "use tcp or udp", "protocol %q is not supported", c.Protocol)
	}
	if c.Published != "" {
		n, err := strconv.ParseUint(c.Published, 10, 16)
		if err != nil {
			d.fail("", portHint, "%q is not a port", c.Published)
		}
		p.Host = uint16(n)
	}
	if c.HostIP != "" {
		ip, err := netip.ParseAddr(c.HostIP)
		if err != nil {
			d.fail("", "", "%q is not an IP address", c.HostIP)
		}
		p.HostIP = ip.String()
		if ip.IsUnspecified() {
			p.HostIP = ""
		}
	}
	if p.Container == 0 {
		d.fail("", portHint, "the port of the container is 0")
	}
	return p
}

// expose reads ports that others in the manifest may use.
func (d *decoder) expose(m map[string]any) (all []mayfly.Port) {
	for i, item := range d.list(m, "expose", maxPorts, `write expose: ["80"]`) {
		text, ok := scalarText(item)
		number, protocol, _ := strings.Cut(text, "/")
		first, last, isRange := strings.Cut(number, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if !ok || errA != nil || errB != nil || a == 0 || b < a || b-a >= maxPorts || protocol != "" && protocol != "tcp" && protocol != "udp" {
			sub := d.item("expose", i)
			sub.fail("", `write it like "80" or "53/udp"`, "%q is not a port", text)
			d.done(sub)
			return nil
		}
		for port := a; port <= b && len(all) < maxPorts; port++ {
			p := mayfly.Port{Container: uint16(port)}
			if protocol == "udp" {
				p.Protocol = protocol
			}
			all = append(all, p)
		}
	}
	return all
}

// hostPortText names a port of the node for a person.
func hostPortText(p mayfly.Port) string {
	text := fmt.Sprint(p.Host)
	if p.HostIP != "" {
		text = netip.AddrPortFrom(netip.MustParseAddr(p.HostIP), p.Host).String()
	}
	if p.Protocol == "udp" {
		text += "/udp"
	}
	return text
}
