package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// target is what the host put out to be reached.
type target struct {
	Secret string // path of a file on the host
	Disk   uint64 // device of the filesystem that it is on
	Socket string // abstract unix socket on which the host listens
	Key    int    // of System V shared memory on the host
	PID    int    // a process of the host
}

// escape tries one way out. It says "held" and why, or "escaped" and how, and
// exits with 1 or 0.
func escape(args []string) {
	all := map[string]func(target) []string{
		"kernel-settings": kernelSettings, "release-agent": releaseAgent, "mount": mounts, "remount": remounts, "unmask": unmask,
		"mknod-disk": mknodDisk, "physical-memory": physicalMemory, "shocker": shocker, "trace-init": traceInit, "init-files": initFiles,
		"overwrite-init": overwriteInit, "leaked-descriptors": leakedDescriptors, "abstract-socket": abstractSocket, "named-sockets": namedSockets,
		"namespaces": joinNamespaces, "user-namespace": userNamespace, "keyrings": keyrings, "kernel-interfaces": kernelInterfaces, "modules": modules,
		"double-chroot": doubleChroot, "sysfs": sysfs, "cgroups": cgroups, "hard-link": hardLink, "setuid": setuid, "terminal": terminal,
		"shared-memory": sharedMemory, "host-processes": hostProcesses, "host-paths": hostPaths, "stop-init": stopInit,
	}
	if len(args) == 1 && args[0] == "list" {
		for name := range all {
			fmt.Println(name)
		}
		return
	}
	var t target
	if len(args) != 2 || all[args[0]] == nil || json.Unmarshal([]byte(args[1]), &t) != nil {
		fail("usage: inside escape WAY TARGET")
	}
	runtime.LockOSThread()
	got := all[args[0]](t)
	for _, s := range got {
		fmt.Println("escaped:", s)
	}
	if len(got) == 0 {
		fmt.Println("held")
		os.Exit(1)
	}
}

// tries collects the attempts that came through.
type tries []string

// must refuse: an attempt that is no error got through.
func (t *tries) refused(what string, err error) {
	if err == nil {
		*t = append(*t, what)
	}
}

func (t *tries) syscall(what string, n uintptr, args ...uintptr) {
	var a [6]uintptr
	copy(a[:], args)
	_, _, e := unix.Syscall6(n, a[0], a[1], a[2], a[3], a[4], a[5])
	if e == 0 {
		*t = append(*t, what)
	}
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

func kernelSettings(target) []string {
	var r tries
	for path, text := range map[string]string{
		"/proc/sys/kernel/core_pattern": "|/escaped", "/proc/sys/kernel/modprobe": "/escaped", "/proc/sys/vm/panic_on_oom": "0", "/proc/sys/fs/binfmt_misc/register": ":x:M::x::/x:",
		"/proc/sysrq-trigger": "s", "/proc/sys/kernel/hostname": "escaped", "/proc/sys/kernel/domainname": "escaped", "/proc/self/loginuid": "0x",
		"/proc/1/oom_score_adj": "-1000", "/proc/irq/default_smp_affinity": "1", "/proc/sys/net/ipv4/ip_forward": "1",
	} {
		r.refused("write "+path, write(path, text))
	}
	return r
}

// releaseAgent is CVE-2022-0492 and its ancestors.
func releaseAgent(target) []string {
	var r tries
	os.Mkdir("/tmp/cg", 0o755)
	for _, o := range []string{"memory", "rdma", "pids", "none,name=x"} {
		r.refused("mount cgroup "+o, unix.Mount("cgroup", "/tmp/cg", "cgroup", 0, o))
	}
	r.refused("mount cgroup2", unix.Mount("cgroup2", "/tmp/cg", "cgroup2", 0, ""))
	r.refused("user and cgroup namespace", unix.Unshare(unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP))
	agents, _ := filepath.Glob("/sys/fs/cgroup/*/release_agent")
	for _, a := range append(agents, "/sys/fs/cgroup/release_agent") {
		r.refused("write "+a, write(a, "/escaped"))
	}
	return r
}

func mounts(g target) []string {
	var r tries
	os.Mkdir("/tmp/m", 0o755)
	for _, fs := range []string{"proc", "sysfs", "devtmpfs", "tmpfs", "overlay", "debugfs", "tracefs", "securityfs", "bpf", "ext4", "9p", "nfs", "fuse", "mqueue", "binfmt_misc"} {
		r.refused("mount "+fs, unix.Mount("none", "/tmp/m", fs, 0, ""))
		fd, err := unix.Fsopen(fs, 0)
		r.refused("fsopen "+fs, err) // CVE-2022-0185
		unix.Close(fd)
	}
	r.refused("bind", unix.Mount("/", "/tmp/m", "", unix.MS_BIND, ""))
	r.refused("move", unix.Mount("/proc", "/tmp/m", "", unix.MS_MOVE, ""))
	r.refused("share", unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""))
	_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
	r.refused("open_tree", err)
	r.refused("pivot_root", unix.PivotRoot("/", "/tmp/m"))
	return r
}

// remounts tries to make what is read-only writable.
func remounts(target) []string {
	var r tries
	for _, p := range []string{"/", "/sys", "/proc/sys", "/proc/sysrq-trigger", "/run/mayfly", "/readonly", "/sys/fs/cgroup", "/proc/bus"} {
		r.refused("remount "+p, unix.Mount("", p, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		r.refused("remount all of "+p, unix.Mount("", p, "", unix.MS_REMOUNT, ""))
		r.refused("mount_setattr "+p, unix.MountSetattr(unix.AT_FDCWD, p, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	}
	for _, p := range []string{"/readonly/x", "/run/mayfly/x", "/sys/x", "/proc/sys/x"} {
		r.refused("create "+p, os.WriteFile(p, nil, 0o600))
	}
	return r
}

// unmask tries to take off what covers paths (CVE-2019-19921, CVE-2025-31133).
func unmask(target) []string {
	var r tries
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sys", "/sys/firmware", "/proc/acpi", "/proc", "/dev", "/sys"} {
		r.refused("umount "+p, unix.Unmount(p, unix.MNT_DETACH))
	}
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"} {
		if b := make([]byte, 16); true {
			if f, err := os.Open(p); err == nil {
				if n, _ := f.Read(b); n > 0 {
					r = append(r, "read "+p)
				}
				f.Close()
			}
		}
	}
	return r
}

func mknodDisk(g target) []string {
	var r tries
	for _, d := range []struct {
		mode uint32
		dev  uint64
	}{
		{unix.S_IFBLK, g.Disk}, {unix.S_IFBLK, unix.Mkdev(8, 0)}, {unix.S_IFBLK, unix.Mkdev(254, 0)}, {unix.S_IFBLK, unix.Mkdev(7, 0)},
		{unix.S_IFCHR, unix.Mkdev(1, 1)}, {unix.S_IFCHR, unix.Mkdev(1, 4)}, {unix.S_IFCHR, unix.Mkdev(10, 237)}, {unix.S_IFCHR, unix.Mkdev(10, 229)}, {unix.S_IFCHR, unix.Mkdev(1, 11)},
	} {
		for _, dir := range []string{"/", "/tmp/", "/dev/", "/dev/shm/", "/data/"} {
			p := dir + "escape-node"
			if unix.Mknod(p, d.mode|0o666, int(d.dev)) != nil {
				continue
			}
			for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY} {
				fd, err := unix.Open(p, flags|unix.O_NONBLOCK, 0)
				r.refused(fmt.Sprintf("open %s as device %x", p, d.dev), err)
				unix.Close(fd)
			}
			unix.Unlink(p)
		}
	}
	return r
}

func physicalMemory(target) []string {
	var r tries
	for _, p := range []string{"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/proc/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/kvm"} {
		f, err := os.Open(p)
		r.refused("open "+p, err)
		f.Close()
	}
	return r
}

// shocker opens the host's root by its inode number.
func shocker(g target) []string {
	var r tries
	for _, at := range []string{"/", "/etc/hosts", "/run/mayfly", "/data"} {
		dir, err := os.Open(at)
		if err != nil {
			continue
		}
		for _, handle := range []unix.FileHandle{unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0}), unix.NewFileHandle(0x81, []byte{128, 0, 0, 0, 0, 0, 0, 0})} {
			fd, err := unix.OpenByHandleAt(int(dir.Fd()), handle, unix.O_RDONLY)
			r.refused("open_by_handle_at "+at, err)
			unix.Close(fd)
		}
	}
	return r
}

func traceInit(target) []string {
	var r tries
	r.refused("attach", unix.PtraceAttach(1))
	r.refused("seize", unix.PtraceSeize(1))
	b := make([]byte, 8)
	for _, base := range []uintptr{0x400000, 0x10000} {
		local, remote := []unix.Iovec{{Base: &b[0]}}, []unix.RemoteIovec{{Base: base, Len: 8}}
		local[0].SetLen(8)
		_, err := unix.ProcessVMReadv(1, local, remote, 0)
		r.refused("process_vm_readv", err)
		_, err = unix.ProcessVMWritev(1, local, remote, 0)
		r.refused("process_vm_writev", err)
	}
	if fd, err := unix.PidfdOpen(1, 0); err == nil {
		for n := range 12 {
			_, err := unix.PidfdGetfd(fd, n, 0)
			r.refused(fmt.Sprint("pidfd_getfd ", n), err)
		}
	}
	return r
}

func initFiles(target) []string {
	var r tries
	for _, f := range []string{"mem", "environ", "maps", "auxv", "root/etc", "cwd/etc", "exe", "fd/3", "fd/4", "fd/5", "fd/6", "ns/mnt", "map_files/400000-401000", "fdinfo/3", "syscall"} {
		data, err := os.ReadFile("/proc/1/" + f) // some may be opened, but not read
		if len(data) > 0 {
			r.refused("read /proc/1/"+f, err)
		}
		r.refused("open /proc/1/"+f+" for writing", write("/proc/1/"+f, "x"))
	}
	return r
}

// overwriteInit is CVE-2019-5736: the program that the container's creator
// runs is reached through /proc/PID/exe while it runs, and written later.
func overwriteInit(target) []string {
	var r tries
	for _, p := range []string{"/proc/1/exe", "/run/mayfly/init"} {
		r.refused("overwrite "+p, write(p, "#!/escaped"))
	}
	for range 50 {
		c := exec.Command("/run/mayfly/init")
		if c.Start() != nil {
			break
		}
		exe, err := unix.Open("/proc/"+strconv.Itoa(c.Process.Pid)+"/exe", unix.O_PATH, 0)
		c.Process.Kill()
		c.Wait()
		p := "/proc/self/fd/" + strconv.Itoa(exe)
		if to, _ := os.Readlink(p); err == nil && to != os.Args[0] { // or it was not executed yet
			r.refused("overwrite init through a descriptor", write(p, "#!/escaped"))
			r.refused("truncate init", os.Truncate(p, 0))
			r.refused("change init's mode", unix.Fchmodat(unix.AT_FDCWD, p, 0o777, 0))
			unix.Close(exe)
		}
	}
	return r
}

// leakedDescriptors is CVE-2024-21626: any descriptor that is not ours.
func leakedDescriptors(g target) []string {
	var r tries
	for fd := range 1024 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		f, err := unix.Openat(fd, strings.Repeat("../", 20)+strings.TrimPrefix(g.Secret, "/"), unix.O_RDONLY, 0)
		r.refused(fmt.Sprint("the host through descriptor ", fd), err)
		unix.Close(f)
	}
	f, err := os.Open(strings.Repeat("../", 20) + strings.TrimPrefix(g.Secret, "/"))
	r.refused("the host through the working directory", err)
	f.Close()
	return r
}

// abstractSocket is CVE-2020-15257: sockets without a path belong to the
// network namespace.
func abstractSocket(g target) []string {
	var r tries
	r.refused("connect", connect("@"+g.Socket))
	return r
}

func connect(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: name})
}

// namedSockets looks for init's and the daemon's.
func namedSockets(g target) []string {
	var r tries
	for _, l := range lines("/proc/net/unix") {
		if f := strings.Fields(l); len(f) > 7 && strings.HasPrefix(f[7], "/") {
			r.refused("connect "+f[7], connect(f[7]))
		}
	}
	dir := filepath.Dir(g.Secret)
	for _, p := range []string{"/run/mayfly/init.sock", "/run/mayfly/mayfly.sock", "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", dir + "/init.sock"} {
		r.refused("connect "+p, connect(p))
	}
	return r
}

func joinNamespaces(g target) []string {
	var r tries
	for _, kind := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"} {
		for _, who := range []string{"1", "self", strconv.Itoa(g.PID)} {
			if fd, err := unix.Open("/proc/"+who+"/ns/"+kind, unix.O_RDONLY, 0); err == nil {
				r.refused("setns "+kind+" of "+who, unix.Setns(fd, 0))
				unix.Close(fd)
			}
		}
	}
	if fd, err := unix.PidfdOpen(1, 0); err == nil {
		r.refused("setns by pidfd", unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWPID))
	}
	return r
}

func userNamespace(target) []string {
	var r tries
	for name, flags := range map[string]int{"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "network": unix.CLONE_NEWNET, "pid": unix.CLONE_NEWPID, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME} {
		r.refused("unshare "+name, unix.Unshare(flags))
	}
	for _, flags := range []uint64{unix.CLONE_NEWUSER, unix.CLONE_NEWUSER | unix.CLONE_NEWNS, unix.CLONE_NEWNET} {
		args := struct{ flags, pidfd, child, parent, signal, stack, size, tls uint64 }{flags: flags, signal: uint64(unix.SIGCHLD)}
		pid, _, e := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		if e == 0 && pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		if e == 0 {
			r = append(r, "clone3")
		}
	}
	return r
}

func keyrings(target) []string {
	var r tries
	_, err := unix.KeyctlJoinSessionKeyring("escape")
	r.refused("join a keyring", err)
	_, err = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	r.refused("name the keyring", err)
	_, err = unix.AddKey("user", "escape", []byte("x"), unix.KEY_SPEC_USER_KEYRING)
	r.refused("add_key", err)
	return r
}

func kernelInterfaces(target) []string {
	var r tries
	page := make([]byte, 4096)
	p := uintptr(unsafe.Pointer(&page[0]))
	r.syscall("bpf", unix.SYS_BPF, 0, p, 128)
	r.syscall("perf_event_open", unix.SYS_PERF_EVENT_OPEN, p, 0, ^uintptr(0), ^uintptr(0), 0)
	r.syscall("userfaultfd", unix.SYS_USERFAULTFD, 0)
	r.syscall("io_uring_setup", unix.SYS_IO_URING_SETUP, 8, p)
	r.syscall("fanotify_init", unix.SYS_FANOTIFY_INIT, 0, 0)
	r.syscall("acct", unix.SYS_ACCT, 0)
	r.syscall("swapoff", unix.SYS_SWAPOFF, p)
	r.syscall("settimeofday", unix.SYS_SETTIMEOFDAY, p, 0)
	r.syscall("adjtimex", unix.SYS_CLOCK_ADJTIME, 0, 0)
	r.syscall("syslog", unix.SYS_SYSLOG, 3, p, 4096)
	r.syscall("quotactl", unix.SYS_QUOTACTL, 0, 0, 0, p)
	r.syscall("kcmp", unix.SYS_KCMP, 1, uintptr(os.Getpid()), 0, 0, 0)
	r.syscall("lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, 0, p, 4096)
	r.syscall("move_pages", unix.SYS_MOVE_PAGES, 1, 1, p, 0, p, 0)
	return r
}

func modules(target) []string {
	var r tries
	page := make([]byte, 4096)
	p := uintptr(unsafe.Pointer(&page[0]))
	r.syscall("init_module", unix.SYS_INIT_MODULE, p, 4096, p)
	r.syscall("finit_module", unix.SYS_FINIT_MODULE, 0, p, 0)
	r.syscall("delete_module", unix.SYS_DELETE_MODULE, p, 0)
	r.syscall("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)
	r.syscall("kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, 0, 0, 0, p, 0)
	r.syscall("reboot", unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_CAD_OFF, 0)
	return r
}

// doubleChroot is chroot(2)'s own example.
func doubleChroot(g target) []string {
	var r tries
	os.Mkdir("/tmp/jail", 0o755)
	cwd, err := os.Open("/")
	if err != nil || unix.Chroot("/tmp/jail") != nil {
		return r
	}
	unix.Fchdir(int(cwd.Fd()))
	for range 64 {
		unix.Chdir("..")
	}
	unix.Chroot(".")
	_, err = os.Stat(g.Secret)
	r.refused("the secret is there after chroot", err)
	return r
}

// sysfs tries every file below the parts of /sys that change the kernel.
func sysfs(target) []string {
	var r tries
	for _, p := range []string{"/sys/kernel", "/sys/module", "/sys/power", "/sys/fs", "/sys/bus", "/sys/block", "/sys/class/net"} {
		n := 0
		filepath.WalkDir(p, func(f string, d os.DirEntry, err error) error {
			if n++; n > 5000 {
				return filepath.SkipAll
			}
			if err == nil && d.Type().IsRegular() {
				if fd, err := unix.Open(f, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
					unix.Close(fd)
					r = append(r, "open "+f)
				}
			}
			return nil
		})
	}
	return r
}

func cgroups(target) []string {
	var r tries
	filepath.WalkDir("/sys/fs/cgroup", func(f string, d os.DirEntry, err error) error {
		var st unix.Statfs_t // v1's trees stand in a tmpfs of the container's own
		if err == nil && d.Type().IsRegular() {
			if fd, err := unix.Open(f, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				unix.Close(fd)
				r = append(r, "open "+f)
			}
		} else if err == nil && d.IsDir() && unix.Statfs(f, &st) == nil && st.Type != unix.TMPFS_MAGIC {
			r.refused("a group in "+f, os.Mkdir(f+"/escaped", 0o755))
		}
		return nil
	})
	return r
}

func hardLink(target) []string {
	var r tries
	for _, from := range []string{"/run/mayfly/init", "/etc/hosts", "/readonly/file", "/proc/1/exe"} {
		r.refused("link "+from, os.Link(from, "/tmp/linked"))
		r.refused("rename "+from, os.Rename(from, "/tmp/renamed"))
	}
	return r
}

// setuid runs a program that belongs to root and says so.
func setuid(target) []string {
	var r tries
	if os.Getuid() == 0 {
		return r
	}
	out, err := exec.Command("/suid", "identity").CombinedOutput()
	if err != nil {
		fail(fmt.Sprint(err, string(out)))
	}
	if !strings.Contains(string(out), "0000000000000000") || !strings.HasSuffix(strings.TrimSpace(string(out)), strconv.Itoa(os.Getuid())) {
		r = append(r, "root through a setuid file: "+string(out))
	}
	return r
}

// terminal types into whoever started the container (CVE-2017-5226).
func terminal(target) []string {
	var r tries
	c := byte('x')
	for fd := range 16 {
		r.syscall(fmt.Sprint("TIOCSTI on ", fd), unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
	}
	for _, p := range []string{"/dev/tty", "/dev/console", "/dev/tty0", "/dev/pts/0"} {
		fd, err := unix.Open(p, unix.O_RDWR|unix.O_NONBLOCK, 0)
		r.refused("open "+p, err)
		unix.Close(fd)
	}
	return r
}

func sharedMemory(g target) []string {
	var r tries
	_, err := unix.SysvShmGet(g.Key, 0, 0)
	r.refused("the host's shared memory", err)
	return r
}

func hostProcesses(g target) []string {
	var r tries
	for _, sig := range []unix.Signal{0, unix.SIGCONT} {
		if g.PID > 64 { // smaller ones may be ours as well
			r.refused("signal a process of the host", unix.Kill(g.PID, sig))
		}
	}
	r.refused("raise our own priority", unix.Setpriority(unix.PRIO_PROCESS, 0, -10))
	r.refused("raise the limit of files", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 30, Max: 1 << 30}))
	return r
}

func hostPaths(g target) []string {
	var r tries
	for _, p := range []string{g.Secret, "/proc/self/root" + g.Secret, "/proc/1/root" + g.Secret, "/proc/self/cwd/../../.." + g.Secret, "/data/../../../.." + g.Secret, "/dev/fd/3" + g.Secret} {
		_, err := os.ReadFile(p)
		r.refused("read "+p, err)
	}
	if unix.Symlink(g.Secret, "/data/link") == nil { // led by the daemon, perhaps
		_, err := os.ReadFile("/data/link")
		r.refused("read through a link in a volume", err)
		unix.Unlink("/data/link")
	}
	return r
}

// stopInit signals it; the test finds out whether it still answers.
func stopInit(target) []string {
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		unix.Kill(1, sig)
	}
	return nil
}
