package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func attach(t testing.TB, n *Network, id string, ports ...mayfly.Port) *Attachment {
	t.Helper()
	a, err := n.Attach(t.Context(), id, ports)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func at(addr netip.Addr, port uint16) string { return netip.AddrPortFrom(addr, port).String() }

func TestContainersReachWhatTheyShould(t *testing.T) {
	w := newWorld(t)
	n := open(t, "reach", Options{})
	a, b := attach(t, n, "a"), attach(t, n, "b")
	for _, network := range []string{"tcp", "udp"} {
		serve(t, w.ns, network, ":7")
		serve(t, a.NetNS, network, ":7")
		serve(t, b.NetNS, network, "127.0.0.1:8")
		t.Run(network, func(t *testing.T) {
			mustAsk(t, a.NetNS, network, at(w.addr, 7), w.ours.String())       // the outside, translated
			mustAsk(t, b.NetNS, network, at(a.Address, 7), b.Address.String()) // each other, as they are
			mustAsk(t, nil, network, at(a.Address, 7), n.Gateway().String())   // from the node
			mustAsk(t, b.NetNS, network, "127.0.0.1:8", "127.0.0.1")           // themselves
		})
	}
}

func TestPublishedPorts(t *testing.T) {
	w := newWorld(t)
	n := open(t, "pub", Options{})
	other := attach(t, n, "other")
	for _, network := range []string{"tcp", "udp"} {
		a := attach(t, n, network,
			mayfly.Port{Container: 7, Protocol: network},
			mayfly.Port{Container: 7, Host: 9000, Protocol: network},
			mayfly.Port{Container: 7, Host: 9001, HostIP: "127.0.0.1", Protocol: network},
			mayfly.Port{Container: 7, Host: 9002, HostIP: w.ours.String(), Protocol: network})
		serve(t, a.NetNS, network, ":7")
		t.Run(network, func(t *testing.T) {
			if a.Ports[0].Host == 0 {
				t.Fatal("no host port was picked")
			}
			for _, port := range []uint16{a.Ports[0].Host, 9000} {
				mustAsk(t, w.ns, network, at(w.ours, port), w.addr.String()) // the container sees who asks
				mustAsk(t, nil, network, fmt.Sprintf("127.0.0.1:%d", port), n.Gateway().String())
				mustAsk(t, nil, network, at(w.ours, port), "")
				mustAsk(t, nil, network, at(n.Gateway(), port), "")
				mustAsk(t, other.NetNS, network, at(w.ours, port), n.Gateway().String())
				mustAsk(t, other.NetNS, network, at(n.Gateway(), port), n.Gateway().String())
				mustAsk(t, a.NetNS, network, at(w.ours, port), n.Gateway().String()) // by way of the node to itself
			}
			mustAsk(t, nil, network, "127.0.0.1:9001", "")
			mustAsk(t, w.ns, network, at(w.ours, 9002), w.addr.String())
			if network == "tcp" {
				mustRefuse(t, w.ns, network, at(w.ours, 9001))
				mustRefuse(t, nil, network, "127.0.0.1:9002")
			}
		})
		if err := n.Detach(t.Context(), network); err != nil {
			t.Error(err)
		}
		if network == "tcp" {
			mustRefuse(t, w.ns, network, at(w.ours, 9000))
			mustRefuse(t, nil, network, "127.0.0.1:9000")
		}
	}
	if left := portElements(t, "pub"); left != "" {
		t.Errorf("left in the port maps:\n%s", left)
	}
}

// A sender that does not pause must come to whoever has the port now.
func TestUDPFollowsThePublication(t *testing.T) {
	w := newWorld(t)
	n := open(t, "flow", Options{})
	port := mayfly.Port{Container: 7, Host: 9000, Protocol: "udp"}
	var c net.Conn
	var err error
	in(t, w.ns, func() { c, err = net.Dial("udp4", at(w.ours, 9000)) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	program := listenPacket(t, nil, ":9000")
	io.WriteString(c, "for a program of the node")
	mustReceive(t, program, "for a program of the node")
	program.Close()
	for _, id := range []string{"first", "second"} {
		a := attach(t, n, id, port)
		got := listenPacket(t, a.NetNS, ":7")
		io.WriteString(c, "for "+id)
		mustReceive(t, got, "for "+id)
		got.Close()
		if err := n.Detach(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// A neighbour on the node's network that sets a route to the containers must
// not get at what is not published.
func TestUnpublishedPortsAreClosed(t *testing.T) {
	w := newWorld(t)
	n := open(t, "shut", Options{})
	a := attach(t, n, "a", mayfly.Port{Container: 7, Host: 9000, Protocol: "udp"})
	got := listenPacket(t, a.NetNS, ":7")
	run(t, w.ns, "ip", "route", "add", n.Subnet().String(), "via", w.ours.String())
	send(t, w.ns, at(a.Address, 7), "past the node's ports")
	send(t, w.ns, at(w.ours, 9000), "published")
	mustReceive(t, got, "published")
}

// With route_localnet on the bridge, a container could reach what listens on
// the node's 127.0.0.1, were it not for the guard.
func TestNodeLoopbackIsOutOfReach(t *testing.T) {
	n := open(t, "guard", Options{})
	a := attach(t, n, "a")
	private, public := listenPacket(t, nil, "127.0.0.1:7777"), listenPacket(t, nil, ":7778")
	run(t, a.NetNS, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	run(t, a.NetNS, "ip", "route", "add", "127.0.0.0/8", "via", n.Gateway().String(), "src", a.Address.String())
	run(t, a.NetNS, "sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
	run(t, nil, "nft", "insert", "rule", "ip", tableOf("guard"), "guard", "iifname", n.bridge, "ip", "daddr", "127.0.0.1", "counter")
	send(t, a.NetNS, "127.0.0.1:7777", "from a container")
	send(t, a.NetNS, at(n.Gateway(), 7778), "after it")
	mustReceive(t, public, "after it")
	until(t, "came to the guard", func() bool { // another processor may be late with it
		return strings.Contains(run(t, nil, "nft", "list", "chain", "ip", tableOf("guard"), "guard"), "packets 1 ")
	})
	send(t, nil, "127.0.0.1:7777", "from the node")
	mustReceive(t, private, "from the node")
}

func TestLoopbackOnly(t *testing.T) {
	n := open(t, "none", Options{})
	a, err := n.AttachNone(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if a.Address.IsValid() || a.Gateway.IsValid() {
		t.Errorf("has an address: %+v", a)
	}
	serve(t, a.NetNS, "tcp", "127.0.0.1:80")
	mustAsk(t, a.NetNS, "tcp", "127.0.0.1:80", "127.0.0.1")
	if _, err := ask(t, a.NetNS, "tcp", at(n.Gateway(), 80)); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("ask outside: %v", err)
	}
}

func TestConflicts(t *testing.T) {
	w := newWorld(t)
	n := open(t, "conf", Options{})
	attach(t, n, "first", mayfly.Port{Container: 1, Host: 8000}, mayfly.Port{Container: 1, Host: 8001, HostIP: "127.0.0.1"},
		mayfly.Port{Container: 1, Host: 8002, Protocol: "udp"})
	l, err := net.Listen("tcp4", "127.0.0.1:8003")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tests := []struct {
		name string
		port mayfly.Port
		kind mayfly.Kind // empty: it must work
		text []string
	}{
		{"same", mayfly.Port{Container: 1, Host: 8000}, mayfly.Conflict, []string{"8000/tcp", "second", "first"}},
		{"one address of all", mayfly.Port{Container: 1, Host: 8000, HostIP: "127.0.0.1"}, mayfly.Conflict, []string{"127.0.0.1:8000/tcp", "first"}},
		{"all addresses, one taken", mayfly.Port{Container: 1, Host: 8001}, mayfly.Conflict, []string{"8001/tcp", "first"}},
		{"another address", mayfly.Port{Container: 1, Host: 8001, HostIP: w.ours.String()}, "", nil},
		{"another protocol", mayfly.Port{Container: 1, Host: 8000, Protocol: "udp"}, "", nil},
		{"udp", mayfly.Port{Container: 1, Host: 8002, Protocol: "udp"}, mayfly.Conflict, []string{"8002/udp", "first"}},
		{"a program", mayfly.Port{Container: 1, Host: 8003}, mayfly.Conflict, []string{"8003/tcp", fmt.Sprintf("(pid %d)", os.Getpid())}},
		{"a program, its address", mayfly.Port{Container: 1, Host: 8003, HostIP: "127.0.0.1"}, mayfly.Conflict, []string{"127.0.0.1:8003/tcp"}},
		{"a program, another address", mayfly.Port{Container: 1, Host: 8003, HostIP: w.ours.String()}, "", nil},
		{"no port", mayfly.Port{Host: 8004}, mayfly.Invalid, []string{"no port of the container"}},
		{"protocol", mayfly.Port{Container: 1, Protocol: "sctp"}, mayfly.Invalid, []string{"sctp"}},
		{"no address", mayfly.Port{Container: 1, HostIP: "localhost"}, mayfly.Invalid, []string{"localhost"}},
		{"not ours", mayfly.Port{Container: 1, Host: 8004, HostIP: "203.0.113.9"}, mayfly.Invalid, []string{"203.0.113.9"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			good := mayfly.Port{Container: 1, Host: 8999}
			_, err := n.Attach(t.Context(), "second", []mayfly.Port{good, tt.port})
			if mayfly.KindOf(err) != tt.kind {
				t.Fatalf("error is %q: %v; want %q", mayfly.KindOf(err), err, tt.kind)
			}
			for _, text := range tt.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error does not name %q: %v", text, err)
				}
			}
			if err := n.Detach(t.Context(), "second"); err != nil {
				t.Error(err)
			}
			attach(t, n, "third", good) // nothing is left of what was refused
			if err := n.Detach(t.Context(), "third"); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := n.Attach(t.Context(), "first", nil); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("attach the same id again: %v", err)
	}
}

func TestOtherProgramsCannotTakeAPublishedPort(t *testing.T) {
	n := open(t, "hold", Options{})
	a := attach(t, n, "a", mayfly.Port{Container: 1}, mayfly.Port{Container: 1, Host: 8000})
	for _, p := range a.Ports {
		if l, err := net.Listen("tcp4", fmt.Sprintf(":%d", p.Host)); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("listen on %d: %v", p.Host, err)
			if err == nil {
				l.Close()
			}
		}
	}
}

// A port whose program has ended is free at once, although its last
// connections are still remembered by the kernel for a minute.
func TestPortOfAnEndedProgramIsFree(t *testing.T) {
	n := open(t, "wait", Options{})
	l, err := net.Listen("tcp4", "127.0.0.1:8000")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", "127.0.0.1:8000")
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.Close() // first, so that this end waits
	client.Read(make([]byte, 1))
	client.Close()
	l.Close()
	attach(t, n, "a", mayfly.Port{Container: 1, Host: 8000})
}

func TestTooManyAddresses(t *testing.T) {
	n := open(t, "small", Options{Subnet: netip.MustParsePrefix("10.9.8.0/28")})
	seen := map[netip.Addr]bool{n.Gateway(): true}
	links := []string{n.bridge}
	for i := range 13 {
		a := attach(t, n, fmt.Sprint(i))
		if seen[a.Address] || !n.Subnet().Contains(a.Address) || a.Address == lastOf(n.Subnet()) {
			t.Errorf("address %s given out", a.Address)
		}
		seen[a.Address] = true
		if i != 3 && i != 4 {
			links = append(links, vethOf(a.Address))
		}
	}
	if _, err := n.Attach(t.Context(), "last", nil); mayfly.KindOf(err) != mayfly.Busy {
		t.Errorf("attach without an address left: %v", err)
	}
	if err := n.Detach(t.Context(), "3", "unknown", "4"); err != nil {
		t.Error(err)
	}
	linksGone(t, links...)
	attach(t, n, "last")
}

func TestNothingIsLeftOver(t *testing.T) {
	n := open(t, "left", Options{Warm: 4})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	attach(t, n, "warm up", mayfly.Port{Container: 1})
	if err := n.Detach(ctx, "warm up"); err != nil {
		t.Fatal(err)
	}
	linksGone(t, n.bridge)
	files, goroutines := openFiles(t), goleak.IgnoreCurrent()

	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	const rounds, batch, workers = 25, 10, 4
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for r := range rounds {
				attachAndDetach(t, n, w, r, batch)
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	n.SetWarm(-1)
	if err := n.fill(t.Context()); err != nil {
		t.Error(err)
	}
	linksGone(t, n.bridge)
	if got := openFiles(t); len(got) != len(files) {
		t.Errorf("open files: %v\nbefore: %v", got, files)
	}
	goleak.VerifyNone(t, goroutines)
	if left := portElements(t, "left"); left != "" {
		t.Errorf("left in the port maps:\n%s", left)
	}
	if left := run(t, nil, "ip", "neigh", "show", "dev", n.bridge); left != "" {
		t.Errorf("left neighbours:\n%s", left)
	}
	if len(n.used)+len(n.attached)+len(n.ports)+len(n.warm) != 0 {
		t.Errorf("left in memory: %v %v %v %v", n.used, n.attached, n.ports, n.warm)
	}
}

func attachAndDetach(t *testing.T, n *Network, worker, round, batch int) {
	var ids []string
	for i := range batch {
		id := fmt.Sprintf("%d-%d-%d", worker, round, i)
		var err error
		switch i % 3 {
		case 0:
			ports := []mayfly.Port{{Container: 80}, {Container: 53, Protocol: "udp", HostIP: "127.0.0.1"}}
			_, err = n.Attach(t.Context(), id, ports)
		case 1:
			_, err = n.Attach(t.Context(), id, nil)
		case 2:
			_, err = n.AttachSealed(t.Context(), id)
		}
		if err != nil {
			t.Error(err)
			continue
		}
		ids = append(ids, id)
	}
	if err := n.Detach(t.Context(), ids...); err != nil {
		t.Error(err)
	}
}

func TestWarmSet(t *testing.T) {
	n := open(t, "warm", Options{Warm: 3})
	if err := n.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting := make(map[netip.Addr]bool)
	for _, ns := range n.warm {
		waiting[ns.addr] = true
	}
	if len(waiting) != 3 {
		t.Fatalf("%d wait, want 3", len(waiting))
	}
	if a := attach(t, n, "a"); !waiting[a.Address] {
		t.Error("Attach made a namespace although some wait")
	}
	n.SetWarm(1)
	if err := n.fill(t.Context()); err != nil || len(n.warm) != 1 {
		t.Errorf("%d wait, want 1 (%v)", len(n.warm), err)
	}
}

func TestAttachAfterClose(t *testing.T) {
	n := open(t, "closed", Options{})
	n.Close()
	if _, err := n.Attach(t.Context(), "a", nil); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("attach: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	n := open(t, "many", Options{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]*os.File)
	for i := range 40 {
		wg.Go(func() {
			a, err := n.Attach(t.Context(), fmt.Sprint(i), []mayfly.Port{{Container: 1}})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			key := a.Address.String()
			if seen[key] != nil {
				t.Errorf("%s given out twice", key)
			}
			seen[key] = a.NetNS
		})
	}
	wg.Wait()
}

// As docker has it, any user may use any port and ping.
func TestSettingsThatContainersFind(t *testing.T) {
	n := open(t, "set", Options{})
	none, err := n.AttachNone(t.Context(), "none")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Attachment{attach(t, n, "a"), none} {
		got := run(t, a.NetNS, "sysctl", "-n", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range")
		if want := "0\n0\t2147483647\n"; got != want {
			t.Errorf("%s: settings %q, want %q", a.ID, got, want)
		}
	}
}
