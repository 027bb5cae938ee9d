package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Parent makes a group that holds no processes but containers' groups, and
// hands it all controllers; what is there already stays. On v2 no group may
// hold both processes and groups with controllers, so where this process is
// itself in the way, as in a container of its own or in a delegated subtree,
// it and its neighbours move to "mayfly-daemon" below their group. Call it
// once, before groups are made.
func (h *Host) Parent(p string) error {
	if err := checkPath(p); err != nil {
		return err
	}
	for _, t := range h.Hierarchies {
		if err := os.MkdirAll(t.Mount+p, 0o755); err != nil {
			return fmt.Errorf("make parent control group: %w", err)
		}
		if slices.Contains(t.Controllers, "cpuset") {
			if err := inheritCpuset(t.Mount, p); err != nil {
				return fmt.Errorf("make parent control group: %w", err)
			}
		}
	}
	if h.Unified == "" {
		return nil
	}
	for _, ancestor := range lineage(p) {
		if err := os.Mkdir(h.Unified+ancestor, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make parent control group: %w", err)
		}
		if h.Mode == V2 {
			if err := h.delegate(ancestor); err != nil {
				return fmt.Errorf("hand controllers to control group: %w", err)
			}
		}
	}
	return nil
}

// lineage returns "/", "/a" and "/a/b" for "/a/b".
func lineage(p string) []string {
	list := []string{p}
	for p != "/" {
		p = path.Dir(p)
		list = append(list, p)
	}
	slices.Reverse(list)
	return list
}

// inheritCpuset gives a v1 group, and each between the root and it, the
// processors and memory nodes of the one above, without which no process can
// enter. Groups made below it later have them from the start.
func inheritCpuset(mount, p string) error {
	for _, ancestor := range lineage(p)[1:] {
		dir := mount + ancestor
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := read(dir, file)
			if err != nil {
				return err
			}
			if have != "" {
				continue
			}
			above, err := read(path.Dir(dir), file)
			if err == nil {
				err = write(dir, file, above)
			}
			if err != nil {
				return err
			}
		}
	}
	return write(mount+p, "cgroup.clone_children", "1")
}

// delegate turns on, for the groups below one on v2, every controller that it
// has and containers need.
func (h *Host) delegate(p string) error {
	dir := h.Unified + p
	have, err := read(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	on, err := read(dir, "cgroup.subtree_control")
	if err != nil {
		return err
	}
	var missing []string
	for _, controller := range []string{"cpuset", "cpu", "io", "memory", "pids"} {
		if slices.Contains(strings.Fields(have), controller) && !slices.Contains(strings.Fields(on), controller) {
			missing = append(missing, "+"+controller)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	err = write(dir, "cgroup.subtree_control", strings.Join(missing, " "))
	if errors.Is(err, unix.EBUSY) && path.Clean("/"+h.Self) == p {
		if err = h.stepAside(p); err == nil {
			err = write(dir, "cgroup.subtree_control", strings.Join(missing, " "))
		}
	}
	return err
}

// stepAside moves the processes of this process's group one level down.
func (h *Host) stepAside(p string) error {
	leaf := path.Join(p, "mayfly-daemon")
	if err := os.Mkdir(h.Unified+leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for range 10 { // what was forked meanwhile comes in the next round
		text, err := read(h.Unified+p, "cgroup.procs")
		if err != nil {
			return err
		}
		pids := strings.Fields(text)
		for _, pid := range pids {
			err := write(h.Unified+leaf, "cgroup.procs", pid)
			if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) { // gone, or the kernel's own
				return err
			}
		}
		if len(pids) == 0 {
			break
		}
	}
	h.Self = leaf
	return nil
}
