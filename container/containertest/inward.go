package containertest

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly/container"
)

// greet answers the next connection to a socket of Listen's with a word.
func greet(t *testing.T, fd int, word string) {
	t.Helper()
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	go func() {
		defer l.Close()
		if conn, err := l.Accept(); err == nil {
			conn.Write([]byte(word))
			conn.Close()
		}
	}()
}

// sockets: whoever is in the container reaches a socket of the daemon's, and
// after a restart the one that took its place.
func sockets(t *testing.T, b *Bed) {
	c := b.Config
	c.NetNS = netNS(t)
	c.User = container.User{UID: 1000, GID: 1000}
	s := b.create(t, c)
	fd, err := s.Listen("api.sock")
	if err != nil {
		t.Fatal(err)
	}
	greet(t, fd, "hello")
	r := start(t, s, "sh", "-c", "/inside knock /run/mayfly/api.sock; rm /run/mayfly/api.sock 2>/dev/null && echo removed it; cat; /inside knock /run/mayfly/api.sock")
	line := make([]byte, 6)
	if _, err := r.out.Read(line); err != nil || string(line) != "hello\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := s.SetRun(container.Run{ID: "r", Attempt: 2, Space: "here", Task: true}); err != nil {
		t.Fatal(err)
	}
	next := b.open(t)
	stop := b.run(next)
	defer stop()
	a, err := next.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if run := a.Run(); run == nil || run.ID != "r" || run.Attempt != 2 || run.Space != "here" || !run.Task {
		t.Errorf("what it serves is remembered as %+v", run)
	}
	if a.EndRun(); a.Run() != nil {
		t.Error("it serves what has ended")
	}
	if fd, err = a.Listen("api.sock"); err != nil {
		t.Fatal(err)
	}
	greet(t, fd, "again")
	if out, err := r.output(); err != nil || strings.TrimSpace(out.out) != "again" {
		t.Errorf("%+v, %v", out, err)
	}
	<-a.Ended()
	a.Remove()
}
