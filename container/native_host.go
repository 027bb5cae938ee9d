package container

import (
	"fmt"
	"os"

	"github.com/mayfly-run/mayfly/container/cgroup"
)

// host is what the native driver has to know of the machine.
type host struct {
	v2          bool     // pure cgroup v2
	hierarchies []string // where cgroup v1 is mounted, in the order of the mounts
	kcore       bool     // /proc/kcore exists
	lastCap     uint
}

func readHost(groups *cgroup.Host) (host, error) {
	h := host{v2: groups.Mode == cgroup.V2}
	for _, hierarchy := range groups.Hierarchies {
		h.hierarchies = append(h.hierarchies, hierarchy.Mount)
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
