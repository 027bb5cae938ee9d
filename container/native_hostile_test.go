package container

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly/container/setup"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestNativeStaysBeneathRoot gives images whose links lead elsewhere. OUTSIDE
// stands for a directory of the host, in which nothing may change.
func TestNativeStaysBeneathRoot(t *testing.T) {
	b := newBuilder(t)
	n := b.native(t)
	source := t.TempDir()
	if err := os.WriteFile(source+"/file", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		links  map[string]string // path in the image: what it links to
		change func(s *specs.Spec)
		script string
		want   string // output; or the end of the error
		fails  bool
	}{
		{
			name:  "proc is a link",
			links: map[string]string{"proc": "OUTSIDE"},
			fails: true, want: "too many levels of symbolic links",
		},
		{
			name:   "mount through an absolute link",
			links:  map[string]string{"data": "OUTSIDE"},
			change: func(s *specs.Spec) { s.Mounts = append(s.Mounts, bind(source, "/data/x")) },
			script: "[ -d OUTSIDE/x ] && echo inside >&3", want: "inside\n",
		},
		{
			name:   "mount through a relative link",
			links:  map[string]string{"data": "../../../../../../../../OUTSIDE"},
			change: func(s *specs.Spec) { s.Mounts = append(s.Mounts, bind(source, "/data/x")) },
			script: "[ -d OUTSIDE/x ] && echo inside >&3", want: "inside\n",
		},
		{
			name:   "file through a dangling link",
			links:  map[string]string{"data": "/a/b", "a": "c/d", "f": "../../../OUTSIDE/f"},
			change: func(s *specs.Spec) { s.Mounts = append(s.Mounts, bind(source, "/data/x"), bind(source+"/file", "/f")) },
			script: "[ -d /c/d/b/x ] && [ -s OUTSIDE/f ] && echo inside >&3", want: "inside\n",
		},
		{
			name:   "links without end",
			links:  map[string]string{"data": "/data2/x", "data2": "/data/x"},
			change: func(s *specs.Spec) { s.Mounts = append(s.Mounts, bind(source, "/data/x")) },
			fails:  true, want: "too many levels of symbolic links",
		},
		{
			name:   "mount over procfs by a link",
			links:  map[string]string{"data": "/proc/sys"},
			change: func(s *specs.Spec) { s.Mounts = append(s.Mounts, bind(source, "/data")) },
			fails:  true, want: "bind " + source + " on /data: operation not permitted",
		},
		{
			name:   "mount inside procfs",
			change: func(s *specs.Spec) { s.Mounts = append(s.Mounts, bind(source, "/proc/sys")) },
			fails:  true, want: `"/proc/sys" cannot be mounted on: it is inside /proc`,
		},
		{
			name:   "working directory by a descriptor",
			change: func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/3" },
			fails:  true, want: "too many levels of symbolic links",
		},
		{
			name:   "working directory by a link to a descriptor",
			links:  map[string]string{"wd": "/proc/self/cwd"},
			change: func(s *specs.Spec) { s.Process.Cwd = "/wd" },
			fails:  true, want: "too many levels of symbolic links",
		},
		{
			name:   "working directory outside",
			links:  map[string]string{"wd": "OUTSIDE/new"},
			change: func(s *specs.Spec) { s.Process.Cwd = "/wd" },
			script: "pwd >&3; [ -d OUTSIDE/new ] && echo inside >&3", want: "OUTSIDE/new\ninside\n",
		},
		{
			name:  "dev is a link",
			links: map[string]string{"dev": "OUTSIDE/dev"},
			change: func(s *specs.Spec) {
				s.Mounts = s.Mounts[:1] // proc
			},
			script: "[ -c OUTSIDE/dev/null ] && echo inside >&3", want: "inside\n",
		},
		{
			name:   "passwd is a link to nowhere",
			links:  map[string]string{"etc": "OUTSIDE"},
			change: func(s *specs.Spec) { s.Process.Env = nil; s.Mounts = s.Mounts[:7] },
			script: "echo $HOME >&3", want: "/\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			outside, layer := t.TempDir(), t.TempDir()
			here := func(s string) string { return strings.ReplaceAll(s, "OUTSIDE", outside) }
			for from, to := range c.links {
				if err := os.Symlink(here(to), layer+"/"+from); err != nil {
					t.Fatal(err)
				}
			}
			bundle := b.bundle(t, &Config{Hostname: "box"}, here(c.script))
			bundle.Rootfs.Lower = append([]string{layer}, b.lower...)
			if c.change != nil {
				c.change(bundle.Spec)
			}
			if c.fails {
				if err := failure(t, n, bundle); !strings.HasSuffix(err.Error(), c.want) {
					t.Errorf("error %q, want %q", err, c.want)
				}
			} else if out, status := output(t, n, bundle); out != here(c.want) {
				t.Errorf("output %q, want %q, status %#x", out, here(c.want), status)
			}
			if left, _ := os.ReadDir(outside); len(left) != 0 {
				t.Errorf("%s was made on the host", left[0].Name())
			}
		})
	}
}

// failure is the error of a Create, which must leave nothing.
func failure(t *testing.T, n *Native, b *Bundle) error {
	t.Helper()
	child, err := n.Create(context.Background(), b)
	if err == nil {
		status, _ := child.Wait()
		n.Delete(context.Background(), b.ID, b.Dir)
		t.Fatalf("created, and ended with %#x", status)
	}
	if _, err := n.cgroups.Open(b.Spec.Linux.CgroupsPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup was left: %v", err)
	}
	if err := n.Delete(context.Background(), b.ID, b.Dir); err != nil {
		t.Errorf("delete again: %v", err)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid != 0 || err != nil { // there is but the server
		t.Errorf("a child was left: %d, %v", pid, err)
	}
	return err
}

func TestNativeSaysWhatFailed(t *testing.T) {
	b := newBuilder(t)
	n := b.native(t)
	for want, change := range map[string]func(*Bundle){
		"execute /no/such: no such file or directory":    func(b *Bundle) { b.Spec.Process.Args = []string{"/no/such"} },
		"execute nosuch: no such file or directory":      func(b *Bundle) { b.Spec.Process.Args = []string{"nosuch"} },
		"execute /etc/passwd: permission denied":         func(b *Bundle) { b.Spec.Process.Args = []string{"/etc/passwd"} },
		"bind /no/such on /x: no such file or directory": func(b *Bundle) { b.Spec.Mounts = append(b.Spec.Mounts, bind("/no/such", "/x")) },
		"no such device":            func(b *Bundle) { b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/x", Type: "nofs"}) },
		"no such file or directory": func(b *Bundle) { b.Rootfs.Lower = []string{"/no/such"} },
		"bad namespaces; use the runc or the crun driver": func(b *Bundle) {
			b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "bad"})
		},
		"hooks; use the runc or the crun driver":                             func(b *Bundle) { b.Spec.Hooks = &specs.Hooks{} },
		`environment entry "A" is not NAME=VALUE`:                            func(b *Bundle) { b.Spec.Process.Env = []string{"A"} },
		"a string holds a NUL byte":                                          func(b *Bundle) { b.Spec.Process.Args = []string{"/bin/sh", "a\x00b"} },
		`sysctl "kernel.panic" is not of a namespace of the container's own`: func(b *Bundle) { b.Spec.Linux.Sysctl = map[string]string{"kernel.panic": "1"} },
		`sysctl "net.ipv4.ip_forward" is not of a namespace of the container's own`: func(b *Bundle) {
			b.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		},
	} {
		t.Run(want, func(t *testing.T) {
			bundle := b.bundle(t, &Config{Hostname: "box"}, "")
			change(bundle)
			if err := failure(t, n, bundle); !strings.HasSuffix(err.Error(), want) {
				t.Errorf("error %q", err)
			}
		})
	}
}

func TestNativeInParallel(t *testing.T) {
	b := newBuilder(t)
	n := b.native(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 5 {
				bundle := b.bundle(t, &Config{Hostname: "box"}, "echo $$ >&3; exit 3")
				if out, status := output(t, n, bundle); out != "1\n" || status>>8 != 3 {
					t.Errorf("output %q, status %#x", out, status)
				}
			}
		})
	}
	wg.Wait()
}

func TestNativeCancelled(t *testing.T) {
	b := newBuilder(t)
	n := b.native(t)
	bundle := b.bundle(t, &Config{Hostname: "box"}, "")
	ctx, cancel := context.WithCancel(context.Background())
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := n.translate(bundle)
	if err != nil {
		t.Fatal(err)
	}
	tr.program.Write(fifo, "x", false) // blocks for want of a reader
	done := make(chan error)
	go func() {
		_, err := n.start(ctx, bundle, tr, -1)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestNativeOutlivesItsServer kills the server and makes another container.
func TestNativeOutlivesItsServer(t *testing.T) {
	b := newBuilder(t)
	n := b.native(t)
	pidfd, err := unix.PidfdOpen(n.server.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	unix.Kill(n.server.pid, unix.SIGKILL)
	unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
	if out, _ := output(t, n, b.bundle(t, &Config{Hostname: "box"}, "echo well >&3")); out != "well\n" {
		t.Errorf("output %q", out)
	}
}

// TestNativeDaemonKilled kills a daemon, which is this program again, while its
// stage is at work. The stage must not go on to execute its program.
func TestNativeDaemonKilled(t *testing.T) {
	if init := os.Getenv("MAYFLY_TEST_INIT"); init != "" {
		doomedDaemon(t, init)
		return
	}
	b := newBuilder(t)
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNativeDaemonKilled$")
	cmd.Env = append(os.Environ(), "MAYFLY_TEST_INIT="+b.init, "MAYFLY_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "forked\n" {
		t.Fatalf("the daemon says %q, %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	// The stage waits for a reader of the pipe. Its end closes the pipe.
	f, err := os.Open(dir + "/fifo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); err != nil || string(data) != "x" {
		t.Errorf("the stage wrote %q, %v", data, err)
	}
	lock, err := os.OpenFile(dir+"/alive", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // free when the stage has ended
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/executed"); err == nil {
		t.Error("the stage outlived its daemon")
	}
}

// doomedDaemon has a stage forked that stops in the middle of its work.
func doomedDaemon(t *testing.T, init string) {
	dir := os.Getenv("MAYFLY_TEST_DIR")
	s, err := startServer(init)
	if err != nil {
		t.Fatal(err)
	}
	var p setup.Program
	p.Write(dir+"/fifo", "x", false)
	p.Exec([]string{"/bin/busybox"}, []string{"touch", dir + "/executed"}, nil)
	program, err := memfile(p.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	alive, err := os.Create(dir + "/alive")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(alive.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	status, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fds := []int{int(alive.Fd()), program, int(w.Fd())}
	if err := s.fork(setup.Request{Size: uint32(len(p.Bytes())), Files: 1}, fds); err != nil {
		t.Fatal(err)
	}
	if _, _, err := newNativeChild(status); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("forked\n")
	time.Sleep(time.Hour) // the runtime takes an empty select for a deadlock
}
