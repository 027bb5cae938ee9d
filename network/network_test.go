package network

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	nlconn "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patience bounds what a test waits for. It decides nothing when all is well.
const patience = time.Minute

// roleEnv says which part of a test a child process plays.
const roleEnv = "MAYFLY_NETWORK_TEST_ROLE"

// TestMain runs the tests in a network namespace of their own, so that they
// leave the machine's alone.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(runInside())
	case "tests":
		// Strict about where packets come from, as some machines are.
		if err := errors.Join(raiseLoopback(), setSysctl("ipv4/conf/all/rp_filter", "1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m)
	case "daemon":
		daemon()
	case "container":
		container()
	case "opener":
		opener(os.Args[1])
	}
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleEnv+"=tests")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "start tests in a network namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func raiseLoopback() error {
	r, err := dialRtnl()
	if err != nil {
		return err
	}
	defer r.close()
	return r.run(loopbackUp())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// open opens a network and removes all of it after the test.
func open(t testing.TB, name string, opts Options) *Network {
	t.Helper()
	needRoot(t)
	if _, bench := t.(*testing.B); !bench {
		opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	n, err := Open(t.Context(), name, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := Destroy(name); err != nil {
			t.Error(err)
		}
	})
	return n
}

// in calls fn on a thread in the namespace ns. Sockets that fn makes stay there.
func in(t testing.TB, ns *os.File, fn func()) {
	t.Helper()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := openNamespace()
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			fn()
			if err = unix.Setns(home, unix.CLONE_NEWNET); err == nil {
				runtime.UnlockOSThread()
			}
			unix.Close(home)
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// run runs a program in the namespace ns, or in the tests' if it is nil.
func run(t testing.TB, ns *os.File, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	call := func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() }
	if ns == nil {
		call()
	} else {
		in(t, ns, call)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// world is a machine elsewhere, reached by a cable from the tests' namespace.
type world struct {
	ns   *os.File
	ours netip.Addr // of the tests' end
	addr netip.Addr
}

func newWorld(t testing.TB) *world {
	t.Helper()
	needRoot(t)
	home, err := openNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(home)
	w := &world{ours: netip.MustParseAddr("198.51.100.1"), addr: netip.MustParseAddr("198.51.100.2")}
	fd, err := (&Network{home: home}).inNew(func(int) error { return raiseLoopback() })
	if err != nil {
		t.Fatal(err)
	}
	w.ns = namespaceFile(fd)
	t.Cleanup(func() {
		run(t, nil, "ip", "link", "del", "uplink")
		w.ns.Close()
	})
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	run(t, nil, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "world", "netns", path)
	run(t, nil, "ip", "addr", "add", w.ours.String()+"/24", "dev", "uplink")
	run(t, nil, "ip", "link", "set", "uplink", "up")
	run(t, w.ns, "ip", "addr", "add", w.addr.String()+"/24", "dev", "world")
	run(t, w.ns, "ip", "link", "set", "world", "up")
	awaitUp(t, nil, "uplink")
	awaitUp(t, w.ns, "world")
	return w
}

// awaitUp waits until a link carries packets: some time after it was set up, and
// what is sent before is dropped.
func awaitUp(t testing.TB, ns *os.File, link string) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(run(t, ns, "ip", "-o", "link", "show", "dev", link), " state UP "); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("link %s does not come up", link)
		}
	}
}

// serve answers every connection or datagram at addr in ns with the address
// that it came from.
func serve(t testing.TB, ns *os.File, network, addr string) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	var err error
	in(t, ns, func() {
		if network == "udp" {
			p, err = net.ListenPacket("udp4", addr)
		} else {
			l, err = net.Listen("tcp4", addr)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if p != nil {
			answerPackets(p)
		} else {
			answerConns(l)
		}
	}()
	t.Cleanup(func() {
		if p != nil {
			p.Close()
		} else {
			l.Close()
		}
		<-done
	})
}

func answerConns(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, host(c.RemoteAddr().String()))
		c.Close()
	}
}

func answerPackets(p net.PacketConn) {
	b := make([]byte, 64)
	for {
		_, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		p.WriteTo([]byte(host(from.String())), from)
	}
}

func host(hostport string) string {
	h, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return err.Error()
	}
	return h
}

// ask connects from ns (nil: the tests' own) and returns what the server says
// it was asked by.
func ask(t testing.TB, ns *os.File, network, addr string) (string, error) {
	t.Helper()
	return askFor(t, ns, network, addr, patience)
}

func askFor(t testing.TB, ns *os.File, network, addr string, wait time.Duration) (string, error) {
	t.Helper()
	var c net.Conn
	var err error
	dial := func() { c, err = net.DialTimeout(network+"4", addr, patience) }
	if ns == nil {
		dial()
	} else {
		in(t, ns, dial)
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func mustAsk(t testing.TB, ns *os.File, network, addr, want string) {
	t.Helper()
	got, err := ask(t, ns, network, addr)
	if err != nil {
		t.Errorf("ask %s %s: %v", network, addr, err)
	} else if want != "" && got != want {
		t.Errorf("ask %s %s: came from %s, want %s", network, addr, got, want)
	}
}

// mustRefuse asks again and again over UDP: the kernel tells each sender of
// datagrams once a second at most, and all senders together only so often.
func mustRefuse(t testing.TB, ns *os.File, network, addr string) {
	t.Helper()
	got, err := "", os.ErrDeadlineExceeded
	if network == "udp" {
		for begin := time.Now(); errors.Is(err, os.ErrDeadlineExceeded) && time.Since(begin) < patience; {
			got, err = askFor(t, ns, network, addr, 2*time.Second)
		}
	} else {
		got, err = ask(t, ns, network, addr)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("ask %s %s: got %q, %v; want it refused", network, addr, got, err)
	}
}

// listenPacket listens for datagrams in ns (nil: the tests' own).
func listenPacket(t testing.TB, ns *os.File, addr string) net.PacketConn {
	t.Helper()
	var p net.PacketConn
	var err error
	listen := func() { p, err = net.ListenPacket("udp4", addr) }
	if ns == nil {
		listen()
	} else {
		in(t, ns, listen)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// send sends one datagram from ns (nil: the tests' own).
func send(t testing.TB, ns *os.File, addr, text string) {
	t.Helper()
	var err error
	write := func() {
		var c net.Conn
		if c, err = net.Dial("udp4", addr); err == nil {
			_, err = io.WriteString(c, text)
			c.Close()
		}
	}
	if ns == nil {
		write()
	} else {
		in(t, ns, write)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mustReceive fails unless the next datagram is want.
func mustReceive(t testing.TB, p net.PacketConn, want string) {
	t.Helper()
	p.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	n, from, err := p.ReadFrom(b)
	if err != nil || string(b[:n]) != want {
		t.Errorf("received %q from %v, %v; want %q", b[:n], from, err, want)
	}
}

// linksGone waits until no link but these is left in the tests' namespace. The
// kernel takes namespaces down in its own time, and tells of each link.
func linksGone(t testing.TB, but ...string) {
	t.Helper()
	changed, stop := watch(t, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	defer stop()
	for {
		left := strangeLinks(t, but)
		if len(left) == 0 {
			return
		}
		if !changed() {
			t.Errorf("links left over: %v", left)
			return
		}
	}
}

// watch returns a function that waits for the kernel's next message to a
// group, and tells whether one came.
func watch(t testing.TB, family int, group uint) (next func() bool, stop func()) {
	t.Helper()
	conn, err := nlconn.Dial(family, &nlconn.Config{Groups: 1 << (group - 1)})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	next = func() bool {
		_, err := conn.Receive()
		return err == nil || errors.Is(err, unix.ENOBUFS)
	}
	return next, func() { conn.Close() }
}

func strangeLinks(t testing.TB, but []string) []string {
	links, err := complete(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	known := " lo " + strings.Join(but, " ") + " "
	var left []string
	for _, l := range links {
		if !strings.Contains(known, " "+l.Attrs().Name+" ") {
			left = append(left, l.Attrs().Name)
		}
	}
	return left
}

// openFiles lists the process's open files, by descriptor.
func openFiles(t testing.TB) map[string]string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files[e.Name()] = target
		}
	}
	return files
}

// portElements returns what nft prints of the port maps' elements.
func portElements(t testing.TB, name string) string {
	out := run(t, nil, "nft", "list", "table", "ip", tableOf(name))
	var all bytes.Buffer
	for line := range strings.Lines(out) {
		if strings.Contains(line, "elements") || strings.Contains(line, " . ") && strings.Contains(line, " : ") && !strings.Contains(line, "type") {
			all.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	return all.String()
}
