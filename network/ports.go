package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// publication is one published port: an element of a port map, and a socket
// that is bound but never listens. The socket makes the kernel find conflicts
// with other programs and keeps the port from them; a packet reaches it only
// when the map does not, and is then refused.
type publication struct {
	proto uint8      // unix.IPPROTO_TCP or UDP
	on    netip.Addr // invalid: every address
	host  uint16
	to    uint16 // the container's
	addr  netip.Addr
	fd    int // -1: not held
}

// claim says who has a host port.
type claim struct {
	id    string
	proto uint8
	on    netip.Addr
}

func (p *publication) close() {
	if p.fd >= 0 {
		unix.Close(p.fd)
		p.fd = -1
	}
}

// String is the port as a person writes it.
func (p *publication) String() string {
	return hostPort(p.on, p.host, p.proto)
}

func hostPort(on netip.Addr, port uint16, proto uint8) string {
	name := "tcp"
	if proto == unix.IPPROTO_UDP {
		name = "udp"
	}
	if on.IsValid() {
		return fmt.Sprintf("%s:%d/%s", on, port, name)
	}
	return fmt.Sprintf("%d/%s", port, name)
}

// parsePort checks a port as the caller wants it.
func parsePort(p mayfly.Port) (*publication, error) {
	pub := &publication{proto: unix.IPPROTO_TCP, host: p.Host, to: p.Container, fd: -1}
	switch p.Protocol {
	case "", "tcp":
	case "udp":
		pub.proto = unix.IPPROTO_UDP
	default:
		return nil, mayfly.Errorf(mayfly.Invalid, "protocol %q of port %d is not tcp or udp", p.Protocol, p.Container)
	}
	if p.Container == 0 {
		return nil, mayfly.Errorf(mayfly.Invalid, "a published port names no port of the container")
	}
	if p.HostIP == "" {
		return pub, nil
	}
	ip, err := netip.ParseAddr(p.HostIP)
	if err != nil || !ip.Unmap().Is4() {
		return nil, mayfly.Errorf(mayfly.Invalid, "host address %q of port %d is not an IPv4 address", p.HostIP, p.Container)
	}
	if !ip.IsUnspecified() {
		pub.on = ip.Unmap()
	}
	return pub, nil
}

// claimPorts reserves ports for id, all or none.
func (n *Network) claimPorts(id string, ports []mayfly.Port) (pubs []*publication, err error) {
	defer func() {
		if err != nil {
			n.mu.Lock()
			n.dropClaims(id, pubs)
			n.mu.Unlock()
			pubs = nil
		}
	}()
	for _, port := range ports {
		p, err := parsePort(port)
		if err != nil {
			return pubs, err
		}
		if err := n.claimPort(id, p); err != nil {
			return pubs, err
		}
		pubs = append(pubs, p)
	}
	return pubs, nil
}

func (n *Network) claimPort(id string, p *publication) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if other := n.claimed(p); other != "" {
		return mayfly.Errorf(mayfly.Conflict, "port %s for %s is already published by %s", p, id, other).
			WithHint("choose another host port, or none to have one picked")
	}
	err := p.bind()
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return mayfly.Errorf(mayfly.Conflict, "port %s is in use by %s", p, portOwner(p.proto, p.host)).
			WithHint("choose another host port, or none to have one picked")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return mayfly.Errorf(mayfly.Invalid, "%s is not an address of this machine", p.on)
	case err != nil:
		return fmt.Errorf("reserve port %s: %w", p, err)
	}
	n.ports[p.host] = append(n.ports[p.host], claim{id, p.proto, p.on})
	return nil
}

// claimed returns who has the port that p wants, if one is fixed.
func (n *Network) claimed(p *publication) string {
	for _, c := range n.ports[p.host] {
		if c.proto == p.proto && (c.on == p.on || !c.on.IsValid() || !p.on.IsValid()) {
			return c.id
		}
	}
	return ""
}

// dropClaims gives the ports of id back. The caller holds n.mu.
func (n *Network) dropClaims(id string, pubs []*publication) {
	for _, p := range pubs {
		p.close()
		left := slices.DeleteFunc(n.ports[p.host], func(c claim) bool {
			return c == claim{id, p.proto, p.on}
		})
		if n.ports[p.host] = left; len(left) == 0 {
			delete(n.ports, p.host)
		}
	}
}

// bind reserves the host port, and picks one if none is fixed.
func (p *publication) bind() error {
	kind := unix.SOCK_STREAM
	if p.proto == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := p.bindTo(fd); err != nil {
		unix.Close(fd)
		return err
	}
	p.fd = fd
	return nil
}

func (p *publication) bindTo(fd int) error {
	at := &unix.SockaddrInet4{Port: int(p.host)}
	if p.on.IsValid() {
		at.Addr = p.on.As4()
	}
	err := unix.Bind(fd, at)
	if errors.Is(err, unix.EADDRINUSE) && p.proto == unix.IPPROTO_TCP && p.host != 0 {
		err = bindPastClosed(fd, at)
	}
	if err != nil {
		return err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	p.host = uint16(bound.(*unix.SockaddrInet4).Port)
	return nil
}

// bindPastClosed binds although closed connections of a program that had the
// port before are still remembered. The option that allows this would also let
// others share the port, so it does not stay on, and it is not tried first:
// older kernels (6.1) remember it with the port.
func bindPastClosed(fd int, at unix.Sockaddr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, at); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
}

// element is the publication as the port map has it.
func (p *publication) element() nftables.SetElement {
	var key []byte
	if p.on.IsValid() {
		key = p.on.AsSlice()
	}
	key = append(key, p.proto, 0, 0, 0, byte(p.host>>8), byte(p.host), 0, 0)
	return nftables.SetElement{Key: key, Val: append(p.addr.AsSlice(), byte(p.to>>8), byte(p.to), 0, 0)}
}

// change publishes some ports and withdraws others, all at once.
func (t *nat) change(add, drop []nftables.SetElement) error {
	if len(add)+len(drop) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range []*nftables.Set{t.ports, t.portsOn} {
		if err := eachChunk(m, drop, t.conn.SetDeleteElements); err != nil {
			return fmt.Errorf("withdraw ports: %w", err)
		}
		if err := eachChunk(m, add, t.conn.SetAddElements); err != nil {
			return fmt.Errorf("publish ports: %w", err)
		}
	}
	if err := t.flush(); err != nil {
		return fmt.Errorf("change published ports: %w", err)
	}
	return nil
}

// drop withdraws ports. Should someone else have withdrawn one, the kernel
// refuses the whole transaction, and the rest goes one by one.
func (t *nat) drop(ports []nftables.SetElement) error {
	err := t.change(nil, ports)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	err = nil
	for _, p := range ports {
		if e := t.change(nil, []nftables.SetElement{p}); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// eachChunk calls change with those of all that belong to m, some at a time:
// too many do not fit one message, and one message each is answered with more
// than a socket's buffer takes.
func eachChunk(m *nftables.Set, all []nftables.SetElement, change func(*nftables.Set, []nftables.SetElement) error) error {
	const most = 256
	var mine []nftables.SetElement
	for _, e := range all {
		if len(e.Key) == int(m.KeyType.Bytes) {
			mine = append(mine, e)
		}
	}
	for chunk := range slices.Chunk(mine, most) {
		if err := change(m, chunk); err != nil {
			return err
		}
	}
	return nil
}

// published lists what both maps hold.
func (t *nat) published() ([]nftables.SetElement, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []nftables.SetElement
	for _, m := range []*nftables.Set{t.ports, t.portsOn} {
		elements, err := t.conn.GetSetElements(m)
		if err != nil {
			return nil, fmt.Errorf("list published ports: %w", err)
		}
		all = append(all, elements...)
	}
	return all, nil
}
