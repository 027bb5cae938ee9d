// Package cgroup makes, limits, reads and removes the control groups of
// containers on cgroup v2, v1 and hybrid hosts, with no daemon and no library
// between it and the files.
//
// Detect says how the machine mounts control groups. Parent prepares a group
// that only holds others; Make makes one container's group below it, with its
// limits, before any process is in it. Then
//
//   - on v2, and on hybrid hosts for the unified hierarchy, a process is
//     started straight inside: CLONE_INTO_CGROUP takes Group.FD;
//   - on v1 a single-threaded process writes "0" to each of Group.Tasks, which
//     moves the one thread and waits for no other.
//
// Paths are absolute within the hierarchies, "/mayfly-main/ID". Nothing here
// keeps state outside the kernel: Open adopts a group that an earlier daemon
// made. Methods are safe for concurrent use on different groups.
//
// A machine is v2 when the one cgroup2 tree has the controllers, v1 when there
// is no cgroup2 tree, and hybrid when there are both and v1 has the
// controllers. Controllers are never mixed for one purpose: what v1 has is
// used on v1.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// Mode is how a machine mounts control groups.
type Mode string

// The modes.
const (
	V1     Mode = "v1"
	Hybrid Mode = "hybrid"
	V2     Mode = "v2"
)

// Hierarchy is one mounted v1 tree.
type Hierarchy struct {
	Mount       string   // "/sys/fs/cgroup/memory"
	Controllers []string // "cpu", "cpuacct"; "name=systemd" for a named tree
	Self        string   // this process's path in it
}

// Host is how this machine mounts control groups.
type Host struct {
	Mode        Mode
	Hierarchies []Hierarchy // v1, in mount order; empty on v2
	Unified     string      // where cgroup2 is mounted; empty on v1
	Self        string      // this process's path in Unified

	programs *programs
}

// errNoCgroups means that /proc/self/mountinfo lists none.
var errNoCgroups = errors.New("no control groups are mounted")

// Detect reads how the machine mounts control groups.
func Detect() (*Host, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own control groups: %w", err)
	}
	return detect(string(mounts), string(self))
}

// detect works on the text of /proc/self/mountinfo and /proc/self/cgroup. Of
// several mounts of one tree the first counts.
func detect(mountinfo, self string) (*Host, error) {
	h := &Host{programs: &programs{loaded: map[string]int{}}}
	own := map[string]string{} // by controllers as /proc/self/cgroup lists them
	for line := range strings.Lines(self) {
		if parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(parts) == 3 {
			for name := range strings.SplitSeq(parts[1], ",") {
				own[name] = parts[2]
			}
		}
	}
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		dash := slices.Index(fields, "-")
		if dash < 5 || len(fields) < dash+4 {
			continue
		}
		mount := unescape(fields[4])
		switch fields[dash+1] {
		case "cgroup2":
			if h.Unified == "" {
				h.Unified, h.Self = mount, own[""]
			}
		case "cgroup":
			h.add(mount, fields[dash+3], own)
		}
	}
	switch {
	case h.Unified == "" && len(h.Hierarchies) == 0:
		return nil, errNoCgroups
	case h.Unified == "":
		h.Mode = V1
	case h.where("memory") == nil && h.where("pids") == nil && h.where("cpu") == nil:
		h.Mode, h.Hierarchies = V2, nil
	default:
		h.Mode = Hybrid
	}
	return h, nil
}

// add takes in a v1 mount, whose super options name its controllers.
func (h *Host) add(mount, options string, own map[string]string) {
	t := Hierarchy{Mount: mount}
	for option := range strings.SplitSeq(options, ",") {
		if self, ok := own[option]; ok && option != "" {
			t.Controllers, t.Self = append(t.Controllers, option), self
		}
	}
	if len(t.Controllers) > 0 && h.where(t.Controllers[0]) == nil {
		h.Hierarchies = append(h.Hierarchies, t)
	}
}

// where returns the v1 tree that has a controller, nil if none has.
func (h *Host) where(controller string) *Hierarchy {
	for i := range h.Hierarchies {
		if slices.Contains(h.Hierarchies[i].Controllers, controller) {
			return &h.Hierarchies[i]
		}
	}
	return nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// A programs keeps the device programs of v2 loaded: containers differ in
// them rarely, and to attach one is much quicker than to load it.
type programs struct {
	mu     sync.Mutex
	loaded map[string]int // by instructions
}
