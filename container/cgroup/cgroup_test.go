package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the processes that groups hold: it says
// "ready", waits for a line, does what CGROUP_TEST_DO says, and waits again.
func TestMain(m *testing.M) {
	do := os.Getenv("CGROUP_TEST_DO")
	if do == "" {
		os.Exit(m.Run())
	}
	in := bufio.NewReader(os.Stdin)
	for {
		fmt.Println("ready")
		if _, err := in.ReadString('\n'); err != nil {
			os.Exit(0)
		}
		switch verb, argument, _ := strings.Cut(do, " "); verb {
		case "hog":
			hog := make([]byte, 128<<20)
			for i := 0; i < len(hog); i += 4096 {
				hog[i] = 1
			}
			runtime.KeepAlive(hog)
		case "open":
			f, err := os.Open(argument)
			if err == nil {
				f.Close()
			}
			fmt.Println(errors.Unwrap(err))
		case "parent":
			h, err := Detect()
			if err == nil {
				err = h.Parent(argument)
			}
			fmt.Println(err)
		case "fork":
			for range 5 {
				exec.Command("/proc/self/exe").Start() // inherits CGROUP_TEST_DO and ends at the end of its stdin
			}
		}
	}
}

type child struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a process in the group and returns when it waits.
func start(t testing.TB, g *Group, do string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command("/proc/self/exe")}
	c.Env = append(os.Environ(), "CGROUP_TEST_DO="+do, "GOMAXPROCS=1")
	if g.FD() >= 0 {
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD()}
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, c.out = in, bufio.NewReader(out); c.Start() != nil {
		t.Fatal(c.Err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	if c.line(); g.host.Mode != V2 {
		if err := g.Add(c.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *child) line() string {
	text, _ := c.out.ReadString('\n')
	return strings.TrimSpace(text)
}

// run lets the process do its deed and returns what it says.
func (c *child) run() string {
	fmt.Fprintln(c.in)
	return c.line()
}

// host returns this machine's control groups and a parent for the test's own.
func host(t testing.TB) (*Host, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/mayfly-test-%d-%s", os.Getpid(), strings.ToLower(strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' || r == '#' {
			return '-'
		}
		return r
	}, t.Name())))
	if err := h.Parent(parent); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g, err := h.Open(parent)
		if err == nil {
			err = errors.Join(g.Kill(), g.Remove())
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range g.all() {
			if exists(dir) {
				t.Errorf("%s is left over", dir)
			}
		}
	})
	return h, parent
}

func limits() *specs.LinuxResources {
	memory, quota, period, pids, shares := int64(64<<20), int64(50_000), uint64(100_000), int64(40), uint64(512)
	return &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Memory:  &specs.LinuxMemory{Limit: &memory, Swap: &memory},
		CPU:     &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares, Cpus: "0"},
		Pids:    &specs.LinuxPids{Limit: &pids},
	}
}

func makeGroup(t testing.TB, r *specs.LinuxResources) *Group {
	t.Helper()
	h, parent := host(t)
	g, err := h.Make(parent+"/one", r)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestLimitsAreWritten compares the kernel's files with what was asked for.
func TestLimitsAreWritten(t *testing.T) {
	g := makeGroup(t, limits())
	t.Logf("mode %s", g.host.Mode)
	want := map[string]string{
		"memory/memory.limit_in_bytes": "67108864", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
		"cpu/cpu.shares": "512", "cpuset/cpuset.cpus": "0", "pids/pids.max": "40",
	}
	if g.host.Mode == V2 {
		want = map[string]string{"/memory.max": "67108864", "/cpu.max": "50000 100000", "/cpu.weight": fmt.Sprint(weight(512)), "/cpuset.cpus": "0", "/pids.max": "40"}
	}
	for name, value := range want {
		controller, file, _ := strings.Cut(name, "/")
		dir := g.v2
		if controller != "" {
			dir = g.dir(controller)
		}
		if got, err := read(dir, file); err != nil || got != value {
			t.Errorf("%s is %q, %v; want %q", file, got, err, value)
		}
	}
	for file, dir := range map[string]string{"memory.memsw.limit_in_bytes": g.dir("memory"), "memory.swap.max": g.v2} {
		got, err := read(dir, file)
		if want := map[bool]string{true: "67108864", false: "0"}[file[7] == 'm']; err == nil && got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if dir := g.dir("devices"); dir != "" {
		list, _ := read(dir, "devices.list")
		got := strings.Split(list, "\n")
		slices.Sort(got)
		want := []string{"b *:* m", "c *:* m", "c 10:200 rwm", "c 136:* rwm", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm"}
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("devices.list is %q", got)
		}
	}
}

func TestStatsAndOOM(t *testing.T) {
	g := makeGroup(t, limits())
	c := start(t, g, "hog")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Pids < 1 || s.MemoryLimit != 64<<20 {
		t.Errorf("before: %+v", s)
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Errorf("before: %d OOM kills, %v", n, err)
	}
	c.run() // dies for want of memory
	if err := c.Wait(); err == nil {
		t.Error("128 MiB fit into 64 MiB")
	}
	if n, err := g.OOMKills(); n < 1 || err != nil {
		t.Errorf("after: %d OOM kills, %v", n, err)
	}
	if s, err = g.Stats(); err != nil || s.CPU == 0 || s.MemoryPeak == 0 && g.host.Mode != V2 {
		t.Errorf("after: %+v, %v", s, err)
	}
}

func TestSetMemory(t *testing.T) {
	g := makeGroup(t, limits())
	for _, bytes := range []int64{128 << 20, 32 << 20, 2 << 30} {
		if err := g.SetMemory(bytes); err != nil {
			t.Fatal(err)
		}
		if s, err := g.Stats(); err != nil || s.MemoryLimit != bytes {
			t.Fatalf("limit %d, %v; want %d", s.MemoryLimit, err, bytes)
		}
	}
	if err := start(t, g, "hog").run(); err != "ready" {
		t.Errorf("128 MiB do not fit into 2 GiB: %q", err)
	}
	if err := g.SetMemory(0); err == nil {
		t.Error("no memory at all: no error")
	}
}

func TestDevices(t *testing.T) {
	node := func(t *testing.T, name string, major, minor uint32) string {
		path := filepath.Join(t.TempDir(), name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name         string
		major, minor uint32
		rules        []specs.LinuxDeviceCgroup
		allowed      bool
	}{
		{"null", 1, 3, nil, true},
		{"urandom", 1, 9, nil, true},
		{"kmsg", 1, 11, nil, false},
		{"kmsg allowed", 1, 11, []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: ptr(1), Minor: ptr(11), Access: "r"}}, true},
		{"kmsg for writing only", 1, 11, []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: ptr(1), Minor: ptr(11), Access: "w"}}, false},
		{"kmsg denied again", 1, 11, []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: ptr(1), Access: "rwm"}, {Allow: false, Access: "rwm"}}, false},
		{"all but kmsg", 1, 11, []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Allow: false, Type: "c", Major: ptr(1), Minor: ptr(11), Access: "r"}}, false},
		{"all but another", 1, 11, []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Allow: false, Type: "c", Major: ptr(1), Minor: ptr(1), Access: "r"}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := map[bool]string{true: "<nil>", false: unix.EPERM.Error()}[test.allowed]
			deed := "open " + node(t, "device", test.major, test.minor)
			g := makeGroup(t, &specs.LinuxResources{Devices: test.rules})
			if got := start(t, g, deed).run(); got != want {
				t.Errorf("open says %q, want %q", got, want)
			}
			if g.host.Mode != Hybrid {
				return
			}
			// v2's program works on the unified tree of a hybrid host too
			open, err := g.host.Make(g.Path+"-open", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}})
			if err != nil {
				t.Fatal(err)
			}
			list, err := newDeviceList(test.rules)
			if err == nil {
				err = g.host.programs.attach(list, open.FD())
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := start(t, open, deed).run(); got != want {
				t.Errorf("under v2's program open says %q, want %q", got, want)
			}
		})
	}
}

func ptr(n int64) *int64 { return &n }

func TestFreezeKillRemove(t *testing.T) {
	g := makeGroup(t, nil)
	c := start(t, g, "fork")
	if got := c.run(); got != "ready" {
		t.Fatalf("the child says %q", got)
	}
	pids, err := g.Pids()
	if err != nil || !slices.Contains(pids, c.Process.Pid) {
		t.Fatalf("processes %v, %v; want %d among them", pids, err, c.Process.Pid)
	}
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	if got := c.run(); got != "ready" {
		t.Fatalf("the thawed child says %q", got)
	}
	if err := g.Freeze(); err != nil { // Kill works on frozen groups too
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if g.host.Mode == V2 {
		g.Thaw()
	}
	c.Wait()
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(); len(pids) != 0 || err != nil {
		t.Errorf("processes of a removed group: %v, %v", pids, err)
	}
	if err := g.Kill(); err != nil {
		t.Errorf("kill a removed group: %v", err)
	}
	if err := g.Remove(); err != nil {
		t.Errorf("remove again: %v", err)
	}
	if _, err := g.Stats(); err == nil {
		t.Error("a removed group has statistics")
	}
	if _, err := g.host.Open(g.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open a removed group: %v", err)
	}
}

func TestAdopt(t *testing.T) {
	g := makeGroup(t, limits())
	c := start(t, g, "wait")
	h, err := Detect() // as a new daemon does
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Make(g.Path, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("make over a living group: %v", err)
	}
	adopted, err := h.Open(g.Path)
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := adopted.Pids(); err != nil || !slices.Equal(pids, []int{c.Process.Pid}) {
		t.Errorf("processes %v, %v", pids, err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := adopted.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	if err := adopted.Remove(); err != nil {
		t.Fatal(err)
	}
}

// TestParentOfOwnGroup has a process make a parent below the group that it is
// itself in, as a daemon does in a service's delegated subtree.
func TestParentOfOwnGroup(t *testing.T) {
	g := makeGroup(t, nil)
	for _, do := range []string{"wait", "parent " + g.Path + "/containers"} {
		c := start(t, g, do)
		if got := c.run(); got != "<nil>" && do != "wait" {
			t.Fatal(got)
		}
	}
	inner, err := g.host.Make(g.Path+"/containers/one", limits())
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	if g.host.Mode == V2 {
		if text, err := read(g.v2+"/mayfly-daemon", "cgroup.procs"); err != nil || len(strings.Fields(text)) != 2 {
			t.Errorf("%q stepped aside, %v; want both processes", text, err)
		}
	}
}

// TestTasks has one thread of this process enter by itself.
func TestTasks(t *testing.T) {
	g := makeGroup(t, nil)
	if g.host.Mode == V2 {
		if files := g.Tasks(); len(files) != 0 {
			t.Errorf("tasks files on v2: %v", files)
		}
		return
	}
	own := make(chan string)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		for _, file := range g.Tasks() {
			if err := write(filepath.Dir(file), "tasks", "0"); err != nil {
				t.Error(err)
			}
		}
		text, _ := os.ReadFile("/proc/thread-self/cgroup")
		leave(t, g.host, "tasks", "0") // were it the main thread, it would stay
		own <- string(text)
	}()
	text := <-own
	alone, shared := strings.Count(text, ":"+g.Path+"\n"), strings.Count(text, ":"+filepath.Dir(g.Path)+"\n")
	if alone+shared != len(g.host.Hierarchies) {
		t.Errorf("the thread is in %d groups of its own and %d of the parent, of %d hierarchies:\n%s", alone, shared, len(g.host.Hierarchies), text)
	}
	for _, controller := range []string{"cpu", "cpuacct", "memory", "devices", "pids"} {
		if dir := g.dir(controller); g.host.where(controller) != nil && filepath.Base(dir) != filepath.Base(g.Path) {
			t.Errorf("%s is limited in %q", controller, dir)
		}
	}
}

// TestDiscard takes a group away with who is in it, from every hierarchy.
func TestDiscard(t *testing.T) {
	for name, populated := range map[string]bool{"empty": false, "with a process": true} {
		t.Run(name, func(t *testing.T) {
			g := makeGroup(t, limits())
			var c *child
			if populated {
				c = start(t, g, "wait")
			}
			g.Close()
			if err := g.host.Discard(g.Path); err != nil {
				t.Fatal(err)
			}
			if populated {
				c.Wait()
			}
			for _, dir := range g.all() {
				if exists(dir) {
					t.Errorf("%s is left over", dir)
				}
			}
			if err := g.host.Discard(g.Path); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	h, parent := host(t)
	for _, p := range []string{"", "/", "relative", "/a/../b", "/a/", "/a//b"} {
		if _, err := h.Make(p, nil); err == nil {
			t.Errorf("path %q: no error", p)
		}
	}
	for name, r := range map[string]*specs.LinuxResources{
		"block I/O":      {BlockIO: &specs.LinuxBlockIO{}},
		"device access":  {Devices: []specs.LinuxDeviceCgroup{{Access: "rwx"}}},
		"device type":    {Devices: []specs.LinuxDeviceCgroup{{Type: "x", Access: "r"}}},
		"device numbers": {Devices: []specs.LinuxDeviceCgroup{{Type: "a", Major: ptr(1), Access: "rwm"}}},
		"cpus":           {CPU: &specs.LinuxCPU{Cpus: "70000"}},
	} {
		if _, err := h.Make(parent+"/bad", r); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := h.Open(parent + "/bad"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: half a group is left: %v", name, err)
		}
	}
}
