package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// bothWays runs a test where bridged packets pass the rules for routed ones, as
// Docker has it, and where they do not.
func bothWays(t *testing.T, test func(t *testing.T)) {
	needRoot(t)
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	was, err := os.ReadFile(setting)
	if err != nil {
		t.Run("routed", test)
		return
	}
	t.Cleanup(func() { os.WriteFile(setting, was, 0) })
	for name, value := range map[string]string{"routed": "0", "bridged": "1"} {
		if err := os.WriteFile(setting, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		t.Run(name, test)
	}
}

func redirectTo(t testing.TB, n *Network, key string, port uint16, to ...netip.AddrPort) netip.AddrPort {
	t.Helper()
	a, err := n.Redirect(t.Context(), key, port, to)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRedirectLeadsToItsTarget(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		w := newWorld(t)
		n := open(t, "redir", Options{})
		a, b, c := attach(t, n, "a"), attach(t, n, "b"), attach(t, n, "c")
		for _, network := range []string{"tcp", "udp"} {
			serve(t, b.NetNS, network, ":7")
			serve(t, w.ns, network, ":7")
			serve(t, ownNamespace(t), network, at(n.Gateway(), 7))
			serve(t, ownNamespace(t), network, "127.0.0.1:8")
			for name, target := range map[string]struct{ to, seen string }{
				"a container":         {at(b.Address, 7), n.Gateway().String()},
				"outside":             {at(w.addr, 7), w.ours.String()},
				"the node":            {at(n.Gateway(), 7), ""},
				"the node's loopback": {"127.0.0.1:8", ""},
			} {
				t.Run(network+" "+name, func(t *testing.T) {
					v := redirectTo(t, n, "app/db", 3306, netip.MustParseAddrPort(target.to))
					if v.Port() != 3306 || !n.Virtual().Contains(v.Addr()) {
						t.Errorf("redirected from %s", v)
					}
					for _, from := range []*Attachment{a, b, c} { // b: to itself, by way of the node
						mustAsk(t, from.NetNS, network, v.String(), target.seen)
					}
				})
			}
		}
		v := redirectTo(t, n, "app/db", 3306)
		mustRefuse(t, a.NetNS, "tcp", v.String())
		mustRefuse(t, attach(t, n, "d").NetNS, "udp", v.String())
		mustRefuse(t, a.NetNS, "tcp", at(v.Addr(), 3307))
		mustRefuse(t, a.NetNS, "tcp", at(v.Addr().Next(), 3306)) // nobody's
	})
}

// ownNamespace is the tests' own namespace as a file.
func ownNamespace(t *testing.T) *os.File {
	t.Helper()
	fd, err := openNamespace()
	if err != nil {
		t.Fatal(err)
	}
	f := namespaceFile(fd)
	t.Cleanup(func() { f.Close() })
	return f
}

// An open client of a provider that vanished without a word is told, and gets
// to the next one.
func TestRedirectFollows(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		n := open(t, "follow", Options{})
		client, first, second := attach(t, n, "client"), attach(t, n, "first"), attach(t, n, "second")
		echo(t, first.NetNS, ":7", "first")
		echo(t, second.NetNS, ":7", "second")
		v := redirectTo(t, n, "app/db", 3306, netip.AddrPortFrom(first.Address, 7))
		reader := dialIn(t, client.NetNS, v)
		mustGreet(t, reader, "first")
		told := make(chan error, 1)
		go func() {
			_, err := reader.Read(make([]byte, 1)) // it waits for an answer, and sends nothing
			told <- err
		}()
		run(t, first.NetNS, "ip", "link", "set", "eth0", "down")

		start := time.Now()
		if again := redirectTo(t, n, "app/db", 3306, netip.AddrPortFrom(second.Address, 7)); again != v {
			t.Errorf("the address was %s and is %s", v, again)
		}
		err := <-told
		seen := time.Since(start)
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a client that waits: %v", err)
		}
		mustGreet(t, dialIn(t, client.NetNS, v), "second")
		t.Logf("target gone: an idle client sees a reset after %v, and has the next one after %v", seen, time.Since(start))
	})
}

// A target that goes without having been told of loses its redirects with its
// address, which somebody else may have next.
func TestDetachedTargetsAreDropped(t *testing.T) {
	n := open(t, "dropped", Options{})
	client, first, second := attach(t, n, "client"), attach(t, n, "first"), attach(t, n, "second")
	echo(t, first.NetNS, ":7", "first")
	echo(t, second.NetNS, ":7", "second")
	both := redirectTo(t, n, "both", 1, netip.AddrPortFrom(first.Address, 7), netip.AddrPortFrom(second.Address, 7))
	one := redirectTo(t, n, "one", 1, netip.AddrPortFrom(first.Address, 7))
	c := dialIn(t, client.NetNS, one)
	mustGreet(t, c, "first")
	run(t, first.NetNS, "ip", "link", "set", "eth0", "down")
	if err := n.Detach(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a client that waits: %v", err)
	}
	mustRefuse(t, client.NetNS, "tcp", one.String())
	for range 20 {
		mustGreet(t, dialIn(t, client.NetNS, both), "second")
	}
}

// While a provider drains, who is connected to it stays so, and it gets no new
// connections.
func TestLeavingTargetsKeepTheirConnections(t *testing.T) {
	n := open(t, "leaving", Options{})
	client, first, second := attach(t, n, "client"), attach(t, n, "first"), attach(t, n, "second")
	echo(t, first.NetNS, ":7", "first")
	echo(t, second.NetNS, ":7", "second")
	old, now := netip.AddrPortFrom(first.Address, 7), netip.AddrPortFrom(second.Address, 7)
	v := redirectTo(t, n, "k", 1, old)
	c := dialIn(t, client.NetNS, v)
	mustGreet(t, c, "first")
	if _, err := n.Redirect(t.Context(), "k", 1, []netip.AddrPort{now}, old); err != nil {
		t.Fatal(err)
	}
	if io.WriteString(c, "still there\n"); readLine(t, c) != "still there" {
		t.Error("a connection to a provider that drains ended")
	}
	mustGreet(t, dialIn(t, client.NetNS, v), "second")
	redirectTo(t, n, "k", 1, now) // it has drained
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a client of what has drained: %v", err)
	}
}

func TestRedirectSpreads(t *testing.T) {
	n := open(t, "spread", Options{})
	client := attach(t, n, "client")
	var to []netip.AddrPort
	for i := range 3 {
		a := attach(t, n, fmt.Sprint(i))
		echo(t, a.NetNS, ":7", fmt.Sprint(i))
		to = append(to, netip.AddrPortFrom(a.Address, 7))
	}
	v := redirectTo(t, n, "k", 1, to...)
	run(t, nil, "nft", "list", "ruleset")
	seen := make(map[string]int)
	for range 120 { // one is missed once in 10^17 times
		seen[readLine(t, dialIn(t, client.NetNS, v))]++
	}
	t.Log("connections by target:", seen)
	if len(seen) != 3 {
		t.Errorf("some targets had none: %v", seen)
	}
	redirectTo(t, n, "k", 1, to[1])
	for range 20 {
		mustGreet(t, dialIn(t, client.NetNS, v), "1")
	}
}

func TestRedirectArguments(t *testing.T) {
	n := open(t, "args", Options{})
	good := netip.MustParseAddrPort("203.0.113.1:80")
	for name, tt := range map[string]struct {
		key  string
		port uint16
		to   netip.AddrPort
	}{
		"no key":      {"", 80, good},
		"no port":     {"k", 0, good},
		"target port": {"k", 80, netip.MustParseAddrPort("203.0.113.1:0")},
		"IPv6":        {"k", 80, netip.MustParseAddrPort("[2001:db8::1]:80")},
		"nowhere":     {"k", 80, netip.MustParseAddrPort("0.0.0.0:80")},
		"a redirect":  {"k", 80, netip.AddrPortFrom(n.Virtual().Addr().Next(), 80)},
		"nothing":     {"k", 80, netip.AddrPort{}},
	} {
		if _, err := n.Redirect(t.Context(), tt.key, tt.port, []netip.AddrPort{tt.to}); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := strings.Repeat("space/", 60)
	if a, b := redirectTo(t, n, long, 80, good), redirectTo(t, n, long+"x", 80, good); a == b {
		t.Error("two long keys have one address")
	}
	if err := n.Unredirect(t.Context(), n.Redirects()...); err != nil || len(n.Redirects()) != 0 {
		t.Errorf("left: %v, %v", n.Redirects(), err)
	}
}

// Redirects outlive the daemon and are found again by their keys, and nothing
// of them is left after Unredirect.
func TestRedirectsOutliveTheDaemon(t *testing.T) {
	first := open(t, "outlive", Options{})
	gone := attach(t, first, "gone")
	keys := []string{"a/db", "b/db", "c/none"}
	want := make(map[string]netip.AddrPort)
	outside := []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:80"), netip.MustParseAddrPort("203.0.113.2:80")}
	want[keys[0]] = redirectTo(t, first, keys[0], 3306, outside[0], netip.AddrPortFrom(gone.Address, 3306))
	want[keys[1]] = redirectTo(t, first, keys[1], 3306, outside...)
	want[keys[2]] = redirectTo(t, first, keys[2], 80)
	first.Close()

	n := open(t, "outlive", Options{})
	if err := n.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := n.Redirects(); !slices.Equal(got, keys) {
		t.Fatalf("found %v, want %v", got, keys)
	}
	if got := n.redirects[keys[0]].to; !slices.Equal(got, outside[:1]) {
		t.Errorf("%s leads to %v; its container has ended", keys[0], got)
	}
	if got := n.redirects[keys[1]].to; !slices.Equal(got, outside) {
		t.Errorf("%s leads to %v", keys[1], got)
	}
	for _, key := range keys {
		if got := redirectTo(t, n, key, want[key].Port(), outside[0]); got != want[key] {
			t.Errorf("%s was %s and is %s", key, want[key], got)
		}
	}
	before := redirectElements(t, n)
	run(t, nil, "nft", "delete", "table", "ip", tableOf("outlive")) // as an administrator's script might
	n.restoreTable()
	if after := redirectElements(t, n); after != before {
		t.Errorf("after the table was deleted:\n%s\nbefore:\n%s", after, before)
	}
	if err := n.Unredirect(t.Context(), append(keys, "unknown")...); err != nil {
		t.Fatal(err)
	}
	if left := redirectElements(t, n); left != "" {
		t.Errorf("left:\n%s", left)
	}
	if len(n.redirects)+len(n.virtualOf)+len(n.targeted) != 0 {
		t.Errorf("left in memory: %v %v %v", n.redirects, n.virtualOf, n.targeted)
	}
}

func redirectElements(t *testing.T, n *Network) string {
	t.Helper()
	all, err := n.nat.redirectElements()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i, elements := range all {
		for _, e := range elements {
			lines = append(lines, fmt.Sprintf("%s %x %x %s", n.nat.redirects[i].Name, e.Key, e.Val, e.Comment))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A change costs the same, however many redirects there are.
func TestManyRedirects(t *testing.T) {
	n := open(t, "manyredir", Options{})
	target := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 80)
	}
	change := func() time.Duration {
		const times = 50
		start := time.Now()
		for i := range times {
			redirectTo(t, n, fmt.Sprint("key", i%10), 3306, target(i/10))
		}
		return time.Since(start) / times
	}
	few := change()
	const many = 10_000
	var wg sync.WaitGroup
	start := time.Now()
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < many; i += 4 {
				if _, err := n.Redirect(t.Context(), fmt.Sprint("key", i), 3306, []netip.AddrPort{target(i % 100)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	made := time.Since(start)
	if len(n.virtualOf) != many {
		t.Fatalf("%d addresses for %d keys", len(n.virtualOf), many)
	}
	t.Logf("a change with 10 redirects %v, with %d %v; %v for each to be made", few, many, change(), made/many)
	start = time.Now()
	if err := n.Unredirect(t.Context(), n.Redirects()...); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d removed in %v", many, time.Since(start))
}

// echo greets every connection at addr with a line and then sends back what it
// is sent.
func echo(t *testing.T, ns *os.File, addr, line string) {
	t.Helper()
	var l net.Listener
	var err error
	in(t, ns, func() { l, err = net.Listen("tcp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				fmt.Fprintf(c, "%s\n", line)
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

func dialIn(t *testing.T, ns *os.File, to netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	in(t, ns, func() { c, err = net.DialTimeout("tcp4", to.String(), patience) })
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// mustGreet fails unless c is a new connection to the echo of that line.
func mustGreet(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if got := readLine(t, c); got != line {
		t.Errorf("connected to %q, want %q", got, line)
	}
}

func readLine(t *testing.T, c net.Conn) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := io.ReadFull(c, b); err != nil {
			t.Errorf("wait for a line: %v", err)
			return ""
		}
		if b[0] == '\n' {
			return string(line)
		}
	}
}
