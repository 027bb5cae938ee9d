package container

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// host is what the native driver has to know of the machine.
type host struct {
	v2          bool     // pure cgroup v2
	hierarchies []string // names of the cgroup v1 mounts, in their order
	kcore       bool     // /proc/kcore exists
	lastCap     uint
}

func readHost() (host, error) {
	var h host
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		h.v2 = true
	} else if h.hierarchies, err = cgroupMounts(); err != nil {
		return h, err
	}
	_, err := os.Stat("/proc/kcore")
	h.kcore = err == nil
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return h, err
	}
	if _, err := fmt.Sscan(string(b), &h.lastCap); err != nil || h.lastCap > 63 {
		return h, fmt.Errorf("read cap_last_cap: %q", b)
	}
	return h, nil
}

// cgroupMounts returns the last parts of the paths where cgroup v1 hierarchies
// are mounted, each once.
func cgroupMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		head, tail, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(head)
		if !ok || !strings.HasPrefix(tail, "cgroup ") || len(fields) < 5 {
			continue
		}
		if name := path.Base(fields[4]); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, s.Err()
}
