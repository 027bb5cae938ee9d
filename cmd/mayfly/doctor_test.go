package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKernelVersions(t *testing.T) {
	cases := map[string]bool{
		"5.15.0": true, "5.15": true, "6.1.0-56-cloud-amd64": true, "10.0": true,
		"5.14.21-default": false, "4.19.0": false, "3.10": false, "": false, "strange": false,
	}
	for release, want := range cases {
		c := checkKernel(release)
		if c.OK != want || c.OK == (c.Fix != "") {
			t.Errorf("%q: %+v", release, c)
		}
	}
}

func TestCgroupLayouts(t *testing.T) {
	const (
		v2     = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
		v1cpu  = "30 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
		v1mem  = "31 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		v1pids = "32 24 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
		v1name = "33 24 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
		other  = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\nshort\n\n"
	)
	cases := []struct {
		name, mountinfo, controllers string
		broken                       bool // no group can be made
		ok                           bool
		want                         string // part of the detail
	}{
		{"pure v2", other + v2, "cpuset cpu io memory pids", false, true, "v2 with cpu cpuset io memory pids"},
		{"pure v1", other + v1cpu + v1mem + v1pids + v1name, "", false, true, "v1 with cpu cpuacct memory pids"},
		{"hybrid", v1cpu + v1mem + v1pids + v2, "", false, true, "hybrid with cpu cpuacct memory pids"},
		{"hybrid, split", v1cpu + v2, "memory pids", false, true, "hybrid with cpu cpuacct memory pids"},
		{"no memory", v2, "cpu io pids", false, false, "v2 without memory"},
		{"no pids", v1cpu + v1mem, "", false, false, "v1 without pids"},
		{"nothing", other, "", false, false, "not mounted"},
		{"read-only", v2, "cpu memory pids", true, false, "v2, but no group can be made: no"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := parseCgroups(c.mountinfo, func(string) string { return c.controllers })
			got := judgeCgroups(g, func(string) error {
				if c.broken {
					return errors.New("no")
				}
				return nil
			})
			if got.OK != c.ok || !strings.Contains(got.Detail, c.want) || got.OK == (got.Fix != "") {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestLimitsAndSwitches(t *testing.T) {
	cases := []struct {
		name string
		got  check
		ok   bool
		want string
	}{
		{"root", checkRoot(0), true, "user id 0"},
		{"not root", checkRoot(1000), false, "user id 1000"},
		{"forwarding", judgeForwarding("1", false), true, "on"},
		{"forwarding can be had", judgeForwarding("0", true), true, "mayfly up turns it on"},
		{"no forwarding", judgeForwarding("0", false), false, "cannot be turned on"},
		{"files", checkFiles(1 << 20), true, "1048576"},
		{"files without limit", checkFiles(unix.RLIM_INFINITY), true, "no limit"},
		{"few files", checkFiles(1024), false, "1024"},
		{"inotify", checkInotify("128"), true, "128"},
		{"little inotify", checkInotify("8"), false, "8"},
		{"no inotify", checkInotify(""), false, "cannot read"},
		{"a tool", tool{"crun", "x", "crun"}.check("/usr/bin/crun"), true, "/usr/bin/crun"},
		{"a missing tool", tool{"crun", "for x", "crun"}.check(""), false, "not installed; for x"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.got.OK != c.ok || !strings.Contains(c.got.Detail, c.want) || c.got.OK == (c.got.Fix != "") {
				t.Errorf("got %+v", c.got)
			}
		})
	}
}

func TestWriteChecks(t *testing.T) {
	var b strings.Builder
	healthy := writeChecks(&b, []check{
		{Name: "kernel", OK: true, Detail: "Linux 6.1"},
		{Name: "crun", Optional: true, Detail: "not installed", Fix: "apt-get install crun"},
	})
	want := "ok    kernel        Linux 6.1\n" +
		"none  crun          not installed\n" +
		"                    apt-get install crun\n"
	if !healthy || b.String() != want {
		t.Errorf("healthy %v, printed\n%s", healthy, &b)
	}
	if writeChecks(&b, []check{{Name: "root"}}) {
		t.Error("healthy without root")
	}
}

// TestDoctorTriesThisMachine holds the real checks to a machine that is known
// to be able to: every one that other tests here depend on passes.
func TestDoctorTriesThisMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	parent := t.TempDir()
	data := filepath.Join(parent, "not", "made", "yet")
	before := namespaces(t)
	checks := doctor(t.Context(), data)
	for _, c := range checks {
		if !c.OK && !c.Optional && c.Name != "open files" {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
	}
	if len(checks) != 11+len(optionalTools) {
		t.Errorf("%d checks", len(checks))
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left in the data directory: %v %v", left, err)
	}
	if strings.Contains(readLine("/proc/self/mountinfo"), "mayfly-doctor") {
		t.Error("a mount is left")
	}
	if after := namespaces(t); after != before {
		t.Errorf("the process moved from %s to %s", before, after)
	}
}

// TestTrialsLeaveTheFirstThreadAlone: a thread that leaves its namespaces must
// not be the one that speaks for the process.
func TestTrialsLeaveTheFirstThreadAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before := namespaces(t)
	for range 200 {
		err := inNamespaces(unix.CLONE_NEWUTS, func() error {
			if now := readLink(t, "/proc/thread-self/ns/uts"); strings.Contains(before, now) {
				return errors.New("still in the old namespace")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if after := namespaces(t); after != before {
		t.Errorf("the process moved from %s to %s", before, after)
	}
}

func TestDataDirThatHoldsNoLayers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, dir := range map[string]string{
		"proc":         "/proc/mayfly",
		"below a file": "/etc/passwd/mayfly",
	} {
		t.Run(name, func(t *testing.T) {
			if c := probeDataDir(dir); c.OK || c.Fix == "" {
				t.Errorf("got %+v", c)
			}
		})
	}
}

// namespaces names those of the process's first thread.
func namespaces(t *testing.T) string {
	t.Helper()
	var all []string
	for _, n := range []string{"mnt", "net", "ipc", "uts", "cgroup", "pid_for_children"} {
		all = append(all, readLink(t, "/proc/self/ns/"+n))
	}
	return strings.Join(all, " ")
}

func readLink(t *testing.T, path string) string {
	t.Helper()
	to, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return to
}
