package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// candidates are the subnets tried for a new bridge, in this order. They stay
// clear of the defaults of Docker (172.17 to 172.31, 192.168), Podman (10.88),
// Kubernetes (10.96, 10.244, 10.42) and libvirt (192.168.122) until only those
// ranges are left.
func candidates() []netip.Prefix {
	var list []netip.Prefix
	add := func(bits int, a, b, c byte) {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, 0}), bits))
	}
	for b := byte(200); b < 220; b++ {
		add(16, 10, b, 0)
	}
	for b := byte(16); b < 32; b++ {
		add(16, 172, 47-b, 0)
	}
	for c := 240; c >= 128; c -= 16 {
		add(20, 192, 168, byte(c))
	}
	return list
}

// freeSubnet returns the first candidate that no address or route of the machine
// overlaps and that none of its name servers is in.
func freeSubnet() (netip.Prefix, error) {
	taken, err := takenPrefixes(0)
	if err != nil {
		return netip.Prefix{}, err
	}
	return firstFree(candidates(), taken)
}

// choosingWait is how long Open waits for others of the machine that choose.
const choosingWait = 30 * time.Second

// choosing waits until nobody else of this network namespace chooses a subnet,
// and keeps others from it until done is called: what one has chosen is seen by
// others only when its bridge has it. The lock is on the namespace itself, and
// the kernel drops it with the process.
func (n *Network) choosing(ctx context.Context) (done func(), err error) {
	bounded, cancel := context.WithTimeout(ctx, choosingWait)
	defer cancel()
	for {
		switch err := unix.Flock(n.home, unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() { unix.Flock(n.home, unix.LOCK_UN) }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, fmt.Errorf("lock the choice of a subnet: %w", err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-bounded.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, mayfly.Errorf(mayfly.Busy, "another daemon on this machine has been choosing a subnet for %s", choosingWait).
				WithHint("look whether one hangs as it starts: ps -C mayfly")
		}
	}
}

// warnOfOverlap tells of what came to the machine after the bridge did and leads
// the containers' addresses elsewhere, such as a VPN's route.
func (n *Network) warnOfOverlap() error {
	taken, err := takenPrefixes(int(n.index))
	if err != nil {
		return err
	}
	taken = slices.DeleteFunc(taken, func(p netip.Prefix) bool { return p.Addr() == n.gateway }) // it may be the machine's name server
	if other, ok := overlapping(taken, n.subnet); ok {
		n.log.Warn("containers may not be reached: what their addresses are in, the machine has for something else too; "+
			"take that away, or stop all containers and remove the bridge with: mayfly down",
			"bridge", n.bridge, "subnet", n.subnet, "other", other)
	}
	return nil
}

// takenPrefixes is where the machine has addresses and routes, but for those of
// the link own, and name servers. A bridge that is not up yet has an address and
// no route.
func takenPrefixes(own int) ([]netip.Prefix, error) {
	addrs, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	routes, err := complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var taken []netip.Prefix
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && a.LinkIndex != own {
			taken = append(taken, p.Masked())
		}
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && r.LinkIndex != own {
			taken = append(taken, p.Masked())
		}
	}
	for _, path := range []string{"/etc/resolv.conf", UpstreamResolv} {
		text, _ := os.ReadFile(path)
		for _, server := range nameServers(Resolv(text)) {
			taken = append(taken, netip.PrefixFrom(server, server.BitLen()))
		}
	}
	return taken, nil
}

// overlapping returns one of taken that overlaps p. It passes over routes wider
// than /8: those are a default route in two halves, as VPNs set them, and say
// nothing about who uses an address.
func overlapping(taken []netip.Prefix, p netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if t.Bits() >= 8 && t.Overlaps(p) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}

func firstFree(candidates, taken []netip.Prefix) (netip.Prefix, error) {
	for _, c := range candidates {
		if _, overlaps := overlapping(taken, c); !overlaps {
			return c, nil
		}
	}
	return netip.Prefix{}, mayfly.Errorf(mayfly.Conflict, "every private subnet overlaps a route of this machine").
		WithHint("name one to use for containers: mayfly up --subnet 10.77.0.0/16")
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}

func checkSubnet(p netip.Prefix) error {
	if p == (netip.Prefix{}) || p.IsValid() && p.Addr().Is4() && p.Bits() >= 8 && p.Bits() <= 28 {
		return nil
	}
	return mayfly.Errorf(mayfly.Invalid, "subnet %s is not an IPv4 prefix of /8 to /28", p)
}

// lastOf returns the broadcast address of p.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(b)
}

// takeAddress reserves a free address. It goes round the whole subnet before
// it gives the same one out again, so that nobody who remembers an old owner
// (a connection, the kernel taking a cable down) meets the new one.
func (n *Network) takeAddress() (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := lastOf(n.subnet)
	for range 1 << (32 - n.subnet.Bits()) {
		if n.next = n.next.Next(); n.next == last {
			n.next = n.gateway
			continue
		}
		if _, taken := n.used[n.next]; !taken && n.next != n.gateway {
			n.used[n.next] = struct{}{}
			return n.next, nil
		}
	}
	return netip.Addr{}, noAddress(n.subnet)
}

func noAddress(subnet netip.Prefix) error {
	return mayfly.Errorf(mayfly.Busy, "no address is free in %s", subnet).WithHint("stop some containers")
}

// freeAddress forgets where addr is and lets it be given out again.
func (n *Network) freeAddress(addr netip.Addr) error {
	err := errors.Join(n.rtnl.run(dropNeighbour(n.index, addr)), n.groups.clear(addr))
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.used, addr)
	return err
}

// fullBridge says that the kernel's limit of ports on a bridge is reached.
func fullBridge(name string) error {
	return mayfly.Errorf(mayfly.Busy, "bridge %s has 1023 containers, as many as a bridge can have", name).
		WithHint("stop some containers")
}
