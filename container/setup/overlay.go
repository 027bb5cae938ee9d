package setup

import (
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pageSize is what mount(2) takes of data, its NUL included.
const pageSize = 4096

// overlay mounts the container's root and keeps a descriptor of it.
func (s *stage) overlay() (string, syscall.Errno) {
	at, data, lower, upper, work, volatile := s.str(), s.str(), s.list(), s.str(), s.str(), s.flag()
	var e syscall.Errno
	text := " on " + at.String()
	if len(data) <= pageSize {
		e = mount(overlayType, at, overlayType, 0, data)
	} else {
		e = mountLayers(at, lower, upper, work, volatile)
	}
	if e == 0 {
		s.root, e = open(at, unix.O_PATH|unix.O_DIRECTORY)
	}
	return text, e
}

var overlayType = cstr("overlay\x00")

// mountLayers mounts an overlay whose options are longer than a page: with
// Linux 6.8 or later by naming one layer at a time, before with paths that are
// short because they start at the layers' common directory.
func mountLayers(at cstr, lower []cstr, upper, work cstr, volatile bool) syscall.Errno {
	r, e := do(unix.SYS_FSOPEN, uintptr(ptr(overlayType)), unix.FSOPEN_CLOEXEC, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	fs := int(r)
	defer closeFD(fs)
	set := func(key string, value cstr) {
		if e == 0 {
			e = fsconfig(fs, unix.FSCONFIG_SET_STRING, toC(key), value)
		}
	}
	set("source", overlayType)
	for i, l := range lower {
		set("lowerdir+", l)
		if i == 0 && e != 0 {
			return mountShortened(at, lower, upper, work, volatile)
		}
	}
	if len(upper) > 1 {
		set("upperdir", upper)
		set("workdir", work)
		if volatile && e == 0 {
			e = fsconfig(fs, unix.FSCONFIG_SET_FLAG, toC("volatile"), nil)
		}
	}
	if e == 0 {
		e = fsconfig(fs, unix.FSCONFIG_CMD_CREATE, nil, nil)
	}
	if e != 0 {
		return e
	}
	m, e := do(unix.SYS_FSMOUNT, uintptr(fs), unix.FSMOUNT_CLOEXEC, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	defer closeFD(int(m))
	_, e = do(unix.SYS_MOVE_MOUNT, m, uintptr(ptr(empty)), atCwd, uintptr(ptr(at)), unix.MOVE_MOUNT_F_EMPTY_PATH, 0)
	return e
}

func fsconfig(fd, command int, key, value cstr) syscall.Errno {
	_, e := do(unix.SYS_FSCONFIG, uintptr(fd), uintptr(command), uintptr(ptr(key)), uintptr(ptr(value)), 0, 0)
	return e
}

func mountShortened(at cstr, lower []cstr, upper, work cstr, volatile bool) syscall.Errno {
	dir := lower[0].String()
	for _, l := range lower {
		for !strings.HasPrefix(l.String(), dir+"/") {
			i := strings.LastIndexByte(dir, '/')
			if i < 0 {
				return syscall.E2BIG
			}
			dir = dir[:i]
		}
	}
	var names []string
	for _, l := range lower {
		names = append(names, l.String()[len(dir)+1:])
	}
	data := "lowerdir=" + strings.Join(names, ":")
	if len(upper) > 1 {
		data += ",upperdir=" + upper.String() + ",workdir=" + work.String()
		if volatile {
			data += ",volatile"
		}
	}
	if len(data) >= pageSize {
		return syscall.E2BIG
	}
	d := toC(dir + "/")
	if _, e := do(unix.SYS_CHDIR, uintptr(unsafe.Pointer(&d[0])), 0, 0, 0, 0, 0); e != 0 {
		return e
	}
	return mount(overlayType, at, overlayType, 0, toC(data))
}
