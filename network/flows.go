package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// staleFlows matches what the kernel remembers of UDP exchanges with this
// machine on some ports. Unlike a TCP connection such an exchange has no end:
// as long as the other side keeps sending, the kernel would go on leading its
// packets to where they went before the port was published or withdrawn.
// Forgetting one that is still right does no harm; the next packet makes it anew.
type staleFlows struct {
	ports map[uint16]struct{}
	local map[netip.Addr]struct{}
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s *staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	if _, ok := s.ports[flow.Forward.DstPort]; !ok {
		return false
	}
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	_, ours := s.local[to.Unmap()]
	return ours || to.Unmap().IsLoopback()
}

// forgetFlows makes the kernel decide anew where packets to the UDP ports among
// pubs go.
func forgetFlows(pubs ...*publication) error {
	stale := &staleFlows{ports: make(map[uint16]struct{}), local: make(map[netip.Addr]struct{})}
	for _, p := range pubs {
		if p.proto == unix.IPPROTO_UDP {
			stale.ports[p.host] = struct{}{}
		}
	}
	if len(stale.ports) == 0 {
		return nil
	}
	addrs, err := complete(func() ([]netlink.Addr, error) {
		return netlink.AddrList(nil, netlink.FAMILY_V4)
	})
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			stale.local[p.Addr()] = struct{}{}
		}
	}
	_, err = complete(func() ([]struct{}, error) {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, stale)
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("forget flows of published ports: %w", err)
	}
	return nil
}
