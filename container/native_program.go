package container

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/cgroup"
	"github.com/mayfly-run/mayfly/container/setup"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// translation is a Spec in the words of the kernel.
type translation struct {
	program setup.Program
	host    *host
	cgroup  string     // path of the container's
	groups  []string   // where it is in the v1 hierarchies
	clone   uintptr    // namespaces to start in
	unshare uint32     // namespaces to make once in the cgroup
	files   []*os.File // namespaces to join
	kinds   []uint32   // and what they are
	own     []*os.File // of them, those to be closed
}

func (t *translation) close() {
	for _, f := range t.own {
		f.Close()
	}
}

func unsupported(what string) error {
	return mayfly.Errorf(mayfly.Invalid, "the native driver does not support %s", what).WithHint("use the runc or the crun driver")
}

// translate reads what a bundle asks for and opens what it needs. It touches
// nothing of the machine.
func (n *Native) translate(b *Bundle) (*translation, error) {
	s := b.Spec
	if err := checkSpec(s); err != nil {
		return nil, err
	}
	t := &translation{host: &n.host, cgroup: s.Linux.CgroupsPath}
	if !path.IsAbs(t.cgroup) || t.cgroup != path.Clean(t.cgroup) || t.cgroup == "/" {
		return nil, mayfly.Errorf(mayfly.Invalid, "cgroup path %q is not an absolute path below the root", t.cgroup)
	}
	if err := t.namespaces(b); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// finish writes the program: the steps in the order in which runc takes them.
func (n *Native) finish(t *translation, b *Bundle, g *cgroup.Group) error {
	for _, file := range g.Tasks() {
		t.program.Write(file, "0", false)
	}
	t.groups = g.Dirs()
	t.enter(b)
	if err := t.root(n.at, b); err != nil {
		return err
	}
	if err := t.kernel(b.Spec); err != nil {
		return err
	}
	if err := n.process(t, b.Spec); err != nil {
		return err
	}
	return t.program.Err()
}

// checkSpec refuses what would otherwise be left out in silence.
func checkSpec(s *specs.Spec) error {
	if s == nil || s.Process == nil || len(s.Process.Args) == 0 || s.Linux == nil {
		return mayfly.Errorf(mayfly.Invalid, "the container config has no process or no linux section")
	}
	for _, c := range []struct {
		have bool
		what string
	}{
		{s.Hooks != nil, "hooks"},
		{s.Process.Terminal, "terminals"},
		{s.Process.ApparmorProfile != "", "AppArmor profiles"},
		{s.Process.SelinuxLabel != "" || s.Linux.MountLabel != "", "SELinux labels"},
		{s.Process.Scheduler != nil || s.Process.IOPriority != nil || s.Process.ExecCPUAffinity != nil, "scheduling attributes"},
		{len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0, "user namespaces"},
		{s.Linux.IntelRdt != nil, "Intel RDT"},
		{len(s.Linux.TimeOffsets) > 0, "time namespaces"},
	} {
		if c.have {
			return unsupported(c.what)
		}
	}
	return nil
}

// namespaces decides which namespaces are made and which are joined.
func (t *translation) namespaces(b *Bundle) error {
	var have uint32
	for _, ns := range b.Spec.Linux.Namespaces {
		kind, ok := namespaceFlag(ns.Type)
		if !ok {
			return unsupported(string(ns.Type) + " namespaces")
		}
		if have&kind != 0 {
			return mayfly.Errorf(mayfly.Invalid, "the container config names two %s namespaces", ns.Type)
		}
		have |= kind
		switch {
		case kind == unix.CLONE_NEWNET && b.NetNS != nil:
		case ns.Path == "" && kind == unix.CLONE_NEWCGROUP:
			t.unshare |= kind
		case ns.Path == "":
			t.clone |= uintptr(kind)
		case kind == unix.CLONE_NEWPID || kind == unix.CLONE_NEWNS:
			return unsupported("joining a " + string(ns.Type) + " namespace")
		default:
			f, err := os.Open(ns.Path)
			if err != nil {
				return mayfly.Errorf(mayfly.Invalid, "open %s namespace: %w", ns.Type, err)
			}
			t.own = append(t.own, f)
			t.join(f, kind)
		}
	}
	if have&unix.CLONE_NEWNS == 0 {
		return unsupported("containers in the host's mount namespace")
	}
	if b.NetNS != nil {
		have |= unix.CLONE_NEWNET
		t.join(b.NetNS, unix.CLONE_NEWNET)
	}
	return checkSysctl(b.Spec, have)
}

func (t *translation) join(f *os.File, kind uint32) {
	t.files = append(t.files, f)
	t.kinds = append(t.kinds, kind)
}

// enter adds the steps up to being in all namespaces.
func (t *translation) enter(b *Bundle) {
	p := &t.program
	p.Umask(0o022) // for the directories that are made
	if v := b.Spec.Process.OOMScoreAdj; v != nil {
		p.Write("/proc/self/oom_score_adj", strconv.Itoa(*v), true)
	}
	for i, kind := range t.kinds {
		p.Setns(i, kind)
	}
	if t.unshare != 0 {
		p.Unshare(t.unshare)
	}
	p.Keyring("_ses."+b.ID, 0x80000) // searchable by its user
	if t.clone&unix.CLONE_NEWNET != 0 {
		p.Loopback()
	}
}

func namespaceFlag(t specs.LinuxNamespaceType) (uint32, bool) {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID, true
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, true
	case specs.MountNamespace:
		return unix.CLONE_NEWNS, true
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, true
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, true
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP, true
	}
	return 0, false
}

// checkSysctl refuses sysctls that are not the container's own.
func checkSysctl(s *specs.Spec, have uint32) error {
	for key := range s.Linux.Sysctl {
		key = strings.ReplaceAll(key, "/", ".")
		var needs uint32
		switch {
		case strings.Contains(key, ".."):
		case strings.HasPrefix(key, "net."):
			needs = unix.CLONE_NEWNET
		case strings.HasPrefix(key, "fs.mqueue."), strings.HasPrefix(key, "kernel.msg"),
			strings.HasPrefix(key, "kernel.shm"), key == "kernel.sem":
			needs = unix.CLONE_NEWIPC
		case key == "kernel.domainname":
			needs = unix.CLONE_NEWUTS
		}
		if needs == 0 || have&needs == 0 {
			return mayfly.Errorf(mayfly.Invalid, "sysctl %q is not of a namespace of the container's own", key)
		}
	}
	if s.Hostname != "" || s.Domainname != "" {
		if have&unix.CLONE_NEWUTS == 0 {
			return mayfly.Errorf(mayfly.Invalid, "a host name needs a uts namespace")
		}
	}
	return nil
}

// root adds the steps from the overlay to the finished root.
func (t *translation) root(at string, b *Bundle) error {
	p, s := &t.program, b.Spec
	flags := uint64(unix.MS_SLAVE | unix.MS_REC)
	if m := s.Linux.RootfsPropagation; m != "" {
		if flags = propagation(m); flags&(unix.MS_SLAVE|unix.MS_PRIVATE) == 0 {
			return unsupported("root propagation " + m)
		}
	}
	p.Propagate(flags)
	data, dir, err := b.Rootfs.mountData(b.Dir)
	if err != nil {
		return err
	}
	p.Overlay(at, dir, data)
	mounts := make([]mountSpec, 0, len(s.Mounts))
	dev := true // whether /dev is ours to fill
	for _, m := range s.Mounts {
		parsed, err := parseMount(m, b.Dir)
		if err != nil {
			return err
		}
		if err := t.mount(parsed); err != nil {
			return err
		}
		dev = dev && (parsed.fstype != "bind" || parsed.target != "/dev")
		mounts = append(mounts, parsed)
	}
	if dev {
		if err := t.devices(s); err != nil {
			return err
		}
	}
	p.Pivot()
	if dev {
		p.Null()
	}
	if s.Process.Cwd != "" {
		p.Enter(path.Clean(s.Process.Cwd), false)
	}
	for _, m := range mounts {
		if m.flags&unix.MS_RDONLY != 0 && t.late(m) && m.fstype != "bind" {
			p.Remount(m.target, m.flags)
		}
	}
	if s.Root != nil && s.Root.Readonly {
		p.Remount("/", unix.MS_RDONLY)
	}
	return nil
}

// device is a device node of /dev.
type device struct {
	path         string
	mode         uint32
	major, minor uint32
	uid, gid     uint32
}

// defaultDevices are in every container.
func defaultDevices() []device {
	return []device{
		{"/dev/null", unix.S_IFCHR | 0o666, 1, 3, 0, 0}, {"/dev/random", unix.S_IFCHR | 0o666, 1, 8, 0, 0},
		{"/dev/full", unix.S_IFCHR | 0o666, 1, 7, 0, 0}, {"/dev/tty", unix.S_IFCHR | 0o666, 5, 0, 0, 0},
		{"/dev/zero", unix.S_IFCHR | 0o666, 1, 5, 0, 0}, {"/dev/urandom", unix.S_IFCHR | 0o666, 1, 9, 0, 0},
	}
}

// devices fills /dev.
func (t *translation) devices(s *specs.Spec) error {
	p := &t.program
	all := slices.DeleteFunc(defaultDevices(), func(d device) bool {
		return slices.ContainsFunc(s.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == d.path })
	})
	for _, d := range s.Linux.Devices {
		parsed, err := parseDevice(d)
		if err != nil {
			return err
		}
		all = append(all, parsed)
	}
	dir := ""
	for _, d := range all {
		if d.path == "/dev/ptmx" {
			continue
		}
		if d := path.Dir(d.path); d != dir {
			p.Enter(d, false)
			dir = d
		}
		p.Mknod(path.Base(d.path), d.mode, unix.Mkdev(d.major, d.minor), d.uid, d.gid)
	}
	if dir != "/dev" {
		p.Enter("/dev", false)
	}
	p.Unlink("ptmx")
	p.Symlink("pts/ptmx", "ptmx")
	p.Symlink("/proc/self/fd", "fd")
	p.Symlink("/proc/self/fd/0", "stdin")
	p.Symlink("/proc/self/fd/1", "stdout")
	p.Symlink("/proc/self/fd/2", "stderr")
	if t.host.kcore {
		p.Symlink("/proc/kcore", "core")
	}
	return nil
}

func parseDevice(d specs.LinuxDevice) (device, error) {
	r := device{path: path.Clean(d.Path), mode: 0o666, major: uint32(d.Major), minor: uint32(d.Minor)}
	if d.FileMode != nil {
		r.mode = uint32(*d.FileMode) & 0o7777
	}
	switch d.Type {
	case "c", "u":
		r.mode |= unix.S_IFCHR
	case "b":
		r.mode |= unix.S_IFBLK
	case "p":
		r.mode |= unix.S_IFIFO
	default:
		return r, mayfly.Errorf(mayfly.Invalid, "device %q has unknown type %q", d.Path, d.Type)
	}
	if !path.IsAbs(r.path) || r.path == "/" {
		return r, mayfly.Errorf(mayfly.Invalid, "device path %q is not absolute", d.Path)
	}
	if d.UID != nil {
		r.uid = *d.UID
	}
	if d.GID != nil {
		r.gid = *d.GID
	}
	return r, nil
}

// kernel adds the steps about names, sysctls and hidden paths.
func (t *translation) kernel(s *specs.Spec) error {
	p := &t.program
	umask := uint32(0o022)
	if m := s.Process.User.Umask; m != nil {
		umask = *m
	}
	p.Umask(umask)
	if s.Hostname != "" {
		p.Hostname(s.Hostname)
	}
	if s.Domainname != "" {
		p.Domainname(s.Domainname)
	}
	keys := make([]string, 0, len(s.Linux.Sysctl))
	for key := range s.Linux.Sysctl {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		p.Write("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), s.Linux.Sysctl[key], false)
	}
	for _, path := range s.Linux.ReadonlyPaths {
		p.Readonly(path)
	}
	for _, path := range s.Linux.MaskedPaths {
		p.Mask(path)
	}
	if d := s.Linux.Personality; d != nil {
		switch d.Domain {
		case specs.PerLinux:
			p.Personality(0)
		case specs.PerLinux32:
			p.Personality(8)
		default:
			return mayfly.Errorf(mayfly.Invalid, "unknown personality %q", d.Domain)
		}
	}
	return nil
}
