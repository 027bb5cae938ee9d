package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// probe writes one line of JSON, lists of facts by title, and waits until its
// standard input ends, so that it can be looked at from the outside.
func probe() {
	facts := map[string][]string{
		"mounts":     lines("/proc/self/mountinfo"),
		"status":     lines("/proc/self/status"),
		"initStatus": lines("/proc/1/status"),
		"limits":     lines("/proc/self/limits"),
		"initLimits": lines("/proc/1/limits"),
		"cgroup":     lines("/proc/self/cgroup"),
		"initStat":   words("/proc/1/stat", 3, 9),
		"env":        os.Environ(),
		"files":      descriptors(),
		"process":    process(),
		"network":    interfaces(),
		"routes":     routes(),
		"devices":    devices(),
		"mknod":      makeDevices(),
		"namespaces": namespaces(),
		"tree":       tree("/", 1),
		"etc":        tree("/etc", 2),
		"mayfly":     tree("/run/mayfly", 2),
		"groups":     tree("/sys/fs/cgroup", 2),
		"hidden":     hidden(),
		"writable":   writable(),
		"sysctl":     sysctls(),
		"init":       lookAtInit(),
		"calls":      calls(),
	}
	if err := json.NewEncoder(os.Stdout).Encode(facts); err != nil {
		fail(err)
	}
	io.Copy(io.Discard, os.Stdin)
}

func lines(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return []string{outcome(err)}
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// words are the fields from first to last, counted from 0, of a file's line.
func words(path string, first, last int) []string {
	f := strings.Fields(strings.Join(lines(path), " "))
	return f[min(first, len(f)):min(last, len(f))]
}

// outcome is an error without the names in it.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for {
		switch e := err.(type) {
		case *fs.PathError:
			err = e.Err
		case *os.SyscallError:
			err = e.Err
		case *os.LinkError:
			err = e.Err
		default:
			return err.Error()
		}
	}
}

// descriptors lists the open files but the one of the list.
func descriptors() (all []string) {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return []string{outcome(err)}
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, n := range names {
		to, _ := os.Readlink("/proc/self/fd/" + n)
		if strings.HasPrefix(to, "/proc/") || strings.HasPrefix(to, "anon_inode:") {
			continue // the list itself, and the Go runtime's own
		}
		all = append(all, n+" "+to)
	}
	slices.Sort(all)
	return all
}

func process() []string {
	umask := syscall.Umask(0)
	syscall.Umask(umask)
	cwd, err := os.Getwd()
	host, _ := os.Hostname()
	groups, _ := syscall.Getgroups()
	sid, _ := unix.Getsid(0)
	initSid, _ := unix.Getsid(1)
	var uts unix.Utsname
	unix.Uname(&uts)
	return []string{
		fmt.Sprintf("umask %o", umask),
		"cwd " + cwd + " " + outcome(err),
		"host " + host + " domain " + unix.ByteSliceToString(uts.Domainname[:]),
		fmt.Sprint("ids ", syscall.Getuid(), syscall.Geteuid(), syscall.Getgid(), syscall.Getegid(), groups),
		fmt.Sprint("leader ", sid == os.Getpid(), syscall.Getpgrp() == os.Getpid(), initSid),
		fmt.Sprint("parent ", syscall.Getppid()),
		"personality " + strings.Join(lines("/proc/self/personality"), ""),
		"oom " + strings.Join(lines("/proc/self/oom_score_adj"), "") + " " + strings.Join(lines("/proc/1/oom_score_adj"), ""),
		"loginuid " + strings.Join(lines("/proc/self/loginuid"), ""),
		"coredump " + strings.Join(lines("/proc/self/coredump_filter"), ""),
		"label " + strings.Join(lines("/proc/self/attr/current"), ""),
		"command of init " + strings.Join(lines("/proc/1/cmdline"), ""),
	}
}

func routes() (all []string) {
	for _, line := range lines("/proc/net/route") {
		if !strings.HasPrefix(line, "mf") {
			all = append(all, line)
		}
	}
	return all
}

func interfaces() (all []string) {
	list, err := net.Interfaces()
	if err != nil {
		return []string{outcome(err)}
	}
	for _, i := range list {
		if strings.HasPrefix(i.Name, "mf") || strings.HasPrefix(i.Name, "veth") {
			continue // other tests' at this moment, where the network is the host's
		}
		addrs, _ := i.Addrs()
		all = append(all, fmt.Sprint(i.Name, " ", i.Flags, " ", addrs))
	}
	return all
}

// tree describes what is in a directory, and below to a depth.
func tree(root string, depth int) (all []string) {
	filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			all = append(all, p+" "+outcome(err))
			return nil
		}
		all = append(all, describe(p))
		rel, _ := filepath.Rel(root, p)
		if d.IsDir() && rel != "." && strings.Count(rel, "/")+1 >= depth {
			return fs.SkipDir
		}
		return nil
	})
	return all
}

func describe(p string) string {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return p + " " + outcome(err)
	}
	to, _ := os.Readlink(p)
	return fmt.Sprintf("%s %o %d:%d %d,%d %s", p, st.Mode, st.Uid, st.Gid, unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)), to)
}

func open(p string, flags int) string {
	fd, err := unix.Open(p, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return outcome(err)
}

// devices lists /dev and which of it can be opened.
func devices() (all []string) {
	for _, line := range tree("/dev", 3) {
		p, _, _ := strings.Cut(line, " ")
		all = append(all, line+" read: "+open(p, unix.O_RDONLY)+" write: "+open(p, unix.O_WRONLY))
	}
	return all
}

// makeDevices tries to make devices of its own and to open them.
func makeDevices() (all []string) {
	dir, err := os.MkdirTemp("/dev/shm", "")
	if err != nil {
		return []string{outcome(err)}
	}
	defer os.RemoveAll(dir)
	for _, in := range []string{dir, "/"} {
		for _, d := range [][3]uint32{
			{unix.S_IFCHR, 1, 1}, {unix.S_IFCHR, 1, 2}, {unix.S_IFCHR, 1, 3}, {unix.S_IFCHR, 1, 4}, {unix.S_IFCHR, 1, 5}, {unix.S_IFCHR, 1, 7},
			{unix.S_IFCHR, 1, 9}, {unix.S_IFCHR, 1, 11}, {unix.S_IFCHR, 4, 64}, {unix.S_IFCHR, 5, 0}, {unix.S_IFCHR, 5, 1}, {unix.S_IFCHR, 5, 2},
			{unix.S_IFCHR, 10, 200}, {unix.S_IFCHR, 10, 229}, {unix.S_IFCHR, 10, 232}, {unix.S_IFCHR, 10, 237}, {unix.S_IFCHR, 136, 0},
			{unix.S_IFBLK, 7, 0}, {unix.S_IFBLK, 8, 0}, {unix.S_IFBLK, 254, 0}, {unix.S_IFIFO, 0, 0},
		} {
			p := filepath.Join(in, "node")
			err := unix.Mknod(p, d[0]|0o600, int(unix.Mkdev(d[1], d[2])))
			all = append(all, fmt.Sprintf("%s %o %d,%d: %s, read: %s, write: %s", in[:min(len(in), 5)], d[0], d[1], d[2], outcome(err), open(p, unix.O_RDONLY), open(p, unix.O_WRONLY)))
			unix.Unlink(p)
		}
	}
	return all
}

func namespaces() (all []string) {
	for _, who := range []string{"self", "1"} {
		entries, err := os.ReadDir("/proc/" + who + "/ns")
		if err != nil {
			all = append(all, who+" "+outcome(err))
		}
		for _, e := range entries {
			to, err := os.Readlink("/proc/" + who + "/ns/" + e.Name())
			all = append(all, who+" "+e.Name()+" "+to+" "+outcome(err))
		}
	}
	return all
}

// hidden tries the paths that a container runtime covers, and others.
func hidden() (all []string) {
	for _, p := range []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
		"/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
		"/proc/kmsg", "/proc/kallsyms", "/proc/modules", "/proc/cmdline", "/proc/config.gz", "/proc/mtrr", "/proc/slabinfo",
		"/proc/kpagecount", "/proc/kpageflags", "/proc/vmallocinfo", "/proc/1/stack", "/proc/key-users", "/proc/pressure/cpu",
		"/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/uevent_helper", "/sys/kernel/vmcoreinfo", "/sys/class/mem", "/sys/fs/bpf",
	} {
		info, err := os.Lstat(p)
		s := p + " " + outcome(err)
		if err == nil {
			s += " " + info.Mode().String() + " read: " + open(p, unix.O_RDONLY) + " write: " + open(p, unix.O_WRONLY) + " new: " + open(p+"/new", unix.O_CREAT|unix.O_WRONLY)
			if info.IsDir() {
				list, err := os.ReadDir(p)
				s += fmt.Sprint(" entries: ", len(list), " ", outcome(err))
			}
		}
		all = append(all, s)
	}
	return all
}

func writable() (all []string) {
	for _, d := range []string{
		"/", "/etc", "/bin", "/tmp", "/proc", "/proc/self", "/sys", "/sys/fs/cgroup", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts", "/run", "/run/mayfly", "/data", "/readonly", "/scratch",
	} {
		p := d + "/written-by-the-probe"
		fd, err := unix.Open(p, unix.O_CREAT|unix.O_WRONLY|unix.O_EXCL, 0o600)
		if err == nil {
			unix.Close(fd)
			unix.Unlink(p)
		}
		var st unix.Statfs_t
		unix.Statfs(d, &st)
		all = append(all, fmt.Sprintf("%s %s type %x flags %x", d, outcome(err), st.Type, st.Flags))
	}
	for _, f := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/mayfly/init", "/run/mayfly/state.json"} {
		all = append(all, f+" read: "+open(f, unix.O_RDONLY)+" write: "+open(f, unix.O_WRONLY))
	}
	return all
}

// sysctls lists the files of /proc/sys with their values, but for those that
// change from one moment to the next, and whether they can be written.
func sysctls() (all []string) {
	changing := []string{"/random/", "-nr", "-state", "ns_last_pid", "/pty/nr", "/cdrom/", "-hash", "sched_domain", "nf_conntrack", "/neigh/", "/conf/", "/quota/"}
	filepath.WalkDir("/proc/sys", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || slices.ContainsFunc(changing, func(c string) bool { return strings.Contains(p, c) }) {
			return nil
		}
		var st unix.Stat_t
		unix.Lstat(p, &st)
		value := "hidden"
		if st.Mode&0o444 != 0 {
			value = strings.Join(lines(p), " ")
		}
		all = append(all, fmt.Sprintf("%s %o %d:%d %s write: %s", p, st.Mode, st.Uid, st.Gid, value, open(p, unix.O_WRONLY)))
		return nil
	})
	return all
}

// lookAtInit tries what one may only do to a process that one may trace.
func lookAtInit() (all []string) {
	for _, f := range []string{"environ", "mem", "maps", "auxv", "io", "stack", "syscall", "mountinfo", "fdinfo", "task", "comm", "oom_score_adj", "root/", "cwd/", "exe", "fd/", "fd/3", "map_files/", "ns/net", "clear_refs", "attr/current"} {
		p := "/proc/1/" + f
		to, err := os.Readlink(strings.TrimSuffix(p, "/"))
		all = append(all, p+" "+to+" "+outcome(err)+" read: "+open(p, unix.O_RDONLY)+" write: "+open(p, unix.O_WRONLY)+" "+strings.Join(words(p, 0, 0), ""))
	}
	return all
}
