package container

import (
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/cgroup"
	"github.com/mayfly-run/mayfly/container/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// builder makes bundles that run a shell script whose output is descriptor 3.
type builder struct {
	dir    string
	init   string
	lower  []string
	filter *specs.LinuxSeccomp
	cgroup string // parent of the bundles'
}

func newBuilder(t testing.TB) *builder {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	b := &builder{dir: t.TempDir(), lower: []string{busyboxRoot(t)}, filter: seccomp.Default(capabilities, runtime.GOARCH)}
	init, err := InstallInit(b.dir, buildInit(t))
	if err != nil {
		t.Fatal(err)
	}
	b.init = init
	b.cgroup = "/mayfly-native-" + strconv.Itoa(os.Getpid())
	t.Cleanup(func() {
		host, err := cgroup.Detect()
		if err != nil {
			t.Fatal(err)
		}
		if g, err := host.Open(b.cgroup); err == nil {
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
		}
	})
	return b
}

func (b *builder) native(t testing.TB) *Native {
	t.Helper()
	n, err := NewNative(b.init, NativeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (b *builder) bundle(t testing.TB, c *Config, script string) *Bundle {
	t.Helper()
	id := mayfly.NewID()
	dir := filepath.Join(b.dir, id)
	for _, d := range []string{"", "/upper", "/work", "/run"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"resolv.conf", "hosts", "hostname"} {
		if err := os.WriteFile(dir+"/"+f, []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := c.spec(dir, dir+"/run", b.cgroup+"/"+id, b.filter)
	s.Process.Args = []string{"/bin/busybox", "sh", "-c", script}
	return &Bundle{
		ID: id, Dir: dir, Spec: s,
		Rootfs: Rootfs{Lower: b.lower, Upper: dir + "/upper", Work: dir + "/work"},
	}
}

// output runs a bundle to its end and returns what it wrote to descriptor 3.
func output(t testing.TB, d Driver, b *Bundle) (string, uint32) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b.Files = []*os.File{w}
	child, err := d.Create(context.Background(), b)
	w.Close()
	if err != nil {
		t.Fatalf("%s: %v", d.Name(), err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var status uint32
	if child.Wait != nil {
		if status, err = child.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Delete(context.Background(), b.ID, b.Dir); err != nil {
		t.Error(err)
	}
	return string(out), status
}

// probe prints what a container looks like from the inside. Each line or block
// is one fact under a title.
const probe = `exec >&3 2>&1
bb=/bin/busybox
t() { echo "## $*"; }
t mountinfo; while read -r id parent dev rest; do echo "$rest"; done < /proc/self/mountinfo
t status; $bb grep -vE '^(Name|State|Pid|Tgid|PPid|NS|Ngid|Vm|Rss|Hugetlb|Core|Threads|SigQ|Cpus|Mems|volunt|nonvol|TracerPid)' /proc/self/status
t init; $bb grep -E '^(Cap|NoNew|Seccomp|Sig[^Q]|Umask|Groups|Uid|Gid|FDSize)' /proc/1/status
t limits; $bb cat /proc/self/limits
t fds; for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13; do [ -L /proc/1/fd/$i ] && echo $i; done; $bb readlink /proc/1/fd/0
t env; $bb tr '\0' '\n' < /proc/1/environ
t cmdline; $bb tr '\0' ' ' < /proc/1/cmdline; echo
t dev; $bb ls -la /dev | $bb awk '{d=""; if ($1 ~ /^[cb]/) d=$5 $6; print $1,$2,$3,$4,d,$NF}'
t devpts; $bb ls -la /dev/pts | $bb awk '{print $1,$3,$4,$5,$6,$NF}'
t shm; $bb ls -lad /dev/shm /dev/mqueue /sys/fs/cgroup /tmp /run /proc/acpi / | $bb awk '{print $1,$3,$4,$NF}'
t cgroups; $bb ls -la /sys/fs/cgroup | $bb awk '{print $1,$NF}'; $bb cat /proc/self/cgroup
t stat; $bb awk '{print $4,$5,$6,$7,$8}' /proc/1/stat
t misc; $bb cat /proc/1/oom_score_adj /proc/1/personality /proc/1/sessionid /proc/1/loginuid /proc/1/coredump_filter /proc/1/timerslack_ns
t id; $bb id; $bb pwd; umask; $bb hostname; $bb uname -a
t net; $bb ip -o addr | $bb grep -vE ' (mf|veth|br-|docker)'; $bb grep -v mf- /proc/net/route
t sysctl; $bb cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range
t ns; $bb ls /proc/1/ns
t mtab; $bb ls -l /etc /run/mayfly | $bb awk '{print $1,$3,$4,$NF}'
`

func TestNativeLooksLikeRunc(t *testing.T) {
	signal.Ignore(syscall.SIGHUP) // as under nohup(1): no container is to notice
	t.Cleanup(func() { signal.Reset(syscall.SIGHUP) })
	b := newBuilder(t)
	runc, err := NewOCI("runc", b.dir+"/runtime")
	if err != nil {
		t.Fatal(err)
	}
	native := b.native(t)
	volume := t.TempDir()
	for name, change := range map[string]func(c *Config, s *specs.Spec){
		"plain": func(*Config, *specs.Spec) {},
		"user": func(c *Config, s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{44, 7}}
			s.Process.Cwd = "/work/place"
			s.Process.Capabilities.Effective = nil
			s.Process.Capabilities.Permitted = nil
			s.Process.Env = []string{"A=1", "B=2", "A=3", "PATH=/bin"}
		},
		"ambient": func(c *Config, s *specs.Spec) {
			one := []string{"CAP_NET_RAW"}
			s.Process.User = specs.User{UID: 1000, GID: 1000}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: capabilities, Effective: one, Permitted: one, Inheritable: one, Ambient: one}
		},
		"privileged": func(c *Config, s *specs.Spec) {
			s.Process.NoNewPrivileges = false
			s.Root.Readonly = true
		},
		"network": func(c *Config, s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE"}}
			mask := uint32(0o077)
			s.Process.User.Umask = &mask
		},
		"mounts": func(c *Config, s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "size=1m", "noexec"}},
				specs.Mount{Destination: "/new/tmp", Type: "tmpfs", Source: "x", Options: []string{"mode=700", "noatime"}},
				specs.Mount{Destination: "/data", Type: "bind", Source: volume, Options: []string{"rbind"}},
				specs.Mount{Destination: "/data2", Type: "bind", Source: volume, Options: []string{"bind", "ro", "noatime"}},
				specs.Mount{Destination: "/data3", Type: "none", Source: volume, Options: []string{"bind", "rslave", "nodev", "noexec", "nodiratime"}},
				specs.Mount{Destination: "/data4/x", Type: "bind", Source: volume, Options: []string{"rbind", "rro"}},
				specs.Mount{Destination: "/etc/new/file", Type: "bind", Source: volume + "/file", Options: []string{"rbind", "ro", "rshared"}},
			)
			m, u, g := os.FileMode(0o640), uint32(3), uint32(4)
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &m, UID: &u, GID: &g},
				{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
				{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
			}
			major, minor := int64(1), int64(3)
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"})
			one := 1
			s.Process.OOMScoreAdj = &one
		},
	} {
		t.Run(name, func(t *testing.T) {
			os.WriteFile(volume+"/file", nil, 0o644)
			c := &Config{Hostname: "box", Lower: b.lower}
			var out [2]string
			for i, d := range []Driver{runc, native} {
				bundle := b.bundle(t, c, probe)
				// Left alone, old runc hands on the limit that its own Go
				// raised: TestNativeHandsLimitsOn.
				bundle.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
				change(c, bundle.Spec)
				out[i], _ = output(t, d, bundle)
				out[i] = masterOfRoot.ReplaceAllString(out[i], "$1 ")
				out[i] = peerGroup.ReplaceAllString(out[i], " $1:N")
				out[i] = strings.ReplaceAll(out[i], bundle.ID, "ID")
			}
			diffBlocks(t, out[0], out[1])
		})
	}
}

// masterOfRoot finds what says that the root gets mounts from the host. Runc's
// root is mounted where the host sees it, so that is so where the host shares
// its mounts, as systemd has it. Native's is mounted in the container's own
// namespace and has no peer: it is the stricter, and meant to differ.
var masterOfRoot = regexp.MustCompile(`(?m)^(/ / r[wo],\S+) master:\d+ `)

// peerGroup finds numbers that the kernel gives as they come.
var peerGroup = regexp.MustCompile(` (shared|master):\d+`)

// diffBlocks compares two outputs of probe block by block.
func diffBlocks(t *testing.T, want, got string) {
	t.Helper()
	w, g := blocks(want), blocks(got)
	if len(w) < 10 {
		t.Fatalf("probe failed: %s", want)
	}
	for _, title := range slices.Sorted(maps.Keys(w)) {
		if d := cmp.Diff(strings.Split(w[title], "\n"), strings.Split(g[title], "\n")); d != "" {
			t.Errorf("%s differs (-runc +native):\n%s", title, d)
		}
	}
}

func blocks(s string) map[string]string {
	m := make(map[string]string)
	for _, block := range strings.Split("\n"+s, "\n## ")[1:] {
		title, text, _ := strings.Cut(block, "\n")
		m[title] = text
	}
	return m
}

// TestNativeHandsLimitsOn runs itself again as a daemon with a low limit of open
// files. Go raises that for the daemon; containers get what the daemon was given.
func TestNativeHandsLimitsOn(t *testing.T) {
	if os.Getenv("MAYFLY_TEST_LIMIT") == "" {
		cmd := exec.Command("/bin/sh", "-c", "ulimit -Sn 1000; exec \"$0\" -test.run='^TestNativeHandsLimitsOn$'", os.Args[0])
		cmd.Env = append(os.Environ(), "MAYFLY_TEST_LIMIT=1000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	b := newBuilder(t)
	n := b.native(t)
	script := "ulimit -Sn >&3; ulimit -Hn >&3"
	hard, err := exec.Command("/bin/sh", "-c", "ulimit -Hn").Output()
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := output(t, n, b.bundle(t, &Config{Hostname: "box"}, script)); out != "1000\n"+string(hard) {
		t.Errorf("limits %q", out)
	}
	bundle := b.bundle(t, &Config{Hostname: "box"}, script)
	bundle.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 300, Hard: 400}}
	if out, _ := output(t, n, bundle); out != "300\n400\n" {
		t.Errorf("limits %q of its own", out)
	}
}

// BenchmarkNative makes containers and waits for their end, by as many callers
// at once. Cpu-ms is what a container costs of processor time, all in.
func BenchmarkNative(b *testing.B) {
	bu := newBuilder(b)
	n := bu.native(b)
	var mu sync.Mutex
	var creates []time.Duration
	defer func() {
		slices.Sort(creates)
		b.Logf("Create alone: p50 %v", creates[len(creates)/2])
	}()
	points := bu.dir + "/points" // as Host has it
	if err := makePoints(points); err != nil {
		b.Fatal(err)
	}
	benchmarkWorkers(b, func(b *testing.B) func() {
		bundles := make(chan *Bundle, b.N)
		for range b.N { // an upper directory that was used before takes longer to mount
			bundle := bu.bundle(b, &Config{Hostname: "box"}, "")
			bundle.Spec.Process.Args = []string{"/bin/busybox", "true"}
			bundle.Rootfs.Volatile = true
			bundle.Rootfs.Lower = append(bundle.Rootfs.Lower[:1:1], points)
			bundles <- bundle
		}
		return func() {
			bundle := <-bundles
			start := time.Now()
			child, err := n.Create(context.Background(), bundle)
			took := time.Since(start)
			mu.Lock()
			creates = append(creates, took)
			mu.Unlock()
			if err != nil {
				b.Error(err)
				return
			}
			if status, err := child.Wait(); err != nil || status != 0 {
				b.Errorf("status %#x, %v", status, err)
			}
			if err := n.Delete(context.Background(), bundle.ID, bundle.Dir); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkCrun does what BenchmarkNative does with crun, whose root is a plain
// directory.
func BenchmarkCrun(b *testing.B) {
	bu := newBuilder(b)
	crun, err := NewOCI("crun", bu.dir)
	if err != nil {
		b.Skip(err)
	}
	benchmarkWorkers(b, func(b *testing.B) func() {
		bundle := bu.bundle(b, &Config{Hostname: "box"}, "")
		bundle.Spec.Process.Args = []string{"/bin/busybox", "true"}
		bundle.Spec.Root.Path = bu.lower[0]
		if err := os.WriteFile(bundle.Dir+"/config.json", mustJSON(bundle.Spec), 0o600); err != nil {
			b.Fatal(err)
		}
		return func() {
			cmd := exec.Command(crun.runc.Command, "--root", crun.runc.Root, "run", "--bundle", bundle.Dir, bundle.ID)
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Errorf("%v: %s", err, out)
			}
		}
	})
}

func benchmarkWorkers(b *testing.B, prepare func(b *testing.B) func()) {
	for _, workers := range []int{1, 4} {
		b.Run(strconv.Itoa(workers), func(b *testing.B) {
			var next atomic.Int64
			var wg sync.WaitGroup
			var mu sync.Mutex
			var times []time.Duration
			works := make([]func(), workers)
			for i := range works {
				works[i] = prepare(b)
			}
			before := cpuTime(b)
			b.ResetTimer()
			for _, work := range works {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						start := time.Now()
						work()
						took := time.Since(start)
						mu.Lock()
						times = append(times, took)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			slices.Sort(times)
			b.ReportMetric(float64(cpuTime(b)-before)/1e6/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(times[len(times)/2])/1e6, "p50-ms")
			b.ReportMetric(float64(times[len(times)*99/100])/1e6, "p99-ms")
		})
	}
}

// cpuTime is what this process and those it has waited for have used.
func cpuTime(b *testing.B) time.Duration {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += u.Utime.Nano() + u.Stime.Nano()
	}
	return time.Duration(sum)
}
