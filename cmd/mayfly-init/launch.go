package main

import (
	"syscall"
	"unsafe"

	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// launch is a program that is about to be executed, as child needs it.
type launch struct {
	pointers []uintptr // argv, 0, environment, 0: addresses of strings that end with NUL
	env      int       // where in pointers the environment begins
	name     []byte    // argv[0]
	path     []byte    // PATH of the environment; nil without one
	dir      []byte    // to run it in; empty: init's own
	stdio    [3]wire.Stream
	label    byte
	other    bool // it runs as uid, gid and groups, not as init does
	uid, gid uint32
	groups   [wire.MaxGroups]uint32
	ngroups  int
	fds      [3]int
	errno    syscall.Errno // why the child failed

	nul    bool         // a string has one inside
	few    [512]uintptr // what pointers is, most often
	memory []byte       // of pointers when few is too small
	file   [4096]byte   // a path tried
	mask   uint64       // of signals
}

// start runs a program and answers the request; a main program may be started
// once.
func (c *conn) start(number uint32, body []byte, main bool) bool {
	l := &in.launch
	ok, errno := l.parse(body)
	if ok {
		switch {
		case errno != 0:
			ok = c.fail(number, errno, "")
		case in.ending:
			ok = c.fail(number, 0, "the container is ending")
		case main && in.main != nil:
			ok = c.fail(number, 0, "the main program was already started")
		default:
			ok = c.answer(number, l.start(c, number, main))
		}
	}
	l.release()
	return ok
}

// start makes the streams and the process.
func (l *launch) start(c *conn, number uint32, main bool) syscall.Errno {
	p := freeProgram()
	if p == nil {
		return syscall.EAGAIN
	}
	pid := 0
	pipes, errno := l.streams(c, number)
	if errno == 0 {
		pid, errno = l.run()
	}
	for _, fd := range l.fds {
		if fd >= 0 {
			closeFD(fd)
		}
	}
	if errno != 0 {
		closePipes(number)
		return errno
	}
	*p = program{used: true, number: number, label: l.label, pid: pid, pipes: pipes}
	if main {
		in.main = p
	}
	return 0
}

func freeProgram() *program {
	for i := range in.programs {
		if p := &in.programs[i]; !p.used {
			in.programsEnd = max(in.programsEnd, i+1)
			return p
		}
	}
	return nil
}

// parse reads the body of a Start or a Spawn. It returns false when that is
// malformed.
func (l *launch) parse(body []byte) (ok bool, _ syscall.Errno) {
	r := reader{body: body}
	l.nul = false
	argc, envc := l.count(&r), l.count(&r)
	r.take(r.uint32()) // the directory
	for i := range l.stdio {
		l.stdio[i] = wire.Stream(r.byte())
		r.short = r.short || l.stdio[i] > wire.Passed
	}
	l.label = 0
	if len(r.body) > 0 { // a daemon of version 1 gives none
		l.label = r.byte()
	}
	if !l.user(&r) || r.short || argc == 0 || l.label > wire.MaxLabel {
		return false, 0
	}
	if l.nul {
		return true, syscall.EINVAL
	}
	l.pointers = l.few[:]
	if n := argc + envc + 2; n > len(l.few) {
		if l.memory = pages(n * 8); l.memory == nil {
			return true, syscall.ENOMEM
		}
		l.pointers = unsafe.Slice((*uintptr)(unsafe.Pointer(&l.memory[0])), n)
	}
	l.take(&reader{body: body}, argc)
	return true, 0
}

// user reads whom the program is to run as. It returns false when that is
// malformed.
func (l *launch) user(r *reader) bool {
	l.other = len(r.body) > 0
	if !l.other {
		return true
	}
	version := r.byte()
	l.uid, l.gid = r.uint32(), r.uint32()
	n := r.uint32()
	if version != 1 || n > wire.MaxGroups {
		return false
	}
	l.ngroups = int(n)
	for i := range l.groups[:n] {
		l.groups[i] = r.uint32()
	}
	return true
}

// count passes over a list and returns how long it is.
func (l *launch) count(r *reader) int {
	n := r.uint32()
	for range n {
		s := r.take(r.uint32())
		if r.short {
			return 0
		}
		for _, c := range s {
			l.nul = l.nul || c == 0
		}
	}
	return int(n)
}

// take fills in what points into the body.
func (l *launch) take(r *reader, argc int) {
	const variable = "PATH="
	l.path = nil
	to := 0
	for list := range 2 {
		for range number(r) {
			s := r.take(number(r))
			l.pointers[to] = at(s)
			to++
			if to == 1 {
				l.name = s
			}
			if list == 1 && len(s) >= len(variable) && string(s[:len(variable)]) == variable {
				l.path = s[len(variable):]
			}
		}
		l.pointers[to] = 0
		to++
	}
	l.env = argc + 1
	l.dir = r.take(number(r))
	r.body[0] = 0
}

// number reads the number behind a string, or behind nothing, and puts the NUL
// there that ends the string.
func number(r *reader) uint32 {
	behind := r.body
	n := r.uint32()
	behind[0] = 0
	return n
}

// release gives back what parse took.
func (l *launch) release() {
	if l.memory != nil {
		freePages(l.memory)
		l.memory = nil
	}
}

// streams makes the program's standard streams and returns how many of them
// are pipes.
func (l *launch) streams(c *conn, number uint32) (pipes int, errno syscall.Errno) {
	l.fds = [3]int{-1, -1, -1}
	for i, kind := range l.stdio {
		switch {
		case kind == wire.Passed:
			if l.fds[i] = c.takeFile(); l.fds[i] < 0 {
				errno = syscall.EBADF
			}
		case kind == wire.Log && i > 0:
			if l.fds[i], errno = openPipe(number, byte(i), l.label); errno == 0 {
				pipes++
				if l.other { // it is to be able to open /dev/stdout anew
					sys(unix.SYS_FCHOWN, uintptr(l.fds[i]), uintptr(l.uid), uintptr(l.gid), 0, 0, 0)
				}
			}
		default:
			var fd uintptr
			fd, errno = sys(unix.SYS_OPENAT, atCwd, address(devNull), unix.O_RDWR|unix.O_CLOEXEC, 0, 0, 0)
			l.fds[i] = int(fd)
		}
		if errno != 0 {
			l.fds[i] = -1
			return pipes, errno
		}
	}
	return pipes, 0
}

const devNull = "/dev/null\x00"

// atCwd is AT_FDCWD as an argument.
const atCwd = ^uintptr(99)

// address is that of a constant that ends with NUL.
func address(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s))) }

// run forks and returns when the program is executing.
func (l *launch) run() (pid int, errno syscall.Errno) {
	l.errno = 0
	pid = fork()
	if pid < 0 {
		return 0, syscall.Errno(-pid)
	}
	if l.errno != 0 {
		sys(unix.SYS_WAIT4, uintptr(pid), uintptr(unsafe.Pointer(&in.wait)), 0, 0, 0, 0)
	}
	return pid, l.errno
}

// child is what fork runs in the new process. What it writes to memory this
// process sees.
func child() {
	l := &in.launch
	l.errno = l.become()
	exit(127)
}

// become executes the program, looking for it as execvp(3) does. It returns
// only if that fails.
func (l *launch) become() syscall.Errno {
	l.mask = 0
	sys(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&l.mask)), 0, 8, 0, 0)
	sys(unix.SYS_SETSID, 0, 0, 0, 0, 0, 0)
	for i, fd := range l.fds { // all above 2, for init has those open
		if _, errno := sys(unix.SYS_DUP3, uintptr(fd), uintptr(i), 0, 0, 0, 0); errno != 0 {
			return errno
		}
	}
	if l.other {
		if errno := l.change(); errno != 0 {
			return errno
		}
	}
	if len(l.dir) > 0 {
		if _, errno := sys(unix.SYS_CHDIR, at(l.dir), 0, 0, 0, 0, 0); errno != 0 {
			return errno
		}
	}
	for _, c := range l.name {
		if c == '/' {
			return l.execute(l.pointers[0])
		}
	}
	if len(l.name) == 0 {
		return syscall.ENOENT
	}
	if l.path == nil {
		return l.search(unsafe.Slice(unsafe.StringData(defaultPath), len(defaultPath)))
	}
	return l.search(l.path)
}

// change becomes another user. A user who is not root loses all capabilities by
// it (capabilities(7)).
func (l *launch) change() syscall.Errno {
	if _, errno := sys(unix.SYS_SETGROUPS, uintptr(l.ngroups), uintptr(unsafe.Pointer(&l.groups)), 0, 0, 0, 0); errno != 0 {
		return errno
	}
	gid, uid := uintptr(l.gid), uintptr(l.uid)
	if _, errno := sys(unix.SYS_SETRESGID, gid, gid, gid, 0, 0, 0); errno != 0 {
		return errno
	}
	_, errno := sys(unix.SYS_SETRESUID, uid, uid, uid, 0, 0, 0)
	return errno
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// search tries the directories of a path in turn.
func (l *launch) search(path []byte) syscall.Errno {
	found := syscall.ENOENT
	for from := 0; from <= len(path); {
		to := from
		for to < len(path) && path[to] != ':' {
			to++
		}
		dir := path[from:to]
		from = to + 1
		if len(dir)+len(l.name)+2 > len(l.file) {
			continue
		}
		n := copy(l.file[:], dir)
		if n == 0 {
			l.file[0] = '.'
			n = 1
		}
		l.file[n] = '/'
		n += 1 + copy(l.file[n+1:], l.name)
		l.file[n] = 0
		switch errno := l.execute(at(l.file[:])); errno {
		case syscall.ENOENT, syscall.ENOTDIR:
		case syscall.EACCES:
			found = errno
		default:
			return errno
		}
	}
	return found
}

func (l *launch) execute(path uintptr) syscall.Errno {
	_, errno := sys(unix.SYS_EXECVE, path, uintptr(unsafe.Pointer(&l.pointers[0])), uintptr(unsafe.Pointer(&l.pointers[l.env])), 0, 0, 0)
	return errno
}
