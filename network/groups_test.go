package network

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// crowd is containers by name, each of which hears datagrams on port 7.
type crowd map[string]*member

type member struct {
	*Attachment
	hears net.PacketConn
}

func (c crowd) add(t *testing.T, n *Network, name string, groups ...string) {
	t.Helper()
	a, err := n.Attach(t.Context(), name, []mayfly.Port{{Container: 7, Protocol: "udp"}}, groups...)
	if err != nil {
		t.Fatal(err)
	}
	c[name] = &member{a, listenPacket(t, a.NetNS, ":7")}
}

// mustMeet has everyone send to everyone else's address, and fails unless
// exactly the pairs of names that are given hear each other.
func (c crowd) mustMeet(t *testing.T, pairs ...string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(c))
	want := make(map[string]map[string]bool)
	for _, to := range names {
		want[to] = make(map[string]bool)
	}
	for _, p := range pairs {
		a, b, _ := strings.Cut(p, " ")
		want[a][b], want[b][a] = true, true
	}
	for _, to := range names {
		for _, from := range names {
			if from != to {
				send(t, c[from].NetNS, at(c[to].Address, 7), from)
			}
		}
		send(t, nil, at(c[to].Address, 7), "the node") // heard by all
	}
	for _, to := range names {
		want[to]["the node"] = true
		for len(want[to]) > 0 {
			from := hear(t, c[to].hears)
			if from == "" {
				t.Errorf("%s did not hear %v", to, slices.Collect(maps.Keys(want[to])))
				break
			}
			if !want[to][from] {
				t.Errorf("%s heard %s", to, from)
			}
			delete(want[to], from)
		}
	}
}

func hear(t *testing.T, p net.PacketConn) string {
	p.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	n, _, err := p.ReadFrom(b)
	if err != nil {
		t.Log(err)
		return ""
	}
	return string(b[:n])
}

func TestGroupsMeetOnlyWhereTheyShareOne(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		w := newWorld(t)
		serve(t, w.ns, "tcp", ":7")
		n := open(t, "groups", Options{})
		serve(t, ownNamespace(t), "tcp", at(n.Gateway(), 7))
		c := make(crowd)
		c.add(t, n, "plain")
		c.add(t, n, "default", DefaultGroup)
		c.mustMeet(t, "plain default")
		c.add(t, n, "x1", "x")
		c.add(t, n, "x2", "x")
		c.add(t, n, "y", "y")
		c.add(t, n, "xy", "y", "x", "y")
		c.add(t, n, "too", "x", DefaultGroup)
		all := []string{"plain default", "x1 x2", "xy x1", "xy x2", "xy y", "too plain", "too default", "too x1", "too x2", "too xy"}
		c.mustMeet(t, all...)

		run(t, nil, "nft", "list", "ruleset") // its reader stumbles over what it would not write
		for name, m := range c {              // what is open to all stays so
			mustAsk(t, m.NetNS, "tcp", at(n.Gateway(), 7), m.Address.String())
			mustAsk(t, m.NetNS, "tcp", at(w.addr, 7), w.ours.String())
			send(t, m.NetNS, at(n.Gateway(), c["y"].Ports[0].Host), "to its published port, from "+name)
			mustReceive(t, c["y"].hears, "to its published port, from "+name)
			v := redirectTo(t, n, name, 9, netip.AddrPortFrom(c["x1"].Address, 7))
			send(t, m.NetNS, v.String(), "by a redirect")
			mustReceive(t, c["x1"].hears, "by a redirect")
		}

		set := func(id string, groups ...string) {
			t.Helper()
			if err := n.SetGroups(t.Context(), id, groups...); err != nil {
				t.Fatal(err)
			}
		}
		set("x2", "y")
		set("xy")
		set("too", "z")
		c.mustMeet(t, "plain default", "xy plain", "xy default", "x2 y")
		run(t, nil, "nft", "delete", "table", "bridge", tableOf("groups")) // as an administrator's script might
		n.restoreTable()
		c.mustMeet(t, "plain default", "xy plain", "xy default", "x2 y")

		if err := n.Detach(t.Context(), slices.Collect(maps.Keys(c))...); err != nil {
			t.Error(err)
		}
		if left := listedGroups(t, n); left != "" {
			t.Errorf("left in the kernel:\n%s", left)
		}
		if g := n.groups; len(g.memberships)+len(g.of) != 0 {
			t.Errorf("left in memory: %v %v", g.memberships, g.of)
		}
	})
}

func listedGroups(t testing.TB, n *Network) string {
	t.Helper()
	var lines []string
	for _, set := range n.groups.kernel.sets() {
		if all, err := n.groups.kernel.conn.GetSetElements(set); err != nil || len(all) > 0 {
			lines = append(lines, fmt.Sprint(set.Name, " has ", len(all), " ", err))
		}
	}
	return strings.Join(lines, "\n")
}

// Containers may make packets of their own (CAP_NET_RAW). With another's address
// they get nowhere.
func TestNobodySendsAsAnother(t *testing.T) {
	n := open(t, "spoof", Options{})
	c := make(crowd)
	c.add(t, n, "a")
	c.add(t, n, "b")
	c.add(t, n, "c", "c")
	forge(t, c["a"], c["c"].Address, c["b"].Address, "as c")
	forge(t, c["c"], c["a"].Address, c["b"].Address, "as a")
	forge(t, c["a"], n.Gateway(), c["c"].Address, "as the node")
	forge(t, c["a"], c["a"].Address, c["b"].Address, "as itself")
	if got := hear(t, c["b"].hears); got != "as itself" {
		t.Errorf("b heard %q", got)
	}
	send(t, nil, at(c["c"].Address, 7), "from the node")
	if got := hear(t, c["c"].hears); got != "from the node" {
		t.Errorf("c heard %q", got)
	}
}

// forge sends a datagram to port 7 that says that it is from another.
func forge(t *testing.T, m *member, from, to netip.Addr, text string) {
	t.Helper()
	b := make([]byte, 28, 28+len(text))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[20:], 7)
	binary.BigEndian.PutUint16(b[22:], 7)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(text))) // no checksum
	b = append(b, text...)
	var err error
	in(t, m.NetNS, func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return
		}
		err = unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: to.As4()})
		unix.Close(fd)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Who was kept apart is so while no daemon runs, and with the next one.
func TestGroupsOutliveTheDaemon(t *testing.T) {
	first := open(t, "apart", Options{})
	c := make(crowd)
	c.add(t, first, "x1", "x")
	c.add(t, first, "x2", "x")
	c.add(t, first, "y", "y")
	c.add(t, first, "plain")
	c.add(t, first, "ended", "x")
	held := make(map[string]Held)
	for name, m := range c {
		held[name] = Held{ID: name, Address: m.Address}
		kept, err := os.Open(m.Path()) // as a process in it would
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { kept.Close() })
		if name != "ended" {
			a := *m.Attachment // not the network's own, which Close closes
			a.NetNS, m.Attachment = kept, &a
		}
	}
	first.Close()
	delete(c, "ended")
	c.mustMeet(t, "x1 x2")
	n := open(t, "apart", Options{})
	c.mustMeet(t, "x1 x2")
	var list []Held
	for name, groups := range map[string][]string{"x1": {"x"}, "x2": {"x"}, "y": {"y"}, "plain": nil} {
		h := held[name]
		h.Groups = groups
		list = append(list, h)
	}
	if err := n.Recover(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	c.add(t, n, "x3", "x")
	c.add(t, n, "new")
	c.mustMeet(t, "x1 x2", "x1 x3", "x2 x3", "new plain")
	if len(n.groups.of) != 4 {
		t.Errorf("in groups: %v", n.groups.of)
	}
}

// A namespace that waits again is taken by one of the same groups before others,
// and never with those of another.
func TestReuseKeepsGroups(t *testing.T) {
	n := open(t, "again", Options{Warm: 2})
	seal := func(id string, groups ...string) *Attachment {
		t.Helper()
		a, err := n.AttachSealed(t.Context(), id, groups...)
		if err != nil {
			t.Fatal(err)
		}
		until(t, "untouched", n.attached[id].ns.trace.untouched)
		return a
	}
	x, plain := seal("x", "x"), seal("plain")
	detach(t, n, "x", "plain")
	if len(n.warm) != 2 {
		t.Fatalf("%d namespaces wait", len(n.warm))
	}
	before := n.groups.lastID
	if again := seal("plain again"); again.Address != plain.Address {
		t.Errorf("got %s; %s had no groups before", again.Address, plain.Address)
	}
	if again := seal("x again", "x"); again.Address != x.Address || n.groups.lastID != before {
		t.Errorf("got %s; %s was in the same groups before", again.Address, x.Address)
	}
	detach(t, n, "x again")
	if y := seal("y", "y"); y.Address != x.Address || n.groups.of[y.Address].key != "y" {
		t.Errorf("%s is in %+v", y.Address, n.groups.of[y.Address])
	}
	detach(t, n, "y")
	if p := seal("p"); p.Address != x.Address || n.groups.of[p.Address] != nil {
		t.Errorf("%s is in %+v", p.Address, n.groups.of[p.Address])
	}
}

func TestWithoutBridgeRules(t *testing.T) {
	n := open(t, "norules", Options{})
	n.groups.kernel.conn.CloseLasting()
	n.groups.kernel = nil // as on a kernel that has none
	c := make(crowd)
	c.add(t, n, "x", "x")
	if err := n.SetGroups(t.Context(), "x", "y"); err != nil {
		t.Error(err)
	}
	if err := n.SetGroups(t.Context(), "unknown", "y"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("groups of an unknown container: %v", err)
	}
	n.restoreTable()
	detach(t, n, "x")
}

func TestCablePrefixes(t *testing.T) {
	for subnet, want := range map[string][]string{
		"10.200.0.0/16":    {"mf0ac8"},
		"10.0.0.0/8":       {"mf0a"},
		"192.168.240.0/20": {"mfc0a8f"},
		"10.9.8.16/28":     {"mf0a09081"},
		"10.0.64.0/18":     {"mf0a004", "mf0a005", "mf0a006", "mf0a007"},
		"10.2.0.0/15":      {"mf0a02", "mf0a03"},
	} {
		if got := cablePrefixes(netip.MustParsePrefix(subnet)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", subnet, got, want)
		}
	}
}

func TestAddressesAreAdmittedInBlocks(t *testing.T) {
	n := open(t, "blocks", Options{Subnet: netip.MustParsePrefix("11.0.0.0/8")})
	g := n.groups
	used := func(b uint32) bool { return b == 11<<16 }
	for i := range uint32(blocksKept + 3) {
		if err := g.admit(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 1}), used); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.admitted) != blocksKept+3 { // the first is in use: it, and so the others, stay
		t.Errorf("%d blocks are admitted", len(g.admitted))
	}
	used = func(uint32) bool { return false }
	for range 2 {
		if err := g.admit(netip.AddrFrom4([4]byte{11, 9, byte(len(g.admitted)), 1}), used); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Contains(g.admitted, 11<<16) {
		t.Error("the oldest block is still there")
	}
}

func BenchmarkUntouchedInGroup(b *testing.B) {
	n := open(b, "untouchedgr", Options{Warm: 1})
	attachSealed(b, n, "first")
	detach(b, n, "first")
	benchmarkCPU(b, n, func(id string) (*Attachment, error) { return n.AttachSealed(b.Context(), id, "space") })
}

func BenchmarkTouchedInGroup(b *testing.B) {
	n := open(b, "touchedgr", Options{Warm: -1})
	benchmarkCPU(b, n, func(id string) (*Attachment, error) { return n.Attach(b.Context(), id, nil, "space") })
}

// BenchmarkBetweenContainers is for a megabyte from one container to another.
func BenchmarkBetweenContainers(b *testing.B) {
	n := open(b, "between", Options{})
	for _, groups := range [][]string{nil, {"space"}} {
		from, to := groupsAttach(b, n, "from", groups), groupsAttach(b, n, "to", groups)
		b.Run(fmt.Sprintf("groups=%d", len(groups)), func(b *testing.B) {
			var l net.Listener
			var c net.Conn
			var err error
			in(b, to.NetNS, func() { l, err = net.Listen("tcp4", ":7") })
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				if c, err := l.Accept(); err == nil {
					io.Copy(io.Discard, c)
					c.Close()
				}
			}()
			in(b, from.NetNS, func() { c, err = net.Dial("tcp4", at(to.Address, 7)) })
			if err != nil {
				b.Fatal(err)
			}
			piece := make([]byte, 1<<20)
			b.SetBytes(int64(len(piece)))
			for b.Loop() {
				c.Write(piece)
			}
			c.Close()
			<-done
		})
		if err := n.Detach(b.Context(), "from", "to"); err != nil {
			b.Fatal(err)
		}
	}
}

func groupsAttach(b *testing.B, n *Network, id string, groups []string) *Attachment {
	a, err := n.Attach(b.Context(), id, nil, groups...)
	if err != nil {
		b.Fatal(err)
	}
	return a
}
