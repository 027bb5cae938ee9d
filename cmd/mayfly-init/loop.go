package main

import (
	"syscall"
	"unsafe"

	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// The tables are larger than a daemon needs; what is not used of them is never
// touched and so takes no memory. Who asks for more is refused.
const (
	maxConns    = 256
	maxPrograms = 1024
	maxPipes    = 2048
	maxDials    = 4096
	maxPolls    = 2 + maxConns + maxPipes + maxDials
)

// in is the state of init.
var in struct {
	log      log
	conns    [maxConns]conn
	programs [maxPrograms]program
	pipes    [maxPipes]pipe
	dials    [maxDials]dial

	// How many of each table have ever been in use: none is beyond.
	connsEnd, programsEnd, pipesEnd, dialsEnd int

	main   *program // set once, never cleared
	ending bool     // the main program is dead: nothing is started any more

	signals   int   // a signalfd(2)
	deafUntil int64 // when to accept again
	polls     [maxPolls]pollFD
	who       [maxPolls]waiter
	npolls    int

	// memory for system calls
	launch  launch
	siginfo [128]byte // struct signalfd_siginfo
	mask    uint64    // of signals
	message unix.Msghdr
	iovec   unix.Iovec
	control [8]uint64
	frame   [wire.HeaderLen + greetingLen + maxPrograms*wire.RunningLen]byte
	wait    uint32
	address uintptr
	errno   syscall.Errno
	time    unix.Timespec
	timeout unix.Timespec
	peer4   unix.RawSockaddrInet4
	peer6   unix.RawSockaddrInet6
	option  [2]uint32
	digits  [20]byte
}

// pollFD is struct pollfd (poll(2)).
type pollFD struct {
	fd      int32
	events  int16
	revents int16
}

// waiter says what a pollFD is about.
type waiter struct {
	kind  uint8
	index uint16
}

const (
	forSignal = iota
	forListener
	forConn
	forPipe
	forDial
)

// start is init's main function.
func start() {
	protect()
	in.mask = ^uint64(0)
	sys(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&in.mask)), 0, 8, 0, 0)
	fd, errno := sys(unix.SYS_SIGNALFD4, ^uintptr(0), uintptr(unsafe.Pointer(&in.mask)), 8, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK, 0, 0)
	if errno != 0 {
		fatal("signalfd", errno)
	}
	in.signals = int(fd)
	in.log.open(wire.LogFD0, wire.LogFD1)
	for {
		turn()
	}
}

// protect keeps the container's programs, which run as the same user, from
// reading or tracing this process, and from inheriting its descriptors.
func protect() {
	if _, errno := sys(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0); errno != 0 {
		fatal("prctl", errno)
	}
	for fd := uintptr(wire.ListenFD); fd <= wire.ExitFD; fd++ {
		if _, errno := sys(unix.SYS_FCNTL, fd, unix.F_SETFD, unix.FD_CLOEXEC, 0, 0, 0); errno != 0 {
			fatal("descriptors are missing", errno)
		}
	}
}

// turn waits until something happens and sees to it.
func turn() {
	in.npolls = 0
	poll(in.signals, unix.POLLIN, forSignal, 0)
	pollConns()
	pollPipes()
	wake := min(pollDials(), nextExpiry(), pollListener())
	limit := uintptr(0)
	if wake != never {
		left := max(0, wake-monotonic())
		in.timeout.Sec, in.timeout.Nsec = left/1e9, left%1e9
		limit = uintptr(unsafe.Pointer(&in.timeout))
	}
	if _, errno := sys(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&in.polls)), uintptr(in.npolls), limit, 0, 0, 0); errno != 0 {
		fatal("poll", errno)
	}
	for i := range in.polls[:in.npolls] {
		if in.polls[i].revents != 0 {
			in.who[i].serve()
		}
	}
	if wake != never {
		retryDials(monotonic())
	}
	settle()
}

// pollListener returns until when it is left out.
func pollListener() int64 {
	if in.deafUntil == 0 || monotonic() >= in.deafUntil {
		poll(wire.ListenFD, unix.POLLIN, forListener, 0)
		return never
	}
	return in.deafUntil
}

// never is later than any time.
const never = 1<<63 - 1

func poll(fd int, events int16, kind uint8, index int) {
	in.polls[in.npolls] = pollFD{fd: int32(fd), events: events}
	in.who[in.npolls] = waiter{kind: kind, index: uint16(index)}
	in.npolls++
}

func (w waiter) serve() {
	switch w.kind {
	case forSignal:
		takeSignals()
	case forListener:
		accept()
	case forConn:
		if c := &in.conns[w.index]; c.used {
			c.ready()
		}
	case forPipe:
		if p := &in.pipes[w.index]; p.used {
			p.ready()
		}
	case forDial:
		if d := &in.dials[w.index]; d.used {
			d.connected()
		}
	}
}

// takeSignals collects children that ended and passes on to the main program
// what signals init itself is sent.
func takeSignals() {
	for {
		n, errno := sys(unix.SYS_READ, uintptr(in.signals), uintptr(unsafe.Pointer(&in.siginfo)), unsafe.Sizeof(in.siginfo), 0, 0, 0)
		if errno != 0 || n < 4 {
			return
		}
		switch sig := syscall.Signal(in.siginfo[0]); sig { // the machines are little-endian
		case syscall.SIGCHLD:
			collect()
		case syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU:
			// those that are about init's descriptors
		default:
			kill(wire.Kill{Signal: uint8(sig), Group: true})
		}
	}
}
