package setup

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls are made raw: the stage has one goroutine, so the Go scheduler
// need not hear of them, and what they change is this thread's.

// cstr is a string with its NUL.
type cstr []byte

func (c cstr) String() string {
	if len(c) == 0 {
		return ""
	}
	return string(c[:len(c)-1])
}

func ptr(c cstr) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(c)) }

// orNull is ptr, but NULL for the empty string.
func orNull(c cstr) unsafe.Pointer {
	if len(c) <= 1 {
		return nil
	}
	return ptr(c)
}

func toC(s string) cstr { return append([]byte(s), 0) }

// do makes a system call. What it is given pointers to is moved to the heap,
// where it stays put.
//
//go:uintptrescapes
func do(nr, a, b, c, d, e, f uintptr) (uintptr, syscall.Errno) {
	for {
		r, _, errno := syscall.RawSyscall6(nr, a, b, c, d, e, f)
		if errno != syscall.EINTR {
			return r, errno
		}
	}
}

var dot, empty = cstr(".\x00"), cstr("\x00")

func mount(source, target, fstype cstr, flags uint64, data cstr) syscall.Errno {
	_, e := do(unix.SYS_MOUNT, uintptr(orNull(source)), uintptr(ptr(target)), uintptr(orNull(fstype)), uintptr(flags), uintptr(orNull(data)), 0)
	return e
}

func mountSetattr(fd int, path cstr, flags int, attr *unix.MountAttr) syscall.Errno {
	_, e := do(unix.SYS_MOUNT_SETATTR, uintptr(fd), uintptr(ptr(path)), uintptr(flags), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr), 0)
	return e
}

func open(path cstr, flags int) (int, syscall.Errno) {
	fd, e := do(unix.SYS_OPENAT, atCwd, uintptr(ptr(path)), uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
	return int(fd), e
}

func fchdir(fd int) syscall.Errno {
	_, e := do(unix.SYS_FCHDIR, uintptr(fd), 0, 0, 0, 0, 0)
	return e
}

func closeFD(fd int) { do(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0, 0, 0) }

func prctl(option, a, b uintptr) syscall.Errno {
	_, e := do(unix.SYS_PRCTL, option, a, b, 0, 0, 0)
	return e
}

// atCwd is AT_FDCWD as an argument.
const atCwd = ^uintptr(99)
