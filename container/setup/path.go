package setup

import (
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxLinks is how many dangling links one path may lead through.
const maxLinks = 40

// beneath opens a path of the container as O_PATH. No path leads out of the
// root, whatever links it meets.
func (s *stage) beneath(path cstr, flags, resolve uint64) (int, syscall.Errno) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	for range 1000 {
		fd, e := do(unix.SYS_OPENAT2, uintptr(s.root), uintptr(ptr(path)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		if e != syscall.EAGAIN { // a rename somewhere while ".." was followed
			return int(fd), e
		}
	}
	return -1, syscall.EAGAIN
}

// directory opens a directory of the container and makes what is missing of it.
func (s *stage) directory(path cstr, resolve uint64) (fd int, made bool, e syscall.Errno) {
	fd, e = s.beneath(path, unix.O_DIRECTORY, resolve)
	if e != syscall.ENOENT {
		return fd, false, e
	}
	fd, e = s.create(path.String(), true, resolve)
	return fd, true, e
}

// create makes the missing part of a path, directories and last a directory or
// an empty file, and opens it. A dangling link is followed to what it names.
func (s *stage) create(path string, dir bool, resolve uint64) (int, syscall.Errno) {
	if fd, e := s.createLast(path, dir, resolve); e == 0 {
		return fd, 0
	}
	for range maxLinks {
		fd, next, e := s.tryCreate(path, dir, resolve)
		if next == "" {
			return fd, e
		}
		path = next
	}
	return -1, syscall.ELOOP
}

// createLast is create for the common case that only the last name is missing.
func (s *stage) createLast(path string, dir bool, resolve uint64) (int, syscall.Errno) {
	i := strings.LastIndexByte(path, '/')
	parent, e := s.beneath(toC(path[:i+1]), unix.O_DIRECTORY, resolve)
	if e != 0 {
		return -1, e
	}
	defer closeFD(parent)
	name := toC(path[i+1:])
	if e := makeAt(parent, name, dir); e != 0 {
		return -1, e
	}
	fd, e := do(unix.SYS_OPENAT, uintptr(parent), uintptr(ptr(name)), unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0, 0, 0)
	return int(fd), e
}

// tryCreate goes along a path. It returns the next path to try when it comes
// to a dangling link.
func (s *stage) tryCreate(path string, dir bool, resolve uint64) (fd int, next string, e syscall.Errno) {
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	at, e := s.beneath(toC("/"), unix.O_DIRECTORY, resolve)
	if e != 0 {
		return -1, "", e
	}
	for i, name := range names {
		prefix := "/" + strings.Join(names[:i+1], "/")
		last := i == len(names)-1
		kind := uint64(unix.O_DIRECTORY)
		if last && !dir {
			kind = 0
		}
		fd, e = s.beneath(toC(prefix), kind, resolve)
		if e == syscall.ENOENT {
			e = makeAt(at, toC(name), kind != 0)
			if e == syscall.EEXIST {
				target, e := readlinkAt(at, toC(name))
				closeFD(at)
				if e != 0 {
					return -1, "", e
				}
				if !strings.HasPrefix(target, "/") {
					target = "/" + strings.Join(names[:i], "/") + "/" + target
				}
				return -1, target + "/" + strings.Join(names[i+1:], "/"), 0
			}
			if e == 0 {
				fd, e = s.beneath(toC(prefix), kind, resolve)
			}
		}
		closeFD(at)
		if e != 0 {
			return -1, "", e
		}
		at = fd
	}
	return at, "", 0
}

func makeAt(at int, name cstr, dir bool) syscall.Errno {
	if dir {
		_, e := do(unix.SYS_MKDIRAT, uintptr(at), uintptr(ptr(name)), 0o755, 0, 0, 0)
		return e
	}
	fd, e := do(unix.SYS_OPENAT, uintptr(at), uintptr(ptr(name)), unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755, 0, 0)
	if e == 0 {
		closeFD(int(fd))
	}
	return e
}

func readlinkAt(at int, name cstr) (string, syscall.Errno) {
	buf := make([]byte, 4096)
	n, e := do(unix.SYS_READLINKAT, uintptr(at), uintptr(ptr(name)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if e == syscall.EINVAL { // not a link: it came to be just now
		e = syscall.EEXIST
	}
	if e != 0 {
		return "", e
	}
	return string(buf[:n]), 0
}
