package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls are given memory of the variable in only: the compiler, which
// sees a number go by, may think that a local variable is no longer needed.

// sys makes a system call, again if a signal came between.
func sys(nr, a, b, c, d, e, f uintptr) (uintptr, syscall.Errno) {
	for {
		r, _, errno := syscall.RawSyscall6(nr, a, b, c, d, e, f)
		if errno != syscall.EINTR {
			return r, errno
		}
	}
}

// at is the address of b, which must not be empty.
func at(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func closeFD(fd int) { sys(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0, 0, 0) }

func exit(code int) {
	for {
		sys(unix.SYS_EXIT_GROUP, uintptr(code), 0, 0, 0, 0, 0)
	}
}

// codeDefect is the code that the daemon knows for a defect of init itself.
const codeDefect = 125

// fatal ends the container because a system call failed that cannot fail.
func fatal(what string, errno syscall.Errno) {
	for _, s := range [...]string{"mayfly-init: ", what, ": errno ", decimal(uint(errno)), "\n"} {
		sys(unix.SYS_WRITE, 2, uintptr(unsafe.Pointer(unsafe.StringData(s))), uintptr(len(s)), 0, 0, 0)
	}
	exit(codeDefect)
}

func decimal(n uint) string {
	b := in.digits[:]
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 || i == 0 {
			return unsafe.String(&b[i], len(b)-i)
		}
	}
}

// pages gets n bytes of memory from the kernel; nil if there are none.
func pages(n int) []byte {
	in.address, in.errno = sys(unix.SYS_MMAP, 0, uintptr(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	if in.errno != 0 {
		return nil
	}
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&in.address)), n)
}

func freePages(b []byte) { sys(unix.SYS_MUNMAP, at(b), uintptr(cap(b)), 0, 0, 0, 0) }

// now reads a clock, in nanoseconds.
func now(clock uintptr) int64 {
	sys(unix.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&in.time)), 0, 0, 0, 0)
	return in.time.Sec*1e9 + in.time.Nsec
}

// since the machine started; it goes on while the machine sleeps not.
func monotonic() int64 { return now(unix.CLOCK_MONOTONIC) }

// wallTime is Unix time.
func wallTime() int64 { return now(unix.CLOCK_REALTIME) }
