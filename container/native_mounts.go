package container

import (
	"path"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/setup"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOption is what a mount option of the OCI runtime spec stands for.
type mountOption struct {
	flag  uint64
	clear bool
}

// mountFlags returns the meaning of a mount option that is a flag of mount(2).
func mountFlags(option string) (mountOption, bool) {
	switch option {
	case "async":
		return mountOption{unix.MS_SYNCHRONOUS, true}, true
	case "atime":
		return mountOption{unix.MS_NOATIME, true}, true
	case "bind":
		return mountOption{unix.MS_BIND, false}, true
	case "defaults":
		return mountOption{0, false}, true
	case "dev":
		return mountOption{unix.MS_NODEV, true}, true
	case "diratime":
		return mountOption{unix.MS_NODIRATIME, true}, true
	case "dirsync":
		return mountOption{unix.MS_DIRSYNC, false}, true
	case "exec":
		return mountOption{unix.MS_NOEXEC, true}, true
	case "lazytime":
		return mountOption{unix.MS_LAZYTIME, false}, true
	case "noatime":
		return mountOption{unix.MS_NOATIME, false}, true
	case "nodev":
		return mountOption{unix.MS_NODEV, false}, true
	case "nodiratime":
		return mountOption{unix.MS_NODIRATIME, false}, true
	case "noexec":
		return mountOption{unix.MS_NOEXEC, false}, true
	case "nolazytime":
		return mountOption{unix.MS_LAZYTIME, true}, true
	case "norelatime":
		return mountOption{unix.MS_RELATIME, true}, true
	case "nostrictatime":
		return mountOption{unix.MS_STRICTATIME, true}, true
	case "nosuid":
		return mountOption{unix.MS_NOSUID, false}, true
	case "nosymfollow":
		return mountOption{unix.MS_NOSYMFOLLOW, false}, true
	case "rbind":
		return mountOption{unix.MS_BIND | unix.MS_REC, false}, true
	case "relatime":
		return mountOption{unix.MS_RELATIME, false}, true
	case "ro":
		return mountOption{unix.MS_RDONLY, false}, true
	case "rw":
		return mountOption{unix.MS_RDONLY, true}, true
	case "silent":
		return mountOption{unix.MS_SILENT, false}, true
	case "strictatime":
		return mountOption{unix.MS_STRICTATIME, false}, true
	case "suid":
		return mountOption{unix.MS_NOSUID, true}, true
	case "symfollow":
		return mountOption{unix.MS_NOSYMFOLLOW, true}, true
	case "sync":
		return mountOption{unix.MS_SYNCHRONOUS, false}, true
	}
	return mountOption{}, false
}

// recursiveFlags returns the meaning of a mount option that is a flag of
// mount_setattr(2) for a whole tree.
func recursiveFlags(option string) (mountOption, bool) {
	switch option {
	case "rro":
		return mountOption{unix.MOUNT_ATTR_RDONLY, false}, true
	case "rrw":
		return mountOption{unix.MOUNT_ATTR_RDONLY, true}, true
	case "rnosuid":
		return mountOption{unix.MOUNT_ATTR_NOSUID, false}, true
	case "rsuid":
		return mountOption{unix.MOUNT_ATTR_NOSUID, true}, true
	case "rnodev":
		return mountOption{unix.MOUNT_ATTR_NODEV, false}, true
	case "rdev":
		return mountOption{unix.MOUNT_ATTR_NODEV, true}, true
	case "rnoexec":
		return mountOption{unix.MOUNT_ATTR_NOEXEC, false}, true
	case "rexec":
		return mountOption{unix.MOUNT_ATTR_NOEXEC, true}, true
	}
	return mountOption{}, false
}

// propagation returns the flags of a propagation mode, and 0 for other words.
func propagation(mode string) uint64 {
	var below uint64
	if tree, ok := strings.CutPrefix(mode, "r"); ok {
		mode, below = tree, unix.MS_REC
	}
	switch mode {
	case "private":
		return unix.MS_PRIVATE | below
	case "slave":
		return unix.MS_SLAVE | below
	case "shared":
		return unix.MS_SHARED | below
	case "unbindable":
		return unix.MS_UNBINDABLE | below
	}
	return 0
}

// mountSpec is a mount of the Spec with its options understood.
type mountSpec struct {
	source, target, fstype string
	flags                  uint64
	recSet, recClear       uint64
	propagation            []uint64
	data                   string
}

func parseMount(m specs.Mount, dir string) (mountSpec, error) {
	if !path.IsAbs(m.Destination) {
		return mountSpec{}, mayfly.Errorf(mayfly.Invalid, "mount destination %q is not an absolute path", m.Destination)
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return mountSpec{}, unsupported("id-mapped mounts")
	}
	s := mountSpec{source: m.Source, target: path.Clean(m.Destination), fstype: m.Type}
	var data []string
	for _, o := range m.Options {
		if f, ok := mountFlags(o); ok {
			s.flags = f.apply(s.flags)
		} else if p := propagation(o); p != 0 {
			s.propagation = append(s.propagation, p)
		} else if f, ok := recursiveFlags(o); ok {
			if f.clear {
				s.recClear |= f.flag
			} else {
				s.recSet |= f.flag
			}
		} else if o == "tmpcopyup" {
			return mountSpec{}, unsupported("mount option tmpcopyup")
		} else {
			data = append(data, o)
		}
	}
	s.data = strings.Join(data, ",")
	if s.flags&unix.MS_BIND != 0 || s.fstype == "bind" {
		s.fstype = "bind"
		if !path.IsAbs(s.source) {
			s.source = path.Join(dir, s.source)
		}
	}
	return s, nil
}

func (o mountOption) apply(flags uint64) uint64 {
	if o.clear {
		return flags &^ o.flag
	}
	return flags | o.flag
}

// mount adds the steps of one mount.
func (t *translation) mount(m mountSpec) error {
	p := &t.program
	if strings.HasPrefix(m.target, "/proc/") && !procFile(m.target) {
		return mayfly.Errorf(mayfly.Invalid, "%q cannot be mounted on: it is inside /proc", m.target)
	}
	switch m.fstype {
	case "bind":
		p.Bind(m.bind())
		return nil
	case "cgroup":
		return t.cgroups(m)
	}
	if m.target == "/proc" && m.fstype != "proc" {
		return mayfly.Errorf(mayfly.Invalid, "only a proc filesystem can be mounted on /proc, not %q", m.fstype)
	}
	flags := m.flags
	if t.late(m) {
		flags &^= unix.MS_RDONLY // devices and modes are still to be set
	}
	p.Enter(m.target, m.fstype == "proc" || m.fstype == "sysfs")
	p.Mount(m.source, m.fstype, flags, m.data, m.fstype == "tmpfs")
	t.propagate(m)
	return nil
}

func (t *translation) propagate(m mountSpec) {
	for _, f := range m.propagation {
		t.program.PropagateMount(m.target, f)
	}
}

// late says whether a mount becomes read-only only when the root is complete.
func (t *translation) late(m mountSpec) bool { return m.fstype == "tmpfs" || m.target == "/dev" }

// procFile says whether a path of procfs may be mounted on: those files that
// lxcfs emulates.
func procFile(target string) bool {
	switch target {
	case "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
		"/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid":
		return true
	}
	return false
}

// bind translates flags of mount(2) to those of mount_setattr(2). A bind mount
// keeps the flags of its source unless it asks for any of its own.
func (m mountSpec) bind() setup.Bind {
	b := setup.Bind{
		Source: m.source, Target: m.target, Recursive: m.flags&unix.MS_REC != 0,
		RecSet: m.recSet, RecClear: m.recClear, Propagation: m.propagation, Proc: procFile(m.target),
	}
	if m.flags&^(unix.MS_BIND|unix.MS_REC|unix.MS_REMOUNT) == 0 {
		return b
	}
	const same = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC // equal to MS_
	b.Set = m.flags & same
	b.Clear = same &^ b.Set
	if m.flags&unix.MS_NOSYMFOLLOW != 0 {
		b.Set |= unix.MOUNT_ATTR_NOSYMFOLLOW
	} else {
		b.Clear |= unix.MOUNT_ATTR_NOSYMFOLLOW
	}
	if m.flags&(unix.MS_NOATIME|unix.MS_NODIRATIME|unix.MS_RELATIME|unix.MS_STRICTATIME) != 0 {
		b.Clear |= unix.MOUNT_ATTR__ATIME // the whole of it, whichever is set
		switch {
		case m.flags&unix.MS_STRICTATIME != 0:
			b.Set |= unix.MOUNT_ATTR_STRICTATIME
		case m.flags&unix.MS_NOATIME != 0:
			b.Set |= unix.MOUNT_ATTR_NOATIME
		}
		if m.flags&unix.MS_NODIRATIME != 0 {
			b.Set |= unix.MOUNT_ATTR_NODIRATIME
		} else {
			b.Clear |= unix.MOUNT_ATTR_NODIRATIME
		}
	}
	return b
}

// cgroups mounts the container's view of its cgroups: on cgroup v2 the one
// hierarchy, else a tmpfs with the container's part of each of the host's. That
// looks from inside as the mounts that runc makes do, for much less: those are
// superblocks of their own.
func (t *translation) cgroups(m mountSpec) error {
	p := &t.program
	if t.host.v2 {
		p.Enter(m.target, false)
		p.Mount(m.source, "cgroup2", m.flags, m.data, false)
		return nil
	}
	if t.unshare&unix.CLONE_NEWCGROUP == 0 {
		return unsupported("a cgroup mount without a cgroup namespace")
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC // equal to MOUNT_ATTR_
	p.Enter(m.target, false)
	p.Mount("tmpfs", "tmpfs", flags, "mode=755", true)
	t.propagate(m)
	for i, at := range t.host.hierarchies {
		h := path.Base(at)
		if h == "systemd" { // its mount is named otherwise than the host's
			p.Enter(m.target+"/"+h, false)
			p.Mount(h, "cgroup", flags|m.flags&unix.MS_RDONLY, "name=systemd", false)
			continue
		}
		p.Bind(setup.Bind{Source: t.groups[i], Target: m.target + "/" + h, Set: flags | m.flags&unix.MS_RDONLY})
	}
	for _, at := range t.host.hierarchies {
		h := path.Base(at)
		if !strings.Contains(h, ",") {
			continue
		}
		p.Enter(m.target, false)
		for one := range strings.SplitSeq(h, ",") {
			p.Symlink(h, one)
		}
	}
	return nil
}
