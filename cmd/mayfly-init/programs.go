package main

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// program is one process that the daemon asked for.
type program struct {
	used   bool
	ended  bool // collected; its status is recorded when what it wrote is in the log
	number uint32
	label  byte
	pid    int
	pipes  int   // that are open
	wait   int32 // as wait4(2) gave it
	time   int64 // of its end
	expiry int64 // until when open pipes hold its status up
}

// pipe is what a program's standard output or error goes into. It stays open
// while anybody has its other end, be the program dead.
type pipe struct {
	used   bool
	stream byte
	label  byte
	fd     int
	number uint32 // of the program
}

// orphanedPipes is how long the news of a program's end waits for others that
// hold its standard output or error open: 1 s.
const orphanedPipes = 1e9

// kill sends a signal to a program.
func kill(k wire.Kill) syscall.Errno {
	for i := range in.programs[:in.programsEnd] {
		p := &in.programs[i]
		if p.used && !p.ended && (p.number == k.Process || k.Process == 0 && p == in.main) {
			pid := p.pid
			if k.Group {
				pid = -pid
			}
			_, errno := sys(unix.SYS_KILL, uintptr(pid), uintptr(k.Signal), 0, 0, 0, 0)
			return errno
		}
	}
	return syscall.ESRCH
}

// collect takes in children that ended, the orphans of others included.
func collect() {
	for wait(unix.WNOHANG) {
	}
	if in.main != nil && in.main.ended && !in.ending {
		end()
	}
}

// wait takes in one child. It returns false when there is none.
func wait(options uintptr) bool {
	pid, errno := sys(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&in.wait)), options, 0, 0, 0)
	if errno != 0 || pid == 0 {
		return false
	}
	for i := range in.programs[:in.programsEnd] {
		if p := &in.programs[i]; p.used && !p.ended && p.pid == int(pid) {
			p.ended, p.wait, p.time, p.expiry = true, int32(in.wait), wallTime(), monotonic()+orphanedPipes
		}
	}
	return true
}

// end is the end of the container: the main program is dead, and everybody
// else is killed. Its status becomes init's own once everything that anybody
// wrote is in the log; settle sees to that.
func end() {
	in.ending = true
	sys(unix.SYS_KILL, ^uintptr(0), uintptr(unix.SIGKILL), 0, 0, 0, 0)
	for wait(0) {
	}
}

// settle is called when a turn ends: it records the programs that have ended,
// the main one after all others, and then ends init itself.
func settle() {
	t := int64(0)
	left := 0
	for i := range in.programs[:in.programsEnd] {
		p := &in.programs[i]
		if p.used && p.ended && p.pipes > 0 && t == 0 {
			t = monotonic()
		}
		switch {
		case !p.used || p == in.main:
		case p.over(t):
			p.record()
			p.used = false
		default:
			left++
		}
	}
	if in.ending && left == 0 && in.main.over(t) && in.log.pending == 0 {
		in.main.record()
		exit(exitCode(in.main.wait))
	}
	closeBroken()
}

// over says whether a program has ended and all it wrote is in the log, or
// what holds its pipes open is not the program any more.
func (p *program) over(t int64) bool {
	return p.ended && (p.pipes == 0 || t >= p.expiry && in.log.pending == 0)
}

// nextExpiry is when to stop waiting for a program's pipes.
func nextExpiry() int64 {
	wake := int64(never)
	for i := range in.programs[:in.programsEnd] {
		if p := &in.programs[i]; p.used && p.ended && in.log.pending == 0 {
			wake = min(wake, p.expiry)
		}
	}
	return wake
}

// record puts a status on disk, where a later daemon could ask for it, and then
// tells every connection.
func (p *program) record() {
	b := in.frame[wire.HeaderLen:][:wire.StatusLen]
	binary.BigEndian.PutUint32(b, p.number)
	binary.BigEndian.PutUint32(b[4:], uint32(p.label)<<16|uint32(p.wait)&0xffff)
	binary.BigEndian.PutUint64(b[8:], uint64(p.time))
	if p == in.main || p.label != 0 {
		writeAll(wire.ExitFD, b)
	}
	for i := range in.conns[:in.connsEnd] {
		if c := &in.conns[i]; c.used && c.greeted && !c.attached && !c.reply(wire.Exited, p.number, len(b), -1) {
			c.broken = true
		}
	}
}

// exitCode is what a shell makes of a status of wait4(2).
func exitCode(status int32) int {
	ws := syscall.WaitStatus(status)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func pollPipes() {
	if in.log.pending > 0 {
		return
	}
	for i := range in.pipes[:in.pipesEnd] {
		if p := &in.pipes[i]; p.used {
			poll(p.fd, unix.POLLIN, forPipe, i)
		}
	}
}

// ready is called when there is something to read, or the end.
func (p *pipe) ready() {
	if in.log.pending > 0 || in.log.copy(p.fd, p.stream, p.label) {
		return
	}
	closeFD(p.fd)
	p.used = false
	for i := range in.programs[:in.programsEnd] {
		if pr := &in.programs[i]; pr.used && pr.number == p.number {
			pr.pipes--
		}
	}
}

// openPipe makes a pipe for a program's output and returns the end that is the
// program's. It belongs to init's user, who is the program's, so that the
// program can open /dev/stdout anew.
func openPipe(number uint32, stream, label byte) (int, syscall.Errno) {
	for i := range in.pipes {
		p := &in.pipes[i]
		if p.used {
			continue
		}
		ends := &in.option
		if _, errno := sys(unix.SYS_PIPE2, uintptr(unsafe.Pointer(ends)), unix.O_CLOEXEC, 0, 0, 0, 0); errno != 0 {
			return -1, errno
		}
		*p = pipe{used: true, stream: stream, label: label, fd: int(ends[0]), number: number}
		in.pipesEnd = max(in.pipesEnd, i+1)
		return int(ends[1]), 0
	}
	return -1, syscall.EMFILE
}

// closePipes undoes openPipe for a program that was not started.
func closePipes(number uint32) {
	for i := range in.pipes[:in.pipesEnd] {
		if p := &in.pipes[i]; p.used && p.number == number {
			closeFD(p.fd)
			p.used = false
		}
	}
}
