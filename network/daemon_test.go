package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// daemon is a node that will be killed. It has namespaces waiting, one of them
// given back, a container that runs and some that do not, says so on stdout,
// and waits.
func daemon() {
	n, err := Open(context.Background(), "kill", Options{Warm: 5})
	must(err)
	must(n.fill(context.Background()))
	runs, err := n.Attach(context.Background(), "runs", []mayfly.Port{{Container: 7}, {Container: 7, Host: 9000, HostIP: "127.0.0.1"}})
	must(err)
	_, err = n.Attach(context.Background(), "ended", []mayfly.Port{{Container: 7, Host: 9001}})
	must(err)

	for _, id := range []string{"sealed", "gave back"} {
		_, err = n.AttachSealed(context.Background(), id)
		must(err)
	}
	must(n.Detach(context.Background(), "gave back"))

	runtime.LockOSThread()
	must(unix.Setns(int(runs.NetNS.Fd()), unix.CLONE_NEWNET))
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), roleEnv+"=container")
	c.Stdin = os.Stdin // ends when the test does
	ready, err := c.StdoutPipe()
	must(err)
	must(c.Start())
	ready.Read(make([]byte, 1))
	must(json.NewEncoder(os.Stdout).Encode(struct {
		Held Held
		Pid  int
	}{Held{ID: runs.ID, Address: runs.Address, Ports: runs.Ports}, c.Process.Pid}))
	time.Sleep(time.Hour) // the runtime takes an empty select for a deadlock
}

// opener is a daemon that starts, says its subnet and ends.
func opener(name string) {
	n, err := Open(context.Background(), name, Options{})
	must(err)
	fmt.Print(n.Subnet())
	must(n.Close())
}

// container answers on port 7 until its stdin ends.
func container() {
	l, err := net.Listen("tcp4", ":7")
	must(err)
	go answerConns(l)
	fmt.Println()
	os.Stdin.Read(make([]byte, 1))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestRecoverAfterKill(t *testing.T) {
	w := newWorld(t)
	t.Cleanup(func() {
		if err := Destroy("kill"); err != nil {
			t.Error(err)
		}
	})
	held, end := killedDaemon(t)
	port := held.Ports[0].Host
	mustAsk(t, w.ns, "tcp", at(w.ours, port), w.addr.String()) // while no daemon runs
	mustAsk(t, nil, "tcp", "127.0.0.1:9000", "")

	n := open(t, "kill", Options{})
	if err := n.Recover(t.Context(), []Held{held}); err != nil {
		t.Fatal(err)
	}
	mustAsk(t, w.ns, "tcp", at(w.ours, port), w.addr.String())
	mustAsk(t, nil, "tcp", "127.0.0.1:9000", "")
	linksGone(t, n.bridge, "uplink", vethOf(held.Address))
	if got := portElements(t, "kill"); strings.Contains(got, " 9001 : ") || strings.Count(got, held.Address.String()) != 2 {
		t.Errorf("port maps hold:\n%s", got)
	}
	if got := run(t, nil, "ip", "neigh", "show", "dev", n.bridge, "nud", "permanent"); strings.Count(got, "\n") != 1 || !strings.Contains(got, held.Address.String()) {
		t.Errorf("neighbours:\n%s", got)
	}
	_, err := n.Attach(t.Context(), "new", []mayfly.Port{{Container: 1, Host: port}})
	if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "runs") {
		t.Errorf("attach with a survivor's port: %v", err)
	}
	if a := attach(t, n, "new", mayfly.Port{Container: 1, Host: 9001}); a.Address == held.Address {
		t.Error("a survivor's address was given out again")
	}
	end()
	if err := n.Detach(t.Context(), "runs", "new"); err != nil {
		t.Error(err)
	}
	linksGone(t, n.bridge, "uplink")
	if left := portElements(t, "kill"); left != "" {
		t.Errorf("left in the port maps:\n%s", left)
	}
	attach(t, n, "newer", mayfly.Port{Container: 1, Host: port})
}

// killedDaemon starts a daemon, kills it and returns what its running
// container holds, and a function that ends the container.
func killedDaemon(t *testing.T) (Held, func()) {
	t.Helper()
	life, lifeEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer life.Close()
	t.Cleanup(func() { lifeEnd.Close() })
	d := exec.Command("/proc/self/exe")
	d.Env = append(os.Environ(), roleEnv+"=daemon")
	d.Stdin, d.Stderr = life, os.Stderr
	out, err := d.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	var said struct {
		Held Held
		Pid  int
	}
	if err := json.NewDecoder(out).Decode(&said); err != nil {
		t.Error(err)
	}
	if err := d.Process.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	d.Wait()
	pid, err := unix.PidfdOpen(said.Pid, 0)
	if t.Failed() || err != nil {
		t.Fatal(err)
	}
	return said.Held, func() {
		lifeEnd.Close()
		unix.Poll([]unix.PollFd{{Fd: int32(pid), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		unix.Close(pid)
	}
}

// What an earlier process left without having been killed in the middle of
// anything: nobody held it, so all of it goes.
func TestRecoverRemovesStrangers(t *testing.T) {
	n := open(t, "stray", Options{})
	for i := range 3 {
		run(t, nil, "ip", "link", "add", fmt.Sprintf("mfstray%d", i), "type", "veth", "peer", "name", fmt.Sprintf("mfother%d", i))
		run(t, nil, "ip", "link", "set", fmt.Sprintf("mfstray%d", i), "master", n.bridge)
	}
	a := attach(t, n, "ours")
	if err := n.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	linksGone(t, n.bridge, vethOf(a.Address))
	mustRefuse(t, nil, "tcp", at(a.Address, 1)) // it is there, and answers
}

// TestAddressesGoOnAfterAnEarlierDaemon: what may just have been another's is not
// given out first.
func TestAddressesGoOnAfterAnEarlierDaemon(t *testing.T) {
	n := open(t, "goeson", Options{Subnet: mustPrefix("10.79.0.0/24"), Warm: -1})
	if err := n.Recover(t.Context(), []Held{{ID: "old", Address: netip.MustParseAddr("10.79.0.40")}}); err != nil {
		t.Fatal(err)
	}
	if a := attach(t, n, "new"); a.Address.String() != "10.79.0.41" {
		t.Errorf("its address is %s", a.Address)
	}
}

func TestRecoverRefuses(t *testing.T) {
	n := open(t, "bad", Options{})
	a := attach(t, n, "a")
	for name, held := range map[string]Held{
		"another subnet": {ID: "b", Address: n.Gateway().Prev().Prev()},
		"a known id":     {ID: "a", Address: a.Address},
	} {
		if err := n.Recover(t.Context(), []Held{held}); mayfly.KindOf(err) != mayfly.Conflict {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenAdopts(t *testing.T) {
	first := open(t, "adopt", Options{Subnet: mustPrefix("10.77.0.0/16")})
	first.Close()
	second := open(t, "adopt", Options{})
	if second.Subnet() != first.Subnet() || second.index != first.index {
		t.Errorf("subnet %s on bridge %d, was %s on %d", second.Subnet(), second.index, first.Subnet(), first.index)
	}
	_, err := Open(t.Context(), "adopt", Options{Subnet: mustPrefix("10.78.0.0/16")})
	if mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("open with another subnet: %v", err)
	}
}

// TestOpenTellsOfAnOverlap: an address that the machine got later, for example from
// a VPN, takes the containers' away.
func TestOpenTellsOfAnOverlap(t *testing.T) {
	n := open(t, "overlap", Options{Subnet: mustPrefix("10.77.0.0/16")})
	n.Close()
	logged := func() string {
		var log bytes.Buffer
		again, err := Open(t.Context(), "overlap", Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
		return log.String()
	}
	if log := logged(); strings.Contains(log, "WARN") {
		t.Errorf("alone: %s", log)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "vpn"
	vpn := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(vpn); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(vpn)
	if err := netlink.AddrAdd(vpn, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 3, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	if log := logged(); strings.Count(log, "WARN") != 1 || !strings.Contains(log, "other=10.77.3.0/24") {
		t.Errorf("beside another: %s", log)
	}
}

func TestTwoNetworksSideBySide(t *testing.T) {
	a, b := open(t, "one", Options{}), open(t, "two", Options{})
	if a.Subnet().Overlaps(b.Subnet()) {
		t.Fatalf("subnets %s and %s overlap", a.Subnet(), b.Subnet())
	}
	x, y := attach(t, a, "x", mayfly.Port{Container: 7, Host: 9000}), attach(t, b, "x")
	serve(t, x.NetNS, "tcp", ":7")
	mustAsk(t, y.NetNS, "tcp", at(b.Gateway(), 9000), "")
	_, err := b.Attach(t.Context(), "z", []mayfly.Port{{Container: 7, Host: 9000}})
	if mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("publish the other node's port: %v", err)
	}
}

// TestNetworksThatOpenAtOnce: none chooses the subnet that another is just about
// to have, nor that of a bridge which a daemon was killed over before it was up.
func TestNetworksThatOpenAtOnce(t *testing.T) {
	needRoot(t)
	down := netlink.NewLinkAttrs()
	down.Name = "mf-halfmade"
	half := &netlink.Bridge{LinkAttrs: down}
	if err := netlink.LinkAdd(half); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(half)
	if err := netlink.AddrAdd(half, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 201, 0, 1), Mask: net.CIDRMask(16, 32)}}); err != nil {
		t.Fatal(err)
	}

	chosen := make([]string, 6)
	var all errgroup.Group
	for i := range chosen {
		name := fmt.Sprintf("atonce%d", i)
		t.Cleanup(func() { Destroy(name) })
		all.Go(func() error {
			d := exec.Command("/proc/self/exe", name)
			d.Env, d.Stderr = append(os.Environ(), roleEnv+"=opener"), os.Stderr
			out, err := d.Output()
			chosen[i] = string(out)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(chosen)
	if distinct := slices.Compact(slices.Clone(chosen)); len(distinct) != len(chosen) || slices.Contains(chosen, "10.201.0.0/16") {
		t.Errorf("subnets that were chosen at the same time: %s", chosen)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, name := range []string{"", "Upper", "with-dash", "thirteenchars", "a/b"} {
		if _, err := Open(t.Context(), name, Options{}); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("name %q: %v", name, err)
		}
		if err := Destroy(name); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("destroy %q: %v", name, err)
		}
	}
	for _, subnet := range []string{"10.0.0.0/7", "10.0.0.0/29", "fd00::/64"} {
		if _, err := Open(t.Context(), "x", Options{Subnet: mustPrefix(subnet)}); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("subnet %s: %v", subnet, err)
		}
	}
}

// TestTablesOfNobody: what a network left that lost its bridge does not concern one
// that has its subnet now.
func TestTablesOfNobody(t *testing.T) {
	var subnet netip.Prefix
	for _, name := range []string{"used", "unused"} {
		dead := open(t, name, Options{Warm: -1})
		subnet = dead.Subnet()
		if name == "used" {
			attach(t, dead, "a", mayfly.Port{Container: 7, Host: 9000})
		}
		dead.Close()
		link, err := netlink.LinkByName(dead.bridge)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n := open(t, "living", Options{})
	if n.Subnet() != subnet {
		t.Fatalf("the subnets are %s and %s", subnet, n.Subnet())
	}
	c := attach(t, n, "c")
	serve(t, c.NetNS, "tcp", ":7")
	mustAsk(t, nil, "tcp", at(c.Address, 7), "")
	mustRefuse(t, nil, "tcp", at(n.Gateway(), 9000))
	for _, family := range tableFamilies {
		tables, err := listTables(family)
		if err != nil || len(tables) != 1 || tables[0].Name != tableOf("living") {
			t.Errorf("tables %v, %v", tables, err)
		}
	}
}

func TestDestroyWhatIsNotThere(t *testing.T) {
	needRoot(t)
	if err := Destroy("nothing"); err != nil {
		t.Error(err)
	}
	if err := Destroy("nothing"); err != nil {
		t.Error(err)
	}
}
