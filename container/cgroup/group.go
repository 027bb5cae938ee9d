package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is one container's group. On v1 it is one in each hierarchy that
// limits or counts what it does; in the others its processes are in the
// parent's group, for each group more costs 0.1 ms. Close or Remove it when it
// is no longer used.
type Group struct {
	Path string // within each hierarchy

	host *Host
	dirs []string // where its processes are in the v1 hierarchies, in the host's order
	own  []bool   // which of dirs are not the parent's
	v2   string   // in the unified tree; empty on v1
	fd   int      // of v2; -1 on v1
}

// checkPath refuses a path that could lead out of the hierarchies or that
// names their root.
func checkPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\n\x00") {
		return fmt.Errorf("control group path %q: want an absolute, clean one below the root", p)
	}
	return nil
}

// group describes a group; own says in which v1 hierarchies it is one.
func (h *Host) group(p string, own func(*Hierarchy) bool) *Group {
	g := &Group{Path: p, host: h, fd: -1}
	for i := range h.Hierarchies {
		t := &h.Hierarchies[i]
		dir, is := t.Mount+p, own(t)
		if !is {
			dir = path.Dir(dir)
		}
		g.dirs, g.own = append(g.dirs, dir), append(g.own, is)
	}
	if h.Unified != "" {
		g.v2 = h.Unified + p
	}
	return g
}

// all returns the directories that are the group's own.
func (g *Group) all() []string {
	var list []string
	for i, dir := range g.dirs {
		if g.own[i] {
			list = append(list, dir)
		}
	}
	if g.v2 != "" {
		list = append(list, g.v2)
	}
	return list
}

// dir returns the group's own directory for a v1 controller, "" if there is
// none.
func (g *Group) dir(controller string) string {
	for i := range g.own {
		if g.own[i] && slices.Contains(g.host.Hierarchies[i].Controllers, controller) {
			return g.dirs[i]
		}
	}
	return ""
}

// wants says whether a group with the limits of r needs one of its own in a v1
// hierarchy. The unified one freezes, too.
func (h *Host) wants(t *Hierarchy, r *specs.LinuxResources) bool {
	return slices.ContainsFunc(t.Controllers, func(controller string) bool {
		switch controller {
		case "cpu", "cpuacct", "memory", "devices", "pids":
			return true
		case "cpuset":
			return r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "")
		case "freezer":
			return h.Unified == ""
		}
		return false
	})
}

// Make makes a group that did not exist and sets its limits; r may be nil. The
// device list is always set: nothing but what OCI runtimes allow by default
// (null, zero, full, random, urandom, tty, terminals, mknod of anything) and
// r.Devices. A missing parent is made by Parent. What r asks and the host
// cannot give is an error, except limits of swap where swap is not counted.
// After an error nothing is left. It is fs.ErrExist if the group exists.
func (h *Host) Make(p string, r *specs.LinuxResources) (*Group, error) {
	if err := checkPath(p); err != nil {
		return nil, err
	}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	g := h.group(p, func(t *Hierarchy) bool { return h.wants(t, r) })
	err := g.mkdir()
	if errors.Is(err, fs.ErrNotExist) && path.Dir(p) != "/" {
		if err = h.Parent(path.Dir(p)); err == nil {
			err = g.mkdir()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	if err = g.openUnified(); err == nil {
		err = g.limit(r)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("limit control group %s: %w", p, err), g.Remove())
	}
	return g, nil
}

// mkdir makes the directories, all or none.
func (g *Group) mkdir() error {
	all := g.all()
	for i, dir := range all {
		if err := os.Mkdir(dir, 0o755); err != nil {
			for _, made := range all[:i] {
				unix.Rmdir(made)
			}
			return err
		}
	}
	return nil
}

func (g *Group) openUnified() (err error) {
	if g.v2 == "" {
		return nil
	}
	g.fd, err = open(g.v2, unix.O_RDONLY|unix.O_DIRECTORY)
	return err
}

// Open returns a group that exists, to adopt what an earlier daemon left. It
// is fs.ErrNotExist when no hierarchy has it. A hierarchy that lacks it, as
// after a crash in the middle of Make or Remove, is passed over.
func (h *Host) Open(p string) (*Group, error) {
	if err := checkPath(p); err != nil {
		return nil, err
	}
	found := false
	g := h.group(p, func(t *Hierarchy) bool {
		there := exists(t.Mount + p)
		found = found || there
		return there
	})
	if found = found || g.v2 != "" && exists(g.v2); !found {
		return nil, fmt.Errorf("open control group %s: %w", p, fs.ErrNotExist)
	}
	if err := g.openUnified(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open control group %s: %w", p, err)
	}
	return g, nil
}

// FD returns a descriptor of the group in the unified hierarchy, for
// CLONE_INTO_CGROUP; it is -1 on v1 and after Close or Remove. On a hybrid host
// it places the process in that hierarchy only.
func (g *Group) FD() int { return g.fd }

// Dirs returns where the group's processes are in the v1 hierarchies, in the
// order of Host.Hierarchies; none on v2.
func (g *Group) Dirs() []string { return slices.Clone(g.dirs) }

// Tasks returns the files of the v1 hierarchies to which a thread writes "0"
// to enter the group; none on v2.
func (g *Group) Tasks() []string {
	var files []string
	for _, dir := range g.dirs {
		files = append(files, dir+"/tasks")
	}
	return files
}

// Add moves a process with all its threads into the group. It may wait some
// milliseconds for the kernel; FD and Tasks do not.
func (g *Group) Add(pid int) error {
	dirs := g.dirs
	if g.v2 != "" {
		dirs = append(slices.Clone(dirs), g.v2)
	}
	for _, dir := range dirs {
		if err := write(dir, "cgroup.procs", fmt.Sprint(pid)); err != nil {
			return fmt.Errorf("move process into control group: %w", err)
		}
	}
	return nil
}

// Close lets go of the descriptor; the group stays.
func (g *Group) Close() error {
	fd := g.fd
	if g.fd = -1; fd < 0 {
		return nil
	}
	return unix.Close(fd)
}
