// Package containertest holds every container.Driver to the same behaviour.
//
// Run is the conformance suite: what a container.Host promises, tried with the
// driver on the real kernel. Compare is the probe: a program looks around in a
// container of each of two drivers and must see the same. Escape is a suite of
// known ways out of a container, none of which may lead anywhere.
//
// The tests need root, Debian's busybox-static, and Go to build two programs,
// unless the environment names them built: MAYFLY_INIT is mayfly-init,
// MAYFLY_INSIDE is the program in the directory inside.
package containertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/container/cgroup"
)

// Programs are paths of the static programs that the suites need.
type Programs struct {
	Init   string // mayfly-init
	Inside string // what runs in the containers
}

// Build builds the programs, or takes those that the environment names.
func Build(t testing.TB) Programs {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const module = "github.com/mayfly-run/mayfly/"
	dir := t.TempDir()
	return Programs{
		Init:   build(t, "MAYFLY_INIT", dir+"/mayfly-init", module+"cmd/mayfly-init", "-E main.entry"),
		Inside: build(t, "MAYFLY_INSIDE", dir+"/inside", module+"container/containertest/inside"),
	}
}

func build(t testing.TB, env, out, pkg string, link ...string) string {
	t.Helper()
	if built := os.Getenv(env); built != "" {
		return built
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", strings.Join(append(link, "-s -w"), " "), "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, said)
	}
	return out
}

// Maker makes the driver under test. Init is mayfly-init's path, dir is for
// the driver's own files. A driver that has a Close method is closed.
type Maker func(init, dir string) (container.Driver, error)

// Bed is a host with nothing on it but what a test puts there.
type Bed struct {
	Host   *container.Host
	Driver container.Driver
	Config container.Config // of a container with busybox and the program inside

	dir    string
	init   string
	cgroup string
	groups *cgroup.Host
	stop   func()
}

// NewBed returns a host that uses the driver. When the test ends, nothing of
// what it made may be left.
func NewBed(t testing.TB, p Programs, maker Maker) *Bed {
	t.Helper()
	data, err := os.ReadFile(p.Init)
	if err != nil {
		t.Fatal(err)
	}
	b := &Bed{dir: t.TempDir()}
	if b.init, err = container.InstallInit(b.dir, data); err != nil {
		t.Fatal(err)
	}
	if b.Driver, err = maker(b.init, b.dir); err != nil {
		t.Fatal(err)
	}
	if b.groups, err = cgroup.Detect(); err != nil {
		t.Fatal(err)
	}
	b.cgroup = "/mayfly-test-" + strconv.Itoa(os.Getpid()) + "-" + mayfly.NewID()
	b.Config = container.Config{Hostname: "box", Lower: []string{b.image(t, p)}, Volatile: true}
	b.Host = b.open(t)
	b.stop = b.run(b.Host)
	t.Cleanup(func() { b.close(t) })
	return b
}

// open opens one more host on the same directory, as a daemon does that was
// started again.
func (b *Bed) open(t testing.TB) *container.Host {
	t.Helper()
	h, err := container.Open(b.dir+"/sandboxes", b.init, b.Driver, container.Options{Cgroup: b.cgroup})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// run runs a host until the function that it returns is called.
func (b *Bed) run(h *container.Host) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { h.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func (b *Bed) close(t testing.TB) {
	b.stop()
	for _, what := range b.left(t) {
		t.Errorf("left over: %s", what)
	}
	if c, ok := b.Driver.(io.Closer); ok {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	g, err := b.groups.Open(b.cgroup)
	if err == nil {
		err = errors.Join(g.Remove(), g.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// left lists what there still is of the bed's sandboxes: directories, mounts,
// cgroups and processes.
func (b *Bed) left(t testing.TB) (all []string) {
	t.Helper()
	ids, err := b.Host.Left()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		all = append(all, "the directory of sandbox "+id)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, b.dir) {
			all = append(all, "the mount "+line)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, _ := filepath.Glob(pattern + b.cgroup + "/*/cgroup.procs")
		for _, d := range dirs {
			procs, _ := os.ReadFile(d)
			all = append(all, "the cgroup "+d+" with processes "+strings.Join(strings.Fields(string(procs)), ","))
		}
	}
	return all
}

// image makes a layer with busybox and the program inside.
func (b *Bed) image(t testing.TB, p Programs) string {
	t.Helper()
	root := b.dir + "/image"
	for _, d := range []string{"", "/bin", "/etc", "/tmp", "/proc", "/sys", "/dev", "/run", "/root"} {
		if err := os.Mkdir(root+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root+"/tmp", os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "/bin/busybox", root+"/bin/busybox", 0o755)
	copyFile(t, p.Inside, root+"/inside", 0o755)
	for _, a := range []string{"sh", "cat", "echo", "sleep", "true", "id", "kill", "nc", "grep", "ls", "mount", "stat", "dd", "env", "hostname", "pwd", "touch", "mkdir", "seq"} {
		if err := os.Symlink("busybox", root+"/bin/"+a); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
		"/etc/group":  "root:x:0:\nann:x:1000:\nvideo:x:44:ann\n",
		"/plain":      "this is no program\n",
	} {
		if err := os.WriteFile(root+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func copyFile(t testing.TB, from, to string, mode fs.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a sandbox that is removed when the test ends.
func (b *Bed) create(t testing.TB, c container.Config) *container.Sandbox {
	t.Helper()
	s, err := b.Host.Create(t.Context(), mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Remove)
	return s
}

// result is what came of a program.
type result struct {
	out, err string
	exit     mayfly.Exit
}

// execute runs a program as the main one of a new sandbox, to its end.
func (b *Bed) execute(t testing.TB, c container.Config, argv ...string) result {
	t.Helper()
	s := b.create(t, c)
	r := start(t, s, argv...)
	out, err := r.output()
	if err != nil {
		t.Fatal(err)
	}
	<-s.Ended()
	out.exit = s.Exit()
	s.Remove()
	return out
}

// shell runs a script in a new sandbox.
func (b *Bed) shell(t testing.TB, c container.Config, script string) result {
	t.Helper()
	return b.execute(t, c, "sh", "-c", script)
}

// running is a main program with our ends of its standard streams.
type running struct {
	*container.Process
	in, out, err *os.File
}

// start runs the main program of a sandbox.
func start(t testing.TB, s *container.Sandbox, argv ...string) *running {
	t.Helper()
	var ours, theirs [3]*os.File
	for i := range ours {
		var err error
		if ours[i], theirs[i], err = s.Pipe(i == 0); err != nil {
			t.Fatal(err)
		}
		defer theirs[i].Close()
		t.Cleanup(func() { ours[i].Close() })
	}
	p, err := s.Start(t.Context(), container.Program{Argv: argv, Stdin: theirs[0], Stdout: theirs[1], Stderr: theirs[2]})
	if err != nil {
		t.Fatalf("start %q: %v", argv, err)
	}
	return &running{p, ours[0], ours[1], ours[2]}
}

// output gives the program no more input and reads what it wrote.
func (r *running) output() (result, error) {
	r.in.Close()
	var out, errs bytes.Buffer
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(&errs, r.err)
		done <- err
	}()
	_, err := io.Copy(&out, r.out)
	err = errors.Join(err, <-done)
	return result{out: out.String(), err: errs.String()}, err
}

// pid is the number of a sandbox's init, as its directory has it.
func pid(t testing.TB, s *container.Sandbox) int {
	t.Helper()
	data, err := os.ReadFile(s.Dir() + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), " ")
	n, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
