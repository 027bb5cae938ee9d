package container

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-run/mayfly"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// busyboxRoot makes an image layer with busybox in it.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "run"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v; apt-get install busybox-static", err)
	}
	if err := os.WriteFile(root+"/bin/busybox", data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"sh", "cat", "echo", "sleep", "true", "id", "kill", "nc", "mount"} {
		if err := os.Symlink("busybox", root+"/bin/"+a); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(root+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"), 0o644)
	os.WriteFile(root+"/etc/group", []byte("root:x:0:\nann:x:1000:\nvideo:x:44:ann\n"), 0o644)
	return root
}

func buildInit(t testing.TB) []byte {
	t.Helper()
	if built := os.Getenv("MAYFLY_INIT"); built != "" { // where there is no Go: e2e/vm
		data, err := os.ReadFile(built)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	out := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -E main.entry", "-o", out, "github.com/mayfly-run/mayfly/cmd/mayfly-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, b)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newHost(t testing.TB) (*Host, Config) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	init, err := InstallInit(dir, buildInit(t))
	if err != nil {
		t.Fatal(err)
	}
	driver, err := NewOCI("runc", dir+"/runtime")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(dir+"/sandboxes", init, driver, Options{Cgroup: "/mayfly-test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { h.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return h, Config{Hostname: "box", Lower: []string{busyboxRoot(t)}}
}

// withEachDriver runs a test with a host of its own for each driver.
func withEachDriver(t *testing.T, test func(t *testing.T, h *Host, c Config)) {
	for name, driver := range map[string]func(*Host) (Driver, error){
		"native": func(h *Host) (Driver, error) { return NewNative(h.init, NativeOptions{}) },
		"crun":   func(h *Host) (Driver, error) { return NewOCI("crun", h.dir+".runtime") },
		"runc":   func(h *Host) (Driver, error) { return h.driver, nil },
	} {
		t.Run(name, func(t *testing.T) {
			h, c := newHost(t)
			var err error
			if h.driver, err = driver(h); err != nil {
				t.Fatal(err)
			}
			if n, ok := h.driver.(*Native); ok {
				defer n.Close()
			}
			test(t, h, c)
		})
	}
}

func TestSandboxRunsOneProgram(t *testing.T) {
	h, c := newHost(t)
	ctx := context.Background()
	s, err := h.Create(ctx, mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	r, w, _ := os.Pipe()
	ri, wi, _ := os.Pipe()
	p, err := s.Start(ctx, Program{Argv: []string{"sh", "-c", "cat; echo err >&2; exit 7"}, Stdin: ri, Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	ri.Close()
	wi.WriteString("hello")
	wi.Close()
	out, _ := io.ReadAll(r)
	if string(out) != "hello" {
		t.Errorf("stdout %q", out)
	}
	<-p.Done()
	if e := p.Exit(); e.Code != 7 || e.Reason != mayfly.ExitedNonZero {
		t.Errorf("exit %+v", e)
	}
	<-s.Ended()
	if e := s.Exit(); e.Code != 7 {
		t.Errorf("exit %+v", e)
	}
	var log bytes.Buffer
	err = ReadLog(ctx, s.dir, mayfly.LogOptions{Tail: -1}, nil, func(e mayfly.LogEntry) error {
		log.WriteString(e.Stream + ":" + string(e.Data))
		return nil
	})
	if err != nil || log.String() != "stderr:err\n" {
		t.Errorf("log %q %v", log.String(), err)
	}
	s.Remove()
}

// TestWaitingInitHoldsFewFiles counts what stands open in every waiting sandbox,
// whoever made it.
func TestWaitingInitHoldsFewFiles(t *testing.T) {
	withEachDriver(t, func(t *testing.T, h *Host, c Config) {
		s, err := h.Create(t.Context(), mayfly.NewID(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Remove()
		var pid int
		data, err := os.ReadFile(s.dir + "/" + pidName)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(data), &pid); err != nil {
			t.Fatal(err)
		}
		fds := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(fds)
		if err != nil {
			t.Fatal(err)
		}
		have := make(map[string]int)
		for _, e := range entries {
			to, err := os.Readlink(fds + "/" + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			to, _, _ = strings.Cut(strings.TrimPrefix(to, s.dir+"/"), ":[")
			have[to]++
		}
		want := map[string]int{
			"/dev/null": 3, logName0: 1, logName1: 1, exitsName: 1,
			"socket":     2, // to listen on, and the daemon's
			"anon_inode": 1, // signals
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("open files differ (-want +have):\n%s", d)
		}
	})
}

func TestProgramThatIsNotThere(t *testing.T) {
	h, c := newHost(t)
	s, err := h.Create(context.Background(), mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove()
	_, err = s.Start(context.Background(), Program{Argv: []string{"nothing-here"}})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Fatalf("got %v", err)
	}
}

func TestAttachMissesNothing(t *testing.T) {
	h, c := newHost(t)
	ctx := context.Background()
	s, err := h.Create(ctx, mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove()
	ready := make(chan struct{})
	var got bytes.Buffer
	result := make(chan error, 1)
	go func() {
		result <- s.Attach(ctx, func() { close(ready) }, func(e mayfly.LogEntry) error {
			got.Write(e.Data)
			return nil
		})
	}()
	<-ready
	const lines = 20000
	if _, err := s.Start(ctx, Program{Argv: []string{"sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"}}); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(got.Bytes(), []byte("\n")); n != lines {
		t.Errorf("%d lines of %d", n, lines)
	}
}

// hostPort returns a port of this machine that the kernel gives to nobody else until
// the test ends: a socket that does not listen has it, beside which another may
// listen, for both allow that (SO_REUSEADDR).
func hostPort(t *testing.T) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(t, unix.Bind(fd, &unix.SockaddrInet4{}))
	at, err := unix.Getsockname(fd)
	must(t, err)
	return uint16(at.(*unix.SockaddrInet4).Port)
}

func TestDialReachesAPortThatOpensLater(t *testing.T) {
	h, c := newHost(t)
	ctx := context.Background()
	port := hostPort(t) // the container is in the host's network
	s, err := h.Create(ctx, mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove()
	if _, err := s.Start(ctx, Program{Argv: []string{"sh", "-c", fmt.Sprintf("sleep 0.2; echo hi | nc -l -p %d", port)}}); err != nil {
		t.Fatal(err)
	}
	conn, err := s.Dial(ctx, port, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, _ := io.ReadAll(conn)
	if string(b) != "hi\n" {
		t.Errorf("read %q", b)
	}
}

func TestAdoptedContainerGoesOn(t *testing.T) {
	h, c := newHost(t)
	ctx := context.Background()
	s, err := h.Create(ctx, mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	r, w, _ := os.Pipe()
	if _, err := s.Start(ctx, Program{Argv: []string{"sh", "-c", "cat; exit 3"}, Stdin: r}); err != nil {
		t.Fatal(err)
	}
	r.Close()
	again, err := Open(h.dir, h.init, h.driver, Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := again.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if a.Main() == nil {
		t.Fatal("the main program is not known")
	}
	w.Close()
	<-a.Ended()
	if a.Exit().Code != 3 {
		t.Errorf("exit %+v", a.Exit())
	}
	<-s.Ended()
	late, err := again.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	<-late.Ended()
	if late.Exit().Code != 3 {
		t.Errorf("exit after the end %+v", late.Exit())
	}
	s.Remove()
}

func TestOutOfMemoryIsToldApart(t *testing.T) {
	h, c := newHost(t)
	c.Resources.Memory = 32 << 20
	for _, tt := range []struct {
		script string
		code   int
		reason mayfly.Reason
	}{
		{"x=a; while true; do x=$x$x; done", 137, mayfly.OutOfMemory},
		{"kill -9 $$", 137, mayfly.ExitedNonZero},
		{"exit 137", 137, mayfly.ExitedNonZero},
		{"exit 0", 0, mayfly.Succeeded},
	} {
		s, err := h.Create(t.Context(), mayfly.NewID(), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Start(t.Context(), Program{Argv: []string{"sh", "-c", tt.script}}); err != nil {
			t.Fatal(err)
		}
		<-s.Ended()
		if e := s.Exit(); e.Code != tt.code || e.Reason != tt.reason {
			t.Errorf("%s: %+v", tt.script, e)
		}
		s.Remove()
	}
}
