package setup

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stage carries a program out.
type stage struct {
	b      []byte // the program, shared with the daemon
	at     int    // where in b
	status int    // descriptor of the status pipe
	files  []int  // descriptors for steps
	root   int    // the container's root
	made   bool   // Enter had to make the directory
	last   cstr   // path of the last Enter
	home   []byte // HOME=... with its NUL, when Home has found it
	homeAt int    // its place in the environment
	filter cstr   // seccomp filter to install last
	flags  uint32 // of the filter
	again  bool   // Chdir was refused and the user is to try
}

// run carries out the program behind a descriptor and does not return: in the
// end it executes the container's first process, or it exits.
func (s *stage) run(program, size int) {
	p, e := do(unix.SYS_MMAP, 0, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE, uintptr(program), 0)
	if e != 0 || size < 1 {
		s.fail("map program", e)
	}
	s.b, s.at = mapped(p, size), 1
	for {
		o := op(s.byte())
		text, e := s.step(o)
		if e != 0 {
			s.fail(o.String()+text, e)
		}
	}
}

// mapped is the memory at p, which is not Go's.
func mapped(p uintptr, size int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&p))), size)
}

// fail reports what failed and ends the stage.
func (s *stage) fail(text string, e syscall.Errno) {
	s.report(Report{Errno: uint32(e), Text: text})
	syscall.Exit(125)
}

func (s *stage) report(r Report) {
	r.Text = r.Text[:min(len(r.Text), 1000)] // well below PIPE_BUF: it is written in one piece
	b := r.append(nil)
	do(unix.SYS_WRITE, uintptr(s.status), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
}

// take returns the next n bytes. A program that ends early is a defect of the
// daemon, so it ends the stage.
func (s *stage) take(n int) []byte {
	if n < 0 || n > len(s.b)-s.at {
		s.fail("read program", syscall.EINVAL)
	}
	v := s.b[s.at : s.at+n : s.at+n]
	s.at += n
	return v
}

func (s *stage) byte() byte  { return s.take(1)[0] }
func (s *stage) u32() uint32 { return binary.LittleEndian.Uint32(s.take(4)) }
func (s *stage) u64() uint64 { return binary.LittleEndian.Uint64(s.take(8)) }
func (s *stage) flag() bool  { return s.u32() != 0 }
func (s *stage) str() cstr   { return s.take(int(s.u32()) + 1) }

func (s *stage) list() []cstr {
	n := int(s.u32())
	if n > len(s.b) {
		n = len(s.b)
	}
	l := make([]cstr, 0, n)
	for range n {
		l = append(l, s.str())
	}
	return l
}

// step carries out one step. The text says what it was about.
func (s *stage) step(o op) (text string, e syscall.Errno) {
	switch o {
	case opOverlay, opEnter, opMount, opBind, opMknod, opSymlink, opUnlink, opPivot, opPropagate, opRemount, opReadonly, opMask:
		return s.filesystem(o)
	case opWrite:
		return s.write(s.str(), s.str(), s.flag())
	case opSetns:
		n, kind := s.u32(), s.u32()
		if e = syscall.EBADF; int(n) < len(s.files) {
			_, e = do(unix.SYS_SETNS, uintptr(s.files[n]), uintptr(kind), 0, 0, 0, 0)
		}
	case opUnshare:
		_, e = do(unix.SYS_UNSHARE, uintptr(s.u32()), 0, 0, 0, 0, 0)
	case opKeyring:
		e = keyring(s.str(), s.u32())
	case opLoopback:
		e = loopback()
	case opNull:
		e = null()
	case opUmask:
		do(unix.SYS_UMASK, uintptr(s.u32()), 0, 0, 0, 0, 0)
	case opHostname, opDomainname:
		name, nr := s.str(), uintptr(unix.SYS_SETHOSTNAME)
		if o == opDomainname {
			nr = unix.SYS_SETDOMAINNAME
		}
		_, e = do(nr, uintptr(ptr(name)), uintptr(len(name)-1), 0, 0, 0, 0)
		text = " " + name.String()
	case opPersonality:
		_, e = do(unix.SYS_PERSONALITY, uintptr(s.u32()), 0, 0, 0, 0, 0)
	case opExec:
		return s.exec(s.list(), s.list(), s.list())
	default:
		return s.credentials(o)
	}
	return text, e
}

// write writes into a file, as sysctls and cgroups want it: in one call.
func (s *stage) write(path, data cstr, optional bool) (string, syscall.Errno) {
	fd, e := open(path, unix.O_WRONLY)
	if e == 0 {
		_, e = do(unix.SYS_WRITE, uintptr(fd), uintptr(ptr(data)), uintptr(len(data)-1), 0, 0, 0)
		closeFD(fd)
	}
	text := " " + path.String()
	if optional && (e == syscall.EPERM || e == syscall.EACCES) {
		s.report(Report{Warning: true, Errno: uint32(e), Text: opWrite.String() + text})
		e = 0
	}
	return text, e
}

// exec executes the first process in the place of this one.
func (s *stage) exec(paths, argv, env []cstr) (string, syscall.Errno) {
	// The read end of the status pipe is gone when the daemon is.
	poll := struct {
		fd      int32
		events  int16
		revents int16
	}{fd: int32(s.status)}
	timeout := unix.Timespec{}
	do(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
	if poll.revents&unix.POLLERR != 0 {
		syscall.Exit(125)
	}
	if s.home != nil && s.homeAt < len(env) {
		env[s.homeAt] = s.home
	}
	args, vars := pointers(argv), pointers(env)
	heedSignals()
	s.b[0] = Executing
	if s.filter != nil {
		if e := seccomp(s.filter, s.flags); e != 0 {
			return opSeccomp.String(), e
		}
	}
	e := syscall.ENOENT
	for _, path := range paths {
		for {
			_, _, e = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(ptr(path)), uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&vars[0])))
			if e != syscall.EAGAIN { // another thread is being made
				break
			}
		}
		if e != syscall.ENOENT && e != syscall.ENOTDIR && e != syscall.EACCES {
			break
		}
	}
	return " " + argv[0].String(), e
}

// heedSignals undoes that the daemon was started with signals ignored, as
// nohup(1) does: execve(2) would hand that on to the container.
func heedSignals() {
	var deflt [4]uintptr // struct sigaction with SIG_DFL
	for sig := uintptr(1); sig < 32; sig++ {
		if sig != uintptr(unix.SIGKILL) && sig != uintptr(unix.SIGSTOP) {
			do(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&deflt)), 0, 8, 0, 0)
		}
	}
}

// pointers makes what execve wants: pointers that end with NULL.
func pointers(l []cstr) []uintptr {
	p := make([]uintptr, len(l)+1)
	for i, c := range l {
		p[i] = uintptr(ptr(c))
	}
	return p
}
