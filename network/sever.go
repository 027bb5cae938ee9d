package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel goes on leading packets of a connection to where its first one
// went, whatever becomes of the redirect. So when a target goes, its connections
// are taken from the kernel's memory. What a client sends next then belongs to
// no connection, and is answered with a reset (chain refuse). But one that waits
// for an answer sends nothing. It is sent a packet that no live connection can
// use, a second SYN; its system answers with what it expects next (RFC 5961, a
// challenge ACK), and so gets a reset with the right number.

// cut says which connections end: those through at to one of from.
type cut struct {
	at   netip.AddrPort
	from []netip.AddrPort
}

// cutsBetween returns what a change ends.
func cutsBetween(old, now *redirect) []cut {
	if old == nil {
		return nil
	}
	from := slices.Concat(old.to, old.leaving)
	if now != nil && now.at == old.at {
		stay := slices.Concat(now.to, now.leaving)
		from = slices.DeleteFunc(from, func(t netip.AddrPort) bool { return slices.Contains(stay, t) })
	}
	if len(from) == 0 {
		return nil
	}
	return []cut{{old.at, from}}
}

// severer ends connections. To find them takes a walk through all that the
// kernel remembers, so those who come during one share the next.
type severer struct {
	walking sync.Mutex

	mu   sync.Mutex
	next *severing
}

// severing is what one walk looks for.
type severing struct {
	cuts []cut
	done chan struct{}
	err  error
}

// sever ends connections, and does without where the kernel cannot: clients
// then see by their own means that nobody answers.
func (n *Network) sever(cuts []cut) {
	if len(cuts) == 0 {
		return
	}
	if err := n.severer.join(cuts, n.endFlows); err != nil {
		n.log.Warn("connections to targets of redirects that are gone may hang", "err", err)
	}
}

func (s *severer) join(cuts []cut, end func([]cut) error) error {
	s.mu.Lock()
	batch, first := s.next, s.next == nil
	if first {
		batch = &severing{done: make(chan struct{})}
		s.next = batch
	}
	batch.cuts = append(batch.cuts, cuts...)
	s.mu.Unlock()
	if !first {
		<-batch.done
		return batch.err
	}
	s.walking.Lock()
	defer s.walking.Unlock()
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	batch.err = end(batch.cuts)
	close(batch.done)
	return batch.err
}

// through matches flows by what they went through and where to, and keeps the
// ends that must be told.
type through struct {
	cuts map[netip.AddrPort][]netip.AddrPort
	tell []segment
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *through) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	from, ok := f.cuts[addrPortOf(flow.Forward.DstIP, flow.Forward.DstPort)]
	if !ok || !slices.Contains(from, addrPortOf(flow.Reverse.SrcIP, flow.Reverse.SrcPort)) {
		return false
	}
	const established, lastAck = 3, 6 // TCP_CONNTRACK_...
	if info, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP); ok && info.State >= established && info.State <= lastAck {
		f.tell = append(f.tell, segment{
			from: addrPortOf(flow.Forward.DstIP, flow.Forward.DstPort),
			to:   addrPortOf(flow.Forward.SrcIP, flow.Forward.SrcPort),
		}, segment{
			from: addrPortOf(flow.Reverse.DstIP, flow.Reverse.DstPort),
			to:   addrPortOf(flow.Reverse.SrcIP, flow.Reverse.SrcPort),
		})
	}
	return true
}

func addrPortOf(ip []byte, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// endFlows makes the kernel forget connections and tells both ends of each, as
// far as they are on the bridge.
func (n *Network) endFlows(cuts []cut) error {
	filter := &through{cuts: make(map[netip.AddrPort][]netip.AddrPort)}
	for _, c := range cuts {
		filter.cuts[c.at] = append(filter.cuts[c.at], c.from...)
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		err = fmt.Errorf("forget connections: %w", err)
	} else {
		err = nil
	}
	return errors.Join(err, n.challenge(filter.tell))
}

// challenge sends segments to containers, by way of the bridge alone: no rule
// and no memory of connections sees them.
func (n *Network) challenge(segments []segment) error {
	segments = slices.DeleteFunc(segments, func(s segment) bool {
		return !n.subnet.Contains(s.to.Addr()) || s.to.Addr() == n.gateway
	})
	if len(segments) == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	defer unix.Close(fd)
	for _, s := range segments {
		to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: int(n.index), Halen: 6}
		copy(to.Addr[:], macOf(s.to.Addr()))
		if e := unix.Sendto(fd, s.syn(), 0, to); e != nil {
			err = errors.Join(err, fmt.Errorf("tell %s: %w", s.to, e))
		}
	}
	return err
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)})
}

// segment is a TCP segment from one end of a connection to the other.
type segment struct{ from, to netip.AddrPort }

// syn is an IPv4 packet (RFC 791) with a TCP segment (RFC 9293) in which only
// SYN is set.
func (s segment) syn() []byte {
	const ipLen, tcpLen = 20, 20
	b := make([]byte, ipLen+tcpLen)
	b[0] = 4<<4 | ipLen/4
	binary.BigEndian.PutUint16(b[2:], ipLen+tcpLen)
	b[8], b[9] = 64, unix.IPPROTO_TCP // hops
	copy(b[12:], s.from.Addr().AsSlice())
	copy(b[16:], s.to.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(0, b[:ipLen]))
	tcp := b[ipLen:]
	binary.BigEndian.PutUint16(tcp, s.from.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.to.Port())
	tcp[12], tcp[13] = tcpLen/4<<4, 1<<1
	binary.BigEndian.PutUint16(tcp[16:], checksum(unix.IPPROTO_TCP+tcpLen, b[12:])) // addresses included
	return b
}

// checksum is that of the Internet (RFC 1071), of an even number of bytes.
func checksum(sum uint32, b []byte) uint16 {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
