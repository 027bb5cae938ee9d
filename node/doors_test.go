package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/container/containertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// insideFunc answers programs in containers.
type insideFunc func(w http.ResponseWriter, r *http.Request, who mayfly.Identity)

func (f insideFunc) ServeInside(w http.ResponseWriter, r *http.Request, who mayfly.Identity) {
	f(w, r, who)
}

func native(init, _ string) (container.Driver, error) {
	return container.NewNative(init, container.NativeOptions{})
}

// bed is a host with doors that are served.
type bed struct {
	*containertest.Bed
	doors *doors
	stop  func()
}

func newBed(t testing.TB, inside insideFunc) *bed {
	t.Helper()
	return newBedAt(t, inside, nil)
}

func newBedAt(t testing.TB, inside insideFunc, times *doorTimes) *bed {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	b := &bed{Bed: containertest.NewBed(t, containertest.Build(t), native)}
	d, err := openDoors(inside, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.doors = d
	if times != nil {
		d.times = *times
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

func (b *bed) sandbox(t testing.TB, space string) *container.Sandbox {
	t.Helper()
	id := mayfly.NewID()
	c := b.Config
	me := self{ID: id, Node: "n", Space: space, Workload: "w", Release: 3}
	c.Files = map[string][]byte{selfName: fmt.Appendf(nil, `{"id":%q,"node":"n","space":%q,"workload":"w","release":3}`, id, space)}
	s, err := b.Host.Create(t.Context(), id, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.doors.shut(id)
		s.Remove()
	})
	if err := b.doors.open(s, me.identity()); err != nil {
		t.Fatal(err)
	}
	return s
}

// dialDoor connects as a program in the container would.
func dialDoor(t testing.TB, s *container.Sandbox) net.Conn {
	t.Helper()
	dir, err := os.Open(s.Dir() + "/run") // the path may be too long for a socket's
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), doorName))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func askDoor(t testing.TB, conn net.Conn, path string) string {
	t.Helper()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func sayWho(w http.ResponseWriter, _ *http.Request, who mayfly.Identity) { fmt.Fprintf(w, "%+v", who) }

func TestDoorIsTheIdentity(t *testing.T) {
	b := newBed(t, sayWho)
	one, two := b.sandbox(t, "one"), b.sandbox(t, "two")
	if st, err := os.Stat(filepath.Join(one.Dir(), "run", doorName)); err != nil || st.Mode().Perm() != 0o666 {
		t.Fatalf("%v, %v", st.Mode(), err)
	}
	for _, c := range []struct {
		s     *container.Sandbox
		space string
	}{{one, "one"}, {two, "two"}} {
		conn := dialDoor(t, c.s)
		want := mayfly.Identity{Node: "n", Space: c.space, Instance: c.s.ID, Workload: "w", Release: 3}
		if got := askDoor(t, conn, "/"); got != fmt.Sprintf("%+v", want) {
			t.Errorf("got %s", got)
		}
		if err := c.s.SetRun(container.Run{ID: "r", Attempt: 2, Deadline: 9, Task: true}); err != nil {
			t.Fatal(err)
		}
		want.Run, want.Attempt, want.Deadline, want.Task = "r", 2, 9, true
		if got := askDoor(t, conn, "/"); got != fmt.Sprintf("%+v", want) {
			t.Errorf("got %s", got)
		}
		c.s.EndRun()
		want.Run, want.Attempt, want.Deadline, want.Task = "", 0, 0, false
		if got := askDoor(t, conn, "/"); got != fmt.Sprintf("%+v", want) {
			t.Errorf("got %s", got)
		}
		conn.Close()
	}
}

// What a container held open ends with it, and nobody answers there any more.
func TestDoorEndsWithItsSandbox(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	b := newBed(t, func(_ http.ResponseWriter, r *http.Request, _ mayfly.Identity) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	s := b.sandbox(t, "one")
	idle, busy := dialDoor(t, s), dialDoor(t, s)
	defer idle.Close()
	defer busy.Close()
	fmt.Fprint(busy, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-began
	b.doors.shut(s.ID, s.ID, "another")
	<-ended
	for _, conn := range []net.Conn{idle, busy} {
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("read %d bytes", n)
		}
	}
	if _, err := net.Dial("unix", filepath.Join(s.Dir(), "run", doorName)); err == nil {
		t.Error("somebody listens")
	}
	s.Remove()
	<-s.Ended()
	if err := b.doors.open(s, mayfly.Identity{}); err == nil && len(b.doors.ids) > 0 {
		t.Error("a sandbox that has ended has a door")
	}
}

// A thousand connections of one container: some are answered, the others wait,
// and another container does not notice.
func TestDoorTakesTurns(t *testing.T) {
	b := newBedAt(t, sayWho, &doorTimes{head: time.Hour, idle: time.Hour, write: time.Hour})
	greedy, modest := b.sandbox(t, "greedy"), b.sandbox(t, "modest")
	var all []net.Conn
	for range 1000 {
		all = append(all, dialDoor(t, greedy))
	}
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range 100 {
		conn := dialDoor(t, modest)
		if got := askDoor(t, conn, "/"); !strings.Contains(got, "modest") {
			t.Fatalf("got %s", got)
		}
		conn.Close()
	}
	b.doors.mu.Lock()
	o := b.doors.ids[greedy.ID]
	b.doors.mu.Unlock()
	o.mu.Lock()
	if len(o.conns) > doorConns {
		t.Errorf("%d connections of one container", len(o.conns))
	}
	o.mu.Unlock()
	for len(all) > 0 { // each gets its turn when those before have left
		if got := askDoor(t, all[0], "/"); !strings.Contains(got, "greedy") {
			t.Fatalf("got %s", got)
		}
		all[0].Close()
		all = all[1:]
	}
}

func TestDoorHeads(t *testing.T) {
	b := newBed(t, sayWho)
	s := b.sandbox(t, "one")
	conn := dialDoor(t, s)
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-A: %s\r\n\r\n", strings.Repeat("a", 64<<10))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", resp.StatusCode)
	}
}

// Nobody waits for a program that begins and does not go on: with a request's
// head, with nothing at all, with the next request.
func TestDoorIsNotHeldOpen(t *testing.T) {
	b := newBedAt(t, func(http.ResponseWriter, *http.Request, mayfly.Identity) {},
		&doorTimes{head: 20 * time.Millisecond, idle: 20 * time.Millisecond, write: 20 * time.Millisecond})
	s := b.sandbox(t, "one")
	for _, begun := range []string{"", "G", "GET / HTTP/1.1\r\nHost: x\r\nX-A: ", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
		conn := dialDoor(t, s)
		io.WriteString(conn, begun)
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, unix.ECONNRESET) { // it ends, read or not
			t.Errorf("%q: %v", begun, err)
		}
		conn.Close()
	}
}

// Nor with taking its answer.
func TestDoorAnswersWhoReads(t *testing.T) {
	left := make(chan error, 1)
	b := newBedAt(t, func(w http.ResponseWriter, _ *http.Request, _ mayfly.Identity) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				left <- err
				return
			}
		}
	}, &doorTimes{head: time.Hour, idle: time.Hour, write: 20 * time.Millisecond})
	s := b.sandbox(t, "one")
	conn := dialDoor(t, s)
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := <-left; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// The end of the daemon's work ends what is being answered.
func TestDoorsEnd(t *testing.T) {
	began := make(chan struct{})
	b := newBed(t, func(w http.ResponseWriter, r *http.Request, _ mayfly.Identity) {
		close(began)
		<-r.Context().Done()
		fmt.Fprint(w, context.Cause(r.Context()))
	})
	s := b.sandbox(t, "one")
	idle, busy := dialDoor(t, s), dialDoor(t, s)
	defer idle.Close()
	defer busy.Close()
	answer := make(chan string, 1)
	go func() { answer <- askDoor(t, busy, "/") }()
	<-began
	b.stop()
	if got := <-answer; !strings.Contains(got, "shutting down") {
		t.Errorf("got %q", got)
	}
	if err := b.doors.open(s, mayfly.Identity{}); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("got %v", err)
	}
}

// A later daemon listens where the one before did.
func TestDoorIsReopened(t *testing.T) {
	b := newBed(t, sayWho)
	s := b.sandbox(t, "one")
	if err := s.SetRun(container.Run{ID: "r", Attempt: 2, Task: true}); err != nil {
		t.Fatal(err)
	}
	b.stop()
	next, err := openDoors(insideFunc(sayWho), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := next.reopen(s); err != nil {
		t.Fatal(err)
	}
	conn := dialDoor(t, s) // before anybody answers
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- next.run(ctx) }()
	want := mayfly.Identity{Node: "n", Space: "one", Instance: s.ID, Workload: "w", Release: 3, Run: "r", Attempt: 2, Task: true}
	if got := askDoor(t, conn, "/"); got != fmt.Sprintf("%+v", want) {
		t.Errorf("got %s", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What a socket costs a sandbox that never asks anything.
func BenchmarkDoor(b *testing.B) {
	bed := newBed(b, sayWho)
	s := bed.sandbox(b, "one")
	bed.doors.shut(s.ID)
	path := filepath.Join(s.Dir(), "run", doorName)
	os.Remove(path)
	b.ReportAllocs()
	before := used(b)
	defer func() { b.ReportMetric(float64(used(b)-before)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		if err := bed.doors.open(s, mayfly.Identity{}); err != nil {
			b.Fatal(err)
		}
		bed.doors.shut(s.ID)
		os.Remove(path)
	}
}

// used is the processor time that this process has taken.
func used(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
