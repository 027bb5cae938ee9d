package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// check is one thing that a node needs, or is better off with.
type check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Optional bool   `json:"optional,omitempty"` // mayfly works without
	Detail   string `json:"detail"`             // what was found, in one line
	Fix      string `json:"fix,omitempty"`      // how to get it, when not OK
}

// doctor looks at this machine and at dataDir, which need not exist yet. What
// can be tried is tried, in namespaces of its own; nothing is left behind.
func doctor(ctx context.Context, dataDir string) []check {
	checks := []check{checkKernel(kernelRelease()), checkRoot(os.Geteuid())}
	probes := []func() check{
		checkCgroups,
		probeNamespaces,
		probeOverlay,
		func() check { return probeDataDir(dataDir) },
		probeSeccomp,
		probeNetwork,
		checkForwarding,
	}
	for _, probe := range probes {
		if ctx.Err() != nil {
			return checks
		}
		checks = append(checks, probe())
	}
	checks = append(checks, checkFiles(fileLimit()), checkInotify(readLine("/proc/sys/fs/inotify/max_user_instances")))
	for _, t := range optionalTools {
		path, _ := exec.LookPath(t.name)
		checks = append(checks, t.check(path))
	}
	return checks
}

// writeChecks prints the checks for a person, and reports whether everything
// that is needed is there.
func writeChecks(w io.Writer, checks []check) (healthy bool) {
	healthy = true
	for _, c := range checks {
		mark := "ok  "
		switch {
		case c.OK:
		case c.Optional:
			mark = "none"
		default:
			mark, healthy = "FAIL", false
		}
		fmt.Fprintf(w, "%s  %-12s  %s\n", mark, c.Name, c.Detail)
		if !c.OK && c.Fix != "" {
			fmt.Fprintf(w, "%20s%s\n", "", c.Fix)
		}
	}
	return healthy
}

func checkKernel(release string) check {
	c := check{Name: "kernel", Detail: "Linux " + release}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		c.Detail = fmt.Sprintf("cannot read the version in %q", release)
	}
	c.OK = major > 5 || major == 5 && minor >= 15
	if !c.OK {
		c.Fix = "needs 5.15 or newer: Debian 12 and Ubuntu 22.04 bring one (apt-get install linux-image-amd64)"
	}
	return c
}

func checkRoot(euid int) check {
	c := check{Name: "root", OK: euid == 0, Detail: fmt.Sprintf("user id %d", euid)}
	if !c.OK {
		c.Fix = "run mayfly as root: sudo mayfly doctor. Checks that try things fail without"
	}
	return c
}

// cgroups says how control groups are mounted on a machine.
type cgroups struct {
	mode        string   // "v2", "hybrid", "v1" or "none"
	controllers []string // those that processes can be put under, sorted
	dirs        []string // a mount point for each hierarchy that we need
}

// parseCgroups reads /proc/self/mountinfo and, for v2, the controllers that
// cgroup.controllers in the given mount point lists.
func parseCgroups(mountinfo string, controllers func(dir string) string) cgroups {
	var g cgroups
	var v1, v2 int
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		dir := left[4]
		switch right[0] {
		case "cgroup2":
			v2++
			found := strings.Fields(controllers(dir))
			g.controllers = append(g.controllers, found...)
			if len(found) > 0 {
				g.dirs = append(g.dirs, dir)
			}
		case "cgroup":
			v1++
			for _, o := range strings.Split(right[2], ",") {
				if slices.Contains(v1Controllers, o) {
					g.controllers = append(g.controllers, o)
				}
				if slices.Contains(neededControllers, o) && !slices.Contains(g.dirs, dir) {
					g.dirs = append(g.dirs, dir)
				}
			}
		}
	}
	slices.Sort(g.controllers)
	g.controllers = slices.Compact(g.controllers)
	switch {
	case v1 > 0 && v2 > 0:
		g.mode = "hybrid"
	case v2 > 0:
		g.mode = "v2"
	case v1 > 0:
		g.mode = "v1"
	default:
		g.mode = "none"
	}
	return g
}

var (
	neededControllers = []string{"cpu", "memory", "pids"}
	v1Controllers     = []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event", "pids", "rdma"}
)

func checkCgroups() check {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return check{Name: "cgroups", Detail: err.Error(), Fix: "mount /proc"}
	}
	g := parseCgroups(string(text), func(dir string) string { return readLine(filepath.Join(dir, "cgroup.controllers")) })
	return judgeCgroups(g, tryCgroup)
}

// judgeCgroups says whether containers can be limited; try makes and removes a
// group below a mount point.
func judgeCgroups(g cgroups, try func(dir string) error) check {
	c := check{Name: "cgroups", Detail: g.mode + " with " + strings.Join(g.controllers, " ")}
	if g.mode == "none" {
		c.Detail = "not mounted"
		c.Fix = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
		return c
	}
	var missing []string
	for _, n := range neededControllers {
		if !slices.Contains(g.controllers, n) {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		c.Detail = g.mode + " without " + strings.Join(missing, ", ")
		c.Fix = "boot with systemd.unified_cgroup_hierarchy=1"
		if slices.Contains(missing, "memory") {
			c.Fix = "boot with cgroup_enable=memory (Raspberry Pi: in cmdline.txt)"
		}
		return c
	}
	for _, dir := range g.dirs {
		if err := try(dir); err != nil {
			c.Detail = fmt.Sprintf("%s, but no group can be made: %v", g.mode, err)
			c.Fix = "run as root, outside of a container, or in one with its own writable cgroups (--privileged --cgroupns=private)"
			return c
		}
	}
	c.OK = true
	return c
}

// checkForwarding: containers reach the outside through this machine.
func checkForwarding() check {
	const file = "/proc/sys/net/ipv4/ip_forward"
	return judgeForwarding(readLine(file), unix.Access(file, unix.W_OK) == nil)
}

func judgeForwarding(value string, writable bool) check {
	c := check{Name: "ip_forward", OK: true, Detail: "on"}
	switch {
	case value == "1":
	case writable:
		c.Detail = "off; mayfly up turns it on"
	default:
		c.OK, c.Detail = false, "off, and it cannot be turned on from here"
		c.Fix = "sysctl -w net.ipv4.ip_forward=1"
	}
	return c
}

// leastFiles is what a node of some hundred containers has open: pipes, logs,
// sockets and pid descriptors.
const leastFiles = 16384

func checkFiles(hard uint64) check {
	c := check{Name: "open files", OK: hard >= leastFiles, Detail: fmt.Sprintf("at most %d", hard)}
	if hard == unix.RLIM_INFINITY {
		c.Detail = "no limit"
	}
	if !c.OK {
		c.Fix = fmt.Sprintf("raise the hard limit to %d or more: LimitNOFILE= in the systemd unit, or ulimit -Hn", leastFiles)
	}
	return c
}

func checkInotify(value string) check {
	const least = 128 // the kernel's default, which some machines lower
	n, err := strconv.Atoi(value)
	c := check{Name: "inotify", OK: err == nil && n >= least, Detail: fmt.Sprintf("%s instances for each user", value)}
	if err != nil {
		c.Detail = "cannot read fs.inotify.max_user_instances"
	}
	if !c.OK {
		c.Fix = fmt.Sprintf("sysctl -w fs.inotify.max_user_instances=%d", 8*least)
	}
	return c
}

// tool is a program of this machine that some things use.
type tool struct{ name, use, packages string }

var optionalTools = []tool{
	{"crun", "for containers made by the oci driver", "crun"},
	{"runc", "for containers made by the oci driver", "runc"},
	{"mmdebstrap", "for mayfly stack build", "mmdebstrap"},
	{"python3", "for Python functions on the host stack", "python3"},
	{"node", "for JavaScript functions on the host stack", "nodejs"},
}

func (t tool) check(path string) check {
	c := check{Name: t.name, OK: path != "", Optional: true, Detail: path}
	if !c.OK {
		c.Detail = "not installed; " + t.use
		c.Fix = "apt-get install --no-install-recommends " + t.packages
	}
	return c
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error()
	}
	return unix.ByteSliceToString(u.Release[:])
}

func fileLimit() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return l.Max
}

// readLine returns a small file's text without the white space around it, and
// nothing for one that cannot be read.
func readLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
