package containertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"golang.org/x/sys/unix"
)

// ways are the ways out that the program inside tries, each with where it is
// known from.
func ways() map[string]string {
	return map[string]string{
		"kernel-settings":    "write to core_pattern, modprobe, sysrq-trigger and the like (docs.docker.com, \"masked and read-only paths\")",
		"release-agent":      "CVE-2022-0492, and mounting cgroups for their release_agent",
		"mount":              "mount filesystems anew; CVE-2022-0185 (fsopen)",
		"remount":            "make read-only mounts writable by remount or mount_setattr",
		"unmask":             "take covers off procfs: CVE-2019-19921, CVE-2023-27561, CVE-2025-31133, CVE-2025-52881",
		"mknod-disk":         "make a node of the host's disk or memory with CAP_MKNOD and read it",
		"physical-memory":    "/dev/mem, /dev/kmsg, disks",
		"shocker":            "open_by_handle_at(2) on the host's root inode (\"shocker\", 2014)",
		"trace-init":         "ptrace, process_vm_readv and pidfd_getfd on init: CVE-2016-9962",
		"init-files":         "/proc/1/mem, fd, root and others",
		"overwrite-init":     "CVE-2019-5736: write the runtime's binary through /proc/PID/exe",
		"leaked-descriptors": "CVE-2024-21626: a directory of the host left open",
		"abstract-socket":    "CVE-2020-15257: abstract unix sockets of the host",
		"named-sockets":      "sockets of daemons; forged frames to init",
		"namespaces":         "setns(2) into other namespaces",
		"user-namespace":     "unshare(2) and clone3(2) a user namespace for its capabilities",
		"keyrings":           "keyrings are not namespaced: CVE-2014-9529, CVE-2016-0728",
		"kernel-interfaces":  "bpf, perf, userfaultfd, io_uring, syslog and other wide interfaces",
		"modules":            "load a module, another kernel, or reboot",
		"double-chroot":      "chroot(2) out of a chroot",
		"sysfs":              "write anything in /sys, such as uevent_helper",
		"cgroups":            "write the own limits and device list",
		"hard-link":          "link or rename across read-only binds",
		"setuid":             "become root by a setuid file of the image",
		"terminal":           "CVE-2017-5226: type into the terminal outside (TIOCSTI)",
		"shared-memory":      "System V shared memory of the host",
		"host-processes":     "signal processes outside; raise priority and limits",
		"host-paths":         "paths of the host by way of /proc, volumes and ..",
		"stop-init":          "stop or kill init from within its namespace",
	}
}

// target is what is put out to be reached; the program inside reads it.
type target struct {
	Secret string
	Disk   uint64
	Socket string
	Key    int
	PID    int
}

const token = "the secret of the host"

// Escape tries known ways out of a container as root and as a user. None may
// lead anywhere.
func Escape(t *testing.T, p Programs, maker Maker) {
	b := NewBed(t, p, maker)
	copyFile(t, p.Inside, b.dir+"/image/suid", 0o755)
	if err := os.Chmod(b.dir+"/image/suid", 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	volume := t.TempDir()
	if err := os.WriteFile(volume+"/file", []byte("as it was"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	goal := putOut(t, b.dir+"/secret")
	before := b.state(t, volume)
	for _, u := range []container.User{{}, {UID: 1000, GID: 1000}} {
		for name := range ways() {
			t.Run(fmt.Sprintf("%s as %d", name, u.UID), func(t *testing.T) {
				c := b.Config
				c.User, c.NetNS = u, netNS(t)
				c.Resources = mayfly.Resources{Memory: 512 << 20, Pids: 200}
				c.Mounts = []mayfly.Mount{{Type: "bind", Source: volume, Target: "/data"}, {Type: "bind", Source: volume, Target: "/readonly", ReadOnly: true}}
				b.try(t, c, name, goal)
			})
		}
	}
	if after := b.state(t, volume); after != before {
		t.Errorf("the host is not as it was:\n%s\nit was\n%s", after, before)
	}
	t.Run("a working directory outside", b.workOutside)
	t.Run("hostile images", b.hostileImages)
	t.Run("a target that is swapped", b.swappedTarget)
	t.Run("fork bomb", b.forkBomb)
}

// try has a program try one way out. Init must be as well as before.
func (b *Bed) try(t *testing.T, c container.Config, name string, goal target) {
	s := b.create(t, c)
	main := start(t, s, "cat")
	text, err := json.Marshal(goal)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := s.Pipe(false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	attempt, err := s.Spawn(t.Context(), container.Program{Argv: []string{"/inside", "escape", name, string(text)}, Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	<-attempt.Done()
	if e := attempt.Exit(); e.Code != 1 || out.String() != "held\n" || strings.Contains(out.String(), token) {
		t.Errorf("exit %+v\n%s", e, &out)
	}
	if e := spawn(t, s, "true"); e.Code != 0 {
		t.Errorf("init does not serve any more: %+v", e)
	}
	if got, err := main.output(); err != nil || got.out != "" {
		t.Errorf("the main program: %+v, %v", got, err)
	}
	<-s.Ended()
	if e := s.Exit(); e.Code != 0 {
		t.Errorf("the main program: %+v", e)
	}
	s.Remove()
}

// putOut makes what is to be reached.
func putOut(t *testing.T, secret string) target {
	t.Helper()
	if err := os.WriteFile(secret, []byte(token), 0o666); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(secret, &st); err != nil {
		t.Fatal(err)
	}
	g := target{Secret: secret, Disk: st.Dev, PID: os.Getpid(), Socket: "mayfly-escape-" + mayfly.NewID(), Key: 0x6d617966 + os.Getpid()}
	l, err := net.Listen("unix", "@"+g.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	id, err := unix.SysvShmGet(g.Key, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	return g
}

// state is what no container may change.
func (b *Bed) state(t *testing.T, volume string) string {
	t.Helper()
	var s strings.Builder
	for _, f := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", b.dir + "/secret", volume + "/file", b.init} {
		data, err := os.ReadFile(f)
		st, serr := os.Stat(f)
		if serr != nil {
			t.Fatal(serr)
		}
		fmt.Fprintf(&s, "%s %x %v %v\n", f, sha256.Sum256(data), st.Mode(), err)
	}
	return s.String()
}

// workOutside is CVE-2024-21626 by config: a working directory that is a
// descriptor of the runtime.
func (b *Bed) workOutside(t *testing.T) {
	for _, dir := range []string{"/proc/self/fd/%d", "/proc/self/fd/%d/../..", "/proc/1/fd/%d", "/dev/fd/%d"} {
		for fd := 3; fd < 12; fd++ {
			c := b.Config
			c.WorkDir = fmt.Sprintf(dir, fd)
			s, err := b.Host.Create(t.Context(), mayfly.NewID(), c)
			if err != nil {
				continue // refused
			}
			r := start(t, s, "sh", "-c", "cat ../../../../../.."+b.dir+"/secret; ls -l /proc/self/cwd | grep -c -- '-> /'")
			if out, err := r.output(); err != nil || strings.Contains(out.out, token) {
				t.Errorf("%s: %+v, %v", c.WorkDir, out, err)
			}
			s.Remove()
		}
	}
}

// hostileImages have links where the runtime mounts and makes things:
// CVE-2021-30465, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565.
func (b *Bed) hostileImages(t *testing.T) {
	outside := t.TempDir()
	for _, name := range []string{"proc", "sys", "dev", "run", "etc", "tmp", "data", "etc/resolv.conf", "etc/hosts", "etc/hostname", "run/mayfly", "dev/pts", "dev/null", "dev/console", "proc/sys", "dev/shm", "new"} {
		for _, to := range []string{outside, strings.Repeat("../", 30) + outside[1:], "/proc/self/root", "/proc/1/cwd" + outside, "loop", "/proc/self/fd/5"} {
			layer := t.TempDir()
			if err := os.Chmod(layer, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(layer+"/"+name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(to, layer+"/"+name); err != nil {
				t.Fatal(err)
			}
			c := b.Config
			c.Lower = append([]string{layer}, c.Lower...)
			c.WorkDir = "/new/place"
			c.Mounts = []mayfly.Mount{{Type: "tmpfs", Target: "/data/below"}}
			s, err := b.Host.Create(t.Context(), mayfly.NewID(), c)
			if err != nil {
				continue // refused
			}
			if p, err := s.Start(t.Context(), container.Program{Argv: []string{"sh", "-c", "echo x >/data/below/x; echo x >/tmp/x; touch /" + name + "/x"}}); err == nil {
				<-p.Done()
			}
			s.Remove()
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Errorf("a link at %s led outside: %v, %v", name, entries, err)
		}
	}
}

// swappedTarget is CVE-2021-30465: another container that has the same volume
// swaps a directory, on which is being mounted, with a link.
func (b *Bed) swappedTarget(t *testing.T) {
	volume, outside := t.TempDir(), t.TempDir()
	if err := os.Mkdir(volume+"/dir", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(strings.Repeat("../", 30)+outside[1:], volume+"/link"); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, volume+"/dir", unix.AT_FDCWD, volume+"/link", unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-done }()
	c := b.Config
	c.Mounts = []mayfly.Mount{{Type: "bind", Source: volume, Target: "/data"}, {Type: "tmpfs", Target: "/data/dir/below"}, {Type: "bind", Source: b.dir + "/image/etc", Target: "/data/dir/etc"}}
	for range 20 {
		s, err := b.Host.Create(t.Context(), mayfly.NewID(), c)
		if err != nil {
			continue
		}
		r := start(t, s, "sh", "-c", "cat "+b.dir+"/secret")
		if out, err := r.output(); err != nil || strings.Contains(out.out, token) {
			t.Errorf("%+v, %v", out, err)
		}
		s.Remove()
	}
	entries, err := os.ReadDir(outside)
	switch {
	case err != nil:
		t.Fatal(err)
	case len(entries) > 0 && b.Driver.Name() == "runc": // before 1.1.14; nothing is read or written
		t.Logf("runc makes empty mount points outside (CVE-2024-45310): %v", entries)
	case len(entries) > 0:
		t.Errorf("a mount point was made outside: %v", entries)
	}
}

// forkBomb: it stays below its limit, and init still answers.
func (b *Bed) forkBomb(t *testing.T) {
	c := b.Config
	c.Resources.Pids = 60
	s := b.create(t, c)
	// The main program forks once, while it can: a shell that cannot ends.
	r := start(t, s, "sh", "-c", "echo ready; bomb() { bomb | bomb & }; (bomb) 2>/dev/null & exec cat")
	r.reads(t, "ready\n")
	most := int64(0)
	for range 200 {
		there := int64(math.MaxInt64)
		for range 5 { // the kernel counts a process that it refuses until it has refused it
			st, err := s.Stats()
			if err != nil {
				t.Fatal(err)
			}
			there = min(there, int64(st.Pids))
		}
		if most = max(most, there); there > 60 {
			t.Fatalf("%d processes", there)
		}
	}
	t.Logf("at most %d processes at once", most)
	if err := s.Signal(t.Context(), nil, 0); err != nil {
		t.Errorf("init does not answer: %v", err)
	}
	s.Kill()
	<-s.Ended()
}
