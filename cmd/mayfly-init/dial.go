package main

import (
	"syscall"
	"unsafe"

	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// dial is a connection to a port of a program's that is being made. It is
// tried again and again while nobody listens, for the kernel tells nobody that
// a port was opened.
type dial struct {
	used   bool
	six    bool // trying ::1, else 127.0.0.1
	conn   *conn
	number uint32
	port   uint16
	fd     int           // connecting; -1: none
	errno  syscall.Errno // of 127.0.0.1
	pause  int64         // nanoseconds until the try after the next
	next   int64         // when to try, or to give up a connection that hangs
	end    int64
}

const (
	firstPause = 500e3
	lastPause  = 10e6
	maxConnect = 1e9 // of one try
)

func (c *conn) dial(number uint32, port uint16, timeout uint32) bool {
	for i := range in.dials {
		d := &in.dials[i]
		if d.used {
			continue
		}
		in.dialsEnd = max(in.dialsEnd, i+1)
		*d = dial{
			used: true, conn: c, number: number, port: port, fd: -1, pause: firstPause, end: monotonic() + int64(timeout)*1e6,
		}
		d.try()
		return true
	}
	return c.fail(number, syscall.EAGAIN, "")
}

// try begins with 127.0.0.1.
func (d *dial) try() {
	d.six = false
	if errno := d.connect(); errno != 0 {
		d.refused(errno)
	}
}

// refused tries ::1, and after that waits for the next time.
func (d *dial) refused(errno syscall.Errno) {
	d.drop()
	if !d.six {
		d.six, d.errno = true, errno
		if d.connect() == 0 {
			return
		}
		d.drop()
	}
	t := monotonic()
	if t+d.pause > d.end {
		d.used = false
		d.conn.broken = !d.conn.fail(d.number, d.errno, "")
		return
	}
	d.next = t + d.pause
	d.pause = min(d.pause*3/2, lastPause)
}

// connect makes one try. Zero means that it succeeded and was answered, or is
// under way.
func (d *dial) connect() syscall.Errno {
	family := uintptr(unix.AF_INET)
	peer, size := uintptr(unsafe.Pointer(&in.peer4)), unsafe.Sizeof(in.peer4)
	port := d.port>>8 | d.port<<8 // in network order
	if d.six {
		family = unix.AF_INET6
		peer, size = uintptr(unsafe.Pointer(&in.peer6)), unsafe.Sizeof(in.peer6)
		in.peer6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: [16]byte{15: 1}}
	} else {
		in.peer4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: [4]byte{127, 0, 0, 1}}
	}
	fd, errno := sys(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	d.fd = int(fd)
	switch _, errno := sys(unix.SYS_CONNECT, fd, peer, size, 0, 0, 0); errno {
	case 0:
		d.succeed()
		return 0
	case syscall.EINPROGRESS:
		d.next = monotonic() + maxConnect
		return 0
	default:
		return errno
	}
}

// connected is called when a connection that was under way is made or refused.
func (d *dial) connected() {
	in.option = [2]uint32{0, 4}
	sys(unix.SYS_GETSOCKOPT, uintptr(d.fd), unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&in.option[0])), uintptr(unsafe.Pointer(&in.option[1])), 0)
	if errno := syscall.Errno(in.option[0]); errno != 0 {
		d.refused(errno)
		return
	}
	d.succeed()
}

// succeed hands the socket to the daemon, blocking as others are.
func (d *dial) succeed() {
	sys(unix.SYS_FCNTL, uintptr(d.fd), unix.F_SETFL, 0, 0, 0, 0)
	d.conn.broken = !d.conn.reply(wire.Done, d.number, 0, d.fd)
	d.drop()
	d.used = false
}

func (d *dial) drop() {
	if d.fd >= 0 {
		closeFD(d.fd)
		d.fd = -1
	}
}

// pollDials waits for those under way and returns when the next is to be tried.
func pollDials() int64 {
	wake := int64(never)
	for i := range in.dials[:in.dialsEnd] {
		d := &in.dials[i]
		if !d.used {
			continue
		}
		if d.fd >= 0 {
			poll(d.fd, unix.POLLOUT, forDial, i)
		}
		wake = min(wake, d.next)
	}
	return wake
}

// retryDials goes on with those whose time has come.
func retryDials(t int64) {
	for i := range in.dials[:in.dialsEnd] {
		switch d := &in.dials[i]; {
		case !d.used || d.next > t:
		case d.fd >= 0:
			d.refused(syscall.ETIMEDOUT)
		default:
			d.try()
		}
	}
}

// forgetDials ends those that a connection asked for.
func forgetDials(c *conn) {
	for i := range in.dials[:in.dialsEnd] {
		if d := &in.dials[i]; d.used && d.conn == c {
			d.drop()
			d.used = false
		}
	}
}
