package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// inside is the name of a container's own interface.
const inside = "eth0"

// namespace is a network namespace that nothing but its open files hold. They
// are bare descriptors, because nothing waits for them.
type namespace struct {
	fd     int
	addr   netip.Addr // invalid when there is only the loopback
	trace  *trace     // nil: no container has had it that is sealed
	member string     // key of the groups that it is in
}

func (ns *namespace) close() {
	if ns.fd >= 0 {
		unix.Close(ns.fd)
	}
	ns.trace.close()
}

// file is the namespace for its container. When no other container gets it
// afterwards, nothing but the file holds it from then on.
func (ns *namespace) file() (*os.File, error) {
	fd := ns.fd
	if ns.trace == nil {
		ns.fd = -1
		return namespaceFile(fd), nil
	}
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace again: %w", err)
	}
	return namespaceFile(fd), nil
}

// macOf returns the hardware address that belongs to addr. It is the same each
// time, so an entry about an address stays true when the address is given to
// another container.
func macOf(addr netip.Addr) net.HardwareAddr {
	b := addr.As4()
	return net.HardwareAddr{0x02, 0x6d, b[0], b[1], b[2], b[3]}
}

// portMAC is for the host's end of addr's cable. It is never seen in a packet;
// it is set because udev would set one otherwise.
func portMAC(addr netip.Addr) net.HardwareAddr {
	mac := macOf(addr)
	mac[0] |= 0xfc
	return mac
}

// vethOf returns the name of the host's end of addr's cable.
func vethOf(addr netip.Addr) string {
	b := addr.As4()
	return fmt.Sprintf("mf%02x%02x%02x%02x", b[0], b[1], b[2], b[3])
}

// away calls fn, which goes into another network namespace, on a thread that
// comes back afterwards.
func (n *Network) away(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := fn()
		if back := unix.Setns(n.home, unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		done <- err
	}()
	return <-done
}

// inNew calls fn in a new network namespace, with that namespace's descriptor,
// which is closed when fn fails.
func (n *Network) inNew(fn func(ns int) error) (ns int, err error) {
	err = n.away(func() (err error) {
		ns, err = newNamespace(fn)
		return err
	})
	return ns, err
}

func newNamespace(fn func(ns int) error) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("make network namespace: %w", err)
	}
	ns, err := openNamespace()
	if err != nil {
		return -1, err
	}
	if err := fn(ns); err != nil {
		unix.Close(ns)
		return -1, err
	}
	return ns, nil
}

// openNamespace opens the network namespace of the calling thread.
func openNamespace() (int, error) { return openRead("/proc/thread-self/ns/net") }

// openRead opens a file of the kernel's as a bare descriptor.
func openRead(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// namespaceFile is for those who want a namespace as a file. It owns fd.
func namespaceFile(fd int) *os.File { return os.NewFile(uintptr(fd), "net namespace") }

// loopbackOnly makes a namespace for a container without a network.
func (n *Network) loopbackOnly() (*namespace, error) {
	ns, err := n.inNew(func(int) error {
		in, err := dialRtnl()
		if err != nil {
			return err
		}
		defer in.close()
		return errors.Join(containerSysctls(), in.run(loopbackUp()))
	})
	if err != nil {
		return nil, err
	}
	return &namespace{fd: ns}, nil
}

// wired makes a namespace with eth0 on the bridge. An address whose old
// cable the kernel has not taken down yet is passed over.
func (n *Network) wired() (*namespace, error) {
	const tries = 256
	for range tries {
		addr, err := n.takeAddress()
		if err != nil {
			return nil, err
		}
		if err := n.groups.admit(addr, n.usedBlock); err != nil {
			return nil, errors.Join(err, n.freeAddress(addr))
		}
		ns, err := n.inNew(func(ns int) error { return n.wire(ns, addr) })
		if err == nil {
			return &namespace{fd: ns, addr: addr}, nil
		}
		err = errors.Join(err, n.freeAddress(addr))
		if errors.Is(err, unix.EXFULL) {
			return nil, fullBridge(n.bridge)
		}
		if !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("wire network namespace: %w", err)
		}
	}
	return nil, noAddress(n.subnet)
}

// wire runs on a thread inside ns.
func (n *Network) wire(ns int, addr netip.Addr) error {
	in, err := dialRtnl()
	if err != nil {
		return err
	}
	defer in.close()
	if err := containerSysctls(); err != nil {
		return err
	}
	if err := n.rtnl.run(n.newCable(addr, ns)); err != nil {
		return err
	}
	outer, err := n.rtnl.linkIndex(vethOf(addr))
	if err != nil {
		return err
	}
	inner, err := in.linkIndex(inside)
	if err != nil {
		return err
	}
	if err := n.rtnl.run(n.hostSide(outer, addr)...); err != nil {
		return err
	}
	if err := in.run(n.containerSide(inner, addr)...); err != nil {
		return err
	}
	if err := in.settle(inner); err != nil {
		return err
	}
	if err := n.rtnl.settle(outer); err != nil {
		return err
	}
	return n.rtnl.settle(n.index) // which comes up with its first cable
}

// newCable makes both ends of a veth at once: ours on the bridge, the other
// in ns and with its last name, so that nothing has to be moved or renamed.
func (n *Network) newCable(addr netip.Addr, ns int) step {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	peer.AddChild(linkMsg(unix.AF_UNSPEC, 0, false)) // the kernel cannot raise it yet
	peer.AddChild(attrString(unix.IFLA_IFNAME, inside))
	peer.AddRtAttr(unix.IFLA_ADDRESS, macOf(addr))
	peer.AddChild(attrUint32(unix.IFLA_NUM_TX_QUEUES, 1))
	peer.AddChild(attrUint32(unix.IFLA_NUM_RX_QUEUES, 1))
	peer.AddChild(attrUint32(unix.IFLA_NET_NS_FD, uint32(ns)))
	return newStep("make veth "+vethOf(addr), unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		linkMsg(unix.AF_UNSPEC, 0, false),
		attrString(unix.IFLA_IFNAME, vethOf(addr)),
		nl.NewRtAttr(unix.IFLA_ADDRESS, portMAC(addr)),
		attrUint32(unix.IFLA_NUM_TX_QUEUES, 1),
		attrUint32(unix.IFLA_NUM_RX_QUEUES, 1),
		attrUint32(unix.IFLA_MASTER, uint32(n.index)),
		info)
}

// hostSide finishes our end. The bridge and the host are told where the
// address is, so that the first packet waits for no question and is sent to
// no other port.
func (n *Network) hostSide(link int32, addr netip.Addr) []step {
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	// Where br_netfilter is loaded, as Docker does, a container's packet to
	// its own published port goes back by the port that it came from.
	port.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
	port.AddRtAttr(nl.IFLA_BRPORT_LEARNING, []byte{0})
	port.AddRtAttr(nl.IFLA_BRPORT_UNICAST_FLOOD, []byte{0})
	port.AddRtAttr(nl.IFLA_BRPORT_NEIGH_SUPPRESS, []byte{1})
	return append(n.noIPv6(link),
		newStep("set bridge port", unix.RTM_SETLINK, 0, linkMsg(unix.AF_BRIDGE, link, false), port),
		newStep("raise veth", unix.RTM_SETLINK, 0, linkMsg(unix.AF_UNSPEC, link, true)),
		newStep("set bridge address", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
			&neighMsg{family: unix.AF_BRIDGE, index: link, state: unix.NUD_NOARP, flags: unix.NTF_MASTER},
			nl.NewRtAttr(unix.NDA_LLADDR, macOf(addr))),
		setNeighbour(n.index, addr))
}

// containerSide finishes the container's end, from inside.
func (n *Network) containerSide(link int32, addr netip.Addr) []step {
	ip := addr.AsSlice()
	on := nl.NewIfAddrmsg(unix.AF_INET)
	on.Prefixlen, on.Index = uint8(n.subnet.Bits()), uint32(link)
	route := nl.NewRtMsg()
	route.Family = unix.AF_INET
	return append(n.noIPv6(link),
		loopbackUp(),
		newStep("raise "+inside, unix.RTM_SETLINK, 0, linkMsg(unix.AF_UNSPEC, link, true)),
		newStep("set address", unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, on,
			nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip),
			nl.NewRtAttr(unix.IFA_BROADCAST, lastOf(n.subnet).AsSlice())),
		newStep("set default route", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, route,
			nl.NewRtAttr(unix.RTA_GATEWAY, n.gateway.AsSlice()), attrUint32(unix.RTA_OIF, uint32(link))),
		setNeighbour(link, n.gateway))
}

// noIPv6 keeps a link that is not up yet from taking an IPv6 address and from
// asking around for routers.
func (n *Network) noIPv6(link int32) []step {
	const addrGenModeNone = 1
	if !n.ipv6 {
		return nil
	}
	none := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	none.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenModeNone})
	return []step{newStep("keep IPv6 off link", unix.RTM_SETLINK, 0, linkMsg(unix.AF_UNSPEC, link, false), none)}
}

func loopbackUp() step {
	return newStep("raise loopback", unix.RTM_SETLINK, 0, linkMsg(unix.AF_UNSPEC, 1, true))
}

// setNeighbour says once and for all which hardware address addr has.
func setNeighbour(link int32, addr netip.Addr) step {
	return newStep("set neighbour", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		&neighMsg{family: unix.AF_INET, index: link, state: unix.NUD_PERMANENT},
		nl.NewRtAttr(unix.NDA_DST, addr.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, macOf(addr)))
}

func dropNeighbour(link int32, addr netip.Addr) step {
	return newStep("drop neighbour", unix.RTM_DELNEIGH, 0,
		&neighMsg{family: unix.AF_INET, index: link}, nl.NewRtAttr(unix.NDA_DST, addr.AsSlice())).unless(unix.ENOENT)
}

// neighMsg is struct ndmsg, the fixed part of a change to a neighbour.
type neighMsg struct {
	family uint8
	index  int32
	state  uint16
	flags  uint8
}

func (m *neighMsg) Len() int { return unix.SizeofNdMsg }

func (m *neighMsg) Serialize() []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = m.family
	nl.NativeEndian().PutUint32(b[4:], uint32(m.index))
	nl.NativeEndian().PutUint16(b[8:], m.state)
	b[10] = m.flags
	return b
}

// containerSysctls sets what every container finds, on a thread inside: ports
// below 1024 and ping for any user, as docker gives them.
func containerSysctls() error {
	for _, s := range [...][2]string{
		{"ipv4/ip_unprivileged_port_start", "0"},
		{"ipv4/ping_group_range", "0 2147483647"},
	} {
		if err := setSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// setSysctl writes a setting beneath net/ for the namespace of the calling
// thread.
func setSysctl(path, value string) error {
	path = "/proc/sys/net/" + path
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
