package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// attachSealed returns when the kernel has forgotten the routing socket that
// made the namespace, which is after some milliseconds. Containers live longer.
// A namespace that something came to meanwhile, such as a late question for who
// had its address before, is as good as used, so another one is taken.
func attachSealed(t testing.TB, n *Network, id string) *Attachment {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < patience; detach(t, n, id) {
		a, err := n.AttachSealed(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		trace := n.attached[id].ns.trace
		until(t, "untouched, or touched", func() bool { return trace.untouched() || !trace.quiet() })
		if trace.untouched() {
			return a
		}
	}
	t.Fatal("no namespace is left alone")
	return nil
}

// until waits for what is sure to come.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for start := time.Now(); !is(); runtime.Gosched() {
		if time.Since(start) > patience {
			t.Fatalf("never %s", what)
		}
	}
}

func detach(t testing.TB, n *Network, ids ...string) {
	t.Helper()
	if err := n.Detach(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}
}

// socket makes a socket in ns. As when a container has passed it on, it is
// held from outside, until the test ends.
func socket(t *testing.T, ns *os.File, domain, kind, proto int) int {
	t.Helper()
	fd := -1
	var err error
	in(t, ns, func() { fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// The namespace of a sealed container goes to another, when nothing at all
// happened in it and nothing is left in it.
func TestOnlyUntouchedNamespacesAreGivenOutAgain(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	happened := map[string]struct {
		fn    func(t *testing.T, n *Network, a *Attachment)
		again bool
	}{
		"nothing": {func(*testing.T, *Network, *Attachment) {}, true},
		"the container had it alone": {func(t *testing.T, _ *Network, a *Attachment) {
			must(t, a.NetNS.Close())
		}, true},
		"a look around": {func(t *testing.T, _ *Network, a *Attachment) {
			run(t, a.NetNS, "cat", "/proc/net/tcp", "/proc/net/dev", "/proc/net/snmp", "/proc/net/route")
		}, true},
		"a socket that never spoke": {func(t *testing.T, _ *Network, a *Attachment) {
			in(t, a.NetNS, func() {
				p, err := net.ListenPacket("udp4", ":7")
				must(t, err)
				p.Close()
			})
		}, true},
		"a datagram out": {func(t *testing.T, n *Network, a *Attachment) {
			send(t, a.NetNS, at(n.Gateway(), 7), "hello")
		}, false},
		"a datagram to nobody": {func(t *testing.T, n *Network, a *Attachment) {
			send(t, a.NetNS, at(n.Gateway().Next().Next().Next(), 7), "hello")
		}, false},
		"a datagram to itself": {func(t *testing.T, _ *Network, a *Attachment) {
			send(t, a.NetNS, at(a.Address, 7), "hello")
		}, false},
		"a question from the node": {func(t *testing.T, _ *Network, a *Attachment) {
			mustRefuse(t, nil, "tcp", at(a.Address, 1))
		}, false},
		"a connection on the loopback": {func(t *testing.T, _ *Network, a *Attachment) {
			var l net.Listener
			var err error
			in(t, a.NetNS, func() { l, err = net.Listen("tcp4", "127.0.0.1:7") })
			must(t, err)
			in(t, a.NetNS, func() {
				c, err := net.Dial("tcp4", "127.0.0.1:7")
				must(t, err)
				c.Close()
			})
			must(t, l.Close())
		}, false},
		"a bound socket, passed on": {func(t *testing.T, _ *Network, a *Attachment) {
			must(t, unix.Bind(socket(t, a.NetNS, unix.AF_INET, unix.SOCK_DGRAM, 0), &unix.SockaddrInet4{Port: 7}))
		}, false},
		"an unbound socket, passed on": {func(t *testing.T, _ *Network, a *Attachment) {
			socket(t, a.NetNS, unix.AF_INET, unix.SOCK_STREAM, 0)
		}, false},
		"a listening socket, passed on": {func(t *testing.T, _ *Network, a *Attachment) {
			must(t, unix.Listen(socket(t, a.NetNS, unix.AF_INET6, unix.SOCK_STREAM, 0), 1))
		}, false},
		"an abstract name, passed on": {func(t *testing.T, _ *Network, a *Attachment) {
			must(t, unix.Bind(socket(t, a.NetNS, unix.AF_UNIX, unix.SOCK_STREAM, 0), &unix.SockaddrUnix{Name: "@mayfly"}))
		}, false},
		"a socket in a message to nobody": {func(t *testing.T, _ *Network, a *Attachment) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
			in(t, a.NetNS, func() {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
				must(t, err)
				must(t, unix.Sendmsg(pair[0], []byte{1}, unix.UnixRights(fd), nil, 0))
				must(t, unix.Close(fd))
			})
		}, false},
		"a packet socket, passed on": {func(t *testing.T, _ *Network, a *Attachment) {
			socket(t, a.NetNS, unix.AF_PACKET, unix.SOCK_RAW, 0)
		}, false},
		"a raw socket, passed on": {func(t *testing.T, _ *Network, a *Attachment) {
			socket(t, a.NetNS, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
		}, false},
		"a routing socket, passed on": {func(t *testing.T, _ *Network, a *Attachment) {
			socket(t, a.NetNS, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		}, false},
		"multicast that stays inside": {func(t *testing.T, _ *Network, a *Attachment) {
			in(t, a.NetNS, func() {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
				must(t, err)
				must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 0))
				must(t, unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 7, Addr: [4]byte{224, 0, 0, 1}}))
				must(t, unix.Close(fd))
			})
		}, false},
		"a label for IPv6 flows": {func(t *testing.T, _ *Network, a *Attachment) {
			in(t, a.NetNS, func() {
				const manager, create, exclusive, linger = 32, 1, 1, 60
				fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
				must(t, err)
				request := make([]byte, 32) // struct in6_flowlabel_req
				request[15] = 1             // of ::1
				request[21] = exclusive
				binary.NativeEndian.PutUint16(request[22:], create)
				binary.NativeEndian.PutUint16(request[26:], linger)
				must(t, unix.SetsockoptString(fd, unix.IPPROTO_IPV6, manager, string(request)))
				must(t, unix.Close(fd))
			})
		}, false},
	}
	n := open(t, "again", Options{Warm: 1})
	for name, h := range happened {
		t.Run(name, func(t *testing.T) {
			a := attachSealed(t, n, "a")
			first := n.attached["a"].ns // the kernel gives the numbers of those that are gone to others
			h.fn(t, n, a)
			detach(t, n, "a")
			b := attachSealed(t, n, "b")
			if again := n.attached["b"].ns == first; again != h.again {
				t.Errorf("given out again: %v, want %v", again, h.again)
			}
			if (b.Address == a.Address) != h.again {
				t.Errorf("address was %s, is %s", a.Address, b.Address)
			}
			mustRefuse(t, b.NetNS, "tcp", at(n.Gateway(), 1)) // and it works
			detach(t, n, "b")
		})
	}
	linksGone(t, n.bridge)
}

// Whoever is not known to be sealed may have passed a file of its namespace
// on, and ports may be remembered elsewhere.
func TestOnlySealedContainersGiveBack(t *testing.T) {
	n := open(t, "seal", Options{Warm: 2})
	attachSealed(t, n, "first")
	attachSealed(t, n, "second")
	detach(t, n, "first", "second") // so that nothing speaks against giving these back again
	attach(t, n, "plain")
	attach(t, n, "published", mayfly.Port{Container: 7})
	if _, err := n.AttachNone(t.Context(), "none"); err != nil {
		t.Fatal(err)
	}
	detach(t, n, "plain", "published", "none")
	if len(n.warm) != 0 {
		t.Errorf("%d namespaces were given back", len(n.warm))
	}
	attachSealed(t, n, "sealed")
	detach(t, n, "sealed")
	if len(n.warm) != 1 {
		t.Fatal("a sealed container's namespace was not given back")
	}
	a := attach(t, n, "plain", mayfly.Port{Container: 7, Host: 9000}) // which may have another's, nevertheless
	serve(t, a.NetNS, "tcp", ":7")
	mustAsk(t, nil, "tcp", "127.0.0.1:9000", "")
	if len(n.warm) != 0 {
		t.Error("a new namespace was made although one waited")
	}
}

// What comes to a namespace while it waits makes it anything but new.
func TestWaitingNamespacesAreLookedAtAgain(t *testing.T) {
	n := open(t, "look", Options{Warm: 1})
	attachSealed(t, n, "a")
	first := n.attached["a"].ns
	detach(t, n, "a")
	send(t, nil, at(lastOf(n.Subnet()), 7), "hello, everybody")
	until(t, "heard", func() bool { return !n.warm[0].trace.quiet() })
	b := attachSealed(t, n, "b")
	if n.attached["b"].ns == first {
		t.Error("given out again")
	}
	linksGone(t, n.bridge, vethOf(b.Address))
}

// What was given back is bounded, and let go when it is not needed for long.
func TestGivenBackNamespacesAreBounded(t *testing.T) {
	const warm = 2
	n := open(t, "bound", Options{Warm: warm})
	wait := func(want int, when string) {
		t.Helper()
		if len(n.warm) != want || len(n.used) != want {
			t.Errorf("%s: %d wait and %d addresses are used, want %d", when, len(n.warm), len(n.used), want)
		}
	}
	var ids []string
	for i := range warm + mostKept + 3 {
		ids = append(ids, fmt.Sprint(i))
		attachSealed(t, n, ids[i])
	}
	detach(t, n, ids...)
	wait(warm+mostKept, "all given back")
	if err := n.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(warm+mostKept, "Run leaves them")
	settle := func() {
		t.Helper()
		if err := n.settleDown(); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	wait(warm+mostKept, "all were needed a moment ago")
	for _, id := range ids[:5] {
		attachSealed(t, n, id)
	}
	detach(t, n, ids[:5]...)
	settle()
	wait(5, "five were needed")
	settle()
	wait(warm, "none was needed")
	n.SetWarm(-1)
	if err := n.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	attachSealed(t, n, "last")
	detach(t, n, "last")
	wait(0, "none shall wait")
	linksGone(t, n.bridge)
}

func TestCloseLetsGoOfTraces(t *testing.T) {
	needRoot(t)
	before := len(openFiles(t))
	n := open(t, "trace", Options{Warm: 2})
	for _, id := range []string{"stays", "ends", "gives back"} {
		attachSealed(t, n, id)
	}
	attach(t, n, "not sealed")
	detach(t, n, "gives back")
	if own := run(t, nil, "ls", "-l", "/proc/self/fd"); strings.Contains(own, "net") {
		t.Errorf("a child has files of namespaces:\n%s", own)
	}
	n.Close()
	linksGone(t, n.bridge)
	if after := openFiles(t); len(after) != before {
		t.Errorf("%d files were open before, now %v", before, after)
	}
}

func TestNoSockets(t *testing.T) {
	const fresh = "sockets: used 0\n" +
		"TCP: inuse 0 orphan 0 tw 0 alloc 15 mem 169\n" +
		"UDP: inuse 0 mem 3\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"
	tests := []struct {
		name, old, new string
		want           bool
	}{
		{"fresh", "", "", true},
		{"orphans of others", "orphan 0", "orphan 4", true},
		{"a socket", "used 0", "used 1", false},
		{"a TCP socket", "TCP: inuse 0", "TCP: inuse 1", false},
		{"a connection that ended", "tw 0", "tw 1", false},
		{"a fragment", "FRAG: inuse 0", "FRAG: inuse 1", false},
		{"something new", "UDPLITE", "OTHER: inuse 1\nUDPLITE", false},
		{"nothing about sockets", "sockets: used 0\n", "", false},
		{"half a line", "memory 0", "memory", false},
	}
	for _, tt := range tests {
		if got := noSockets([]byte(strings.Replace(fresh, tt.old, tt.new, 1))); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if noSockets(nil) {
		t.Error("an empty file says that there is no socket")
	}
}
