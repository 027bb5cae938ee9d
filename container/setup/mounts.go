package setup

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filesystem carries out a step that mounts or makes files.
func (s *stage) filesystem(o op) (text string, e syscall.Errno) {
	switch o {
	case opPropagate:
		e = mount(nil, slash, nil, s.u64(), nil)
	case opOverlay:
		return s.overlay()
	case opEnter:
		s.last = s.str()
		e = s.enter(s.flag())
		text = " " + s.last.String()
	case opMount:
		return s.mount()
	case opBind:
		return s.bind()
	case opMknod:
		return s.mknod()
	case opSymlink:
		target, name := s.str(), s.str()
		_, e = do(unix.SYS_SYMLINKAT, uintptr(ptr(target)), atCwd, uintptr(ptr(name)), 0, 0, 0)
		if e == syscall.EEXIST {
			e = 0
		}
		text = " " + s.last.String() + "/" + name.String()
	case opUnlink:
		name := s.str()
		_, e = do(unix.SYS_UNLINKAT, atCwd, uintptr(ptr(name)), 0, 0, 0, 0)
		if e == syscall.ENOENT {
			e = 0
		}
		text = " " + s.last.String() + "/" + name.String()
	case opPivot:
		e = s.pivot()
	case opRemount:
		path := s.str()
		e = mount(nil, path, nil, s.u64()|unix.MS_REMOUNT|unix.MS_BIND, nil)
		text = " " + path.String()
	case opReadonly:
		path := s.str()
		e = readonly(path)
		text = " " + path.String()
	case opMask:
		path := s.str()
		e = mask(path)
		text = " " + path.String()
	}
	return text, e
}

var (
	slash   = cstr("/\x00")
	devNull = cstr("/dev/null\x00")
	tmpfs   = cstr("tmpfs\x00")
)

func (s *stage) enter(plain bool) syscall.Errno {
	resolve := uint64(0)
	if plain {
		resolve = unix.RESOLVE_NO_SYMLINKS
	}
	fd, made, e := s.directory(s.last, resolve)
	if e == 0 {
		e = fchdir(fd)
		closeFD(fd)
	}
	s.made = made
	return e
}

// mount mounts over the current directory.
func (s *stage) mount() (string, syscall.Errno) {
	source, fstype, flags, data, keep := s.str(), s.str(), s.u64(), s.str(), s.flag()
	text := " " + fstype.String() + " on " + s.last.String()
	var st syscall.Stat_t
	keep = keep && !s.made
	if keep {
		if e := stat(dot, &st); e != 0 {
			return text, e
		}
	}
	e := mount(source, dot, fstype, flags, data)
	if e == 0 && keep {
		if e = s.enter(false); e == 0 {
			_, e = do(unix.SYS_FCHMODAT, atCwd, uintptr(ptr(dot)), uintptr(st.Mode&0o7777), 0, 0, 0)
		}
	}
	return text, e
}

func stat(path cstr, st *syscall.Stat_t) syscall.Errno {
	return statAt(unix.AT_FDCWD, path, st, 0)
}

func statAt(fd int, path cstr, st *syscall.Stat_t, flags int) syscall.Errno {
	_, e := do(sysFstatat, uintptr(fd), uintptr(ptr(path)), uintptr(unsafe.Pointer(st)), uintptr(flags), 0, 0)
	return e
}

// bind mounts a file or directory of the host. The mount is made aside, gets
// its flags and is moved to its place, so that it never stands there without.
func (s *stage) bind() (string, syscall.Errno) {
	source, target, recursive := s.str(), s.str(), s.flag()
	top := unix.MountAttr{Attr_set: s.u64(), Attr_clr: s.u64()}
	all := unix.MountAttr{Attr_set: s.u64(), Attr_clr: s.u64()}
	proc := s.flag()
	text := " " + source.String() + " on " + target.String()
	flags := uintptr(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	r, e := do(unix.SYS_OPEN_TREE, atCwd, uintptr(ptr(source)), flags, 0, 0, 0)
	if e != 0 {
		return text, e
	}
	tree := int(r)
	defer closeFD(tree)
	for range s.u32() {
		p := s.u64()
		attr := unix.MountAttr{Propagation: p &^ unix.MS_REC}
		if e := mountSetattr(tree, empty, treeFlags(p&unix.MS_REC != 0), &attr); e != 0 {
			return text, e
		}
	}
	if top != (unix.MountAttr{}) {
		e := mountSetattr(tree, empty, treeFlags(false), &top)
		if e == syscall.EPERM { // flags that this user namespace must keep
			top.Attr_clr &= unix.MOUNT_ATTR__ATIME
			e = mountSetattr(tree, empty, treeFlags(false), &top)
		}
		if e != 0 {
			return text, e
		}
	}
	if all != (unix.MountAttr{}) {
		if e := mountSetattr(tree, empty, treeFlags(true), &all); e != 0 {
			return text, e
		}
	}
	fd, e := s.target(tree, target, proc)
	if e != 0 {
		return text, e
	}
	defer closeFD(fd)
	_, e = do(unix.SYS_MOVE_MOUNT, uintptr(tree), uintptr(ptr(empty)), uintptr(fd), uintptr(ptr(empty)),
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, 0)
	return text, e
}

func treeFlags(recursive bool) int {
	if recursive {
		return unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	}
	return unix.AT_EMPTY_PATH
}

// target opens where a tree is to be mounted and makes it when missing. What
// would cover a part of procfs is refused, for that could undo masks.
func (s *stage) target(tree int, path cstr, proc bool) (int, syscall.Errno) {
	fd, e := s.beneath(path, 0, 0)
	if e == syscall.ENOENT {
		var st syscall.Stat_t
		if e := statAt(tree, empty, &st, unix.AT_EMPTY_PATH); e != 0 {
			return -1, e
		}
		fd, e = s.create(path.String(), st.Mode&syscall.S_IFMT == syscall.S_IFDIR, 0)
	}
	if e != 0 || proc {
		return fd, e
	}
	var fs syscall.Statfs_t
	if _, e = do(unix.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(&fs)), 0, 0, 0, 0); e == 0 && fs.Type == unix.PROC_SUPER_MAGIC {
		e = syscall.EPERM
	}
	if e != 0 {
		closeFD(fd)
		return -1, e
	}
	return fd, 0
}

func (s *stage) mknod() (string, syscall.Errno) {
	name, mode, dev, uid, gid := s.str(), s.u32(), s.u64(), s.u32(), s.u32()
	text := " " + s.last.String() + "/" + name.String()
	old, _ := do(unix.SYS_UMASK, 0, 0, 0, 0, 0, 0)
	_, e := do(unix.SYS_MKNODAT, atCwd, uintptr(ptr(name)), uintptr(mode), uintptr(dev), 0, 0)
	do(unix.SYS_UMASK, old, 0, 0, 0, 0, 0)
	if e == syscall.EEXIST {
		return text, 0
	}
	if e == 0 && uid|gid != 0 {
		_, e = do(unix.SYS_FCHOWNAT, atCwd, uintptr(ptr(name)), uintptr(uid), uintptr(gid), unix.AT_SYMLINK_NOFOLLOW, 0)
	}
	return text, e
}

// pivot changes to the container's root. As pivot_root(2) says, the old root
// then lies on top of the new one and is detached there.
func (s *stage) pivot() syscall.Errno {
	if e := fchdir(s.root); e != 0 {
		return e
	}
	if _, e := do(unix.SYS_PIVOT_ROOT, uintptr(ptr(dot)), uintptr(ptr(dot)), 0, 0, 0, 0); e != 0 {
		return e
	}
	if _, e := do(unix.SYS_UMOUNT2, uintptr(ptr(dot)), unix.MNT_DETACH, 0, 0, 0, 0); e != 0 {
		return e
	}
	_, e := do(unix.SYS_CHDIR, uintptr(ptr(slash)), 0, 0, 0, 0, 0)
	return e
}

// readonly binds a path onto itself, read-only.
func readonly(path cstr) syscall.Errno {
	e := mount(path, path, nil, unix.MS_BIND|unix.MS_REC, nil)
	if e != 0 {
		if e == syscall.ENOENT {
			return 0
		}
		return e
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return mountSetattr(unix.AT_FDCWD, path, 0, &attr)
}

// mask puts /dev/null over a file and an empty directory over a directory.
func mask(path cstr) syscall.Errno {
	e := mount(devNull, path, nil, unix.MS_BIND, nil)
	switch e {
	case syscall.ENOENT:
		return 0
	case syscall.ENOTDIR:
		return mount(tmpfs, path, tmpfs, unix.MS_RDONLY, nil)
	}
	return e
}
