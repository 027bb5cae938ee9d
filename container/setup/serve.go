package setup

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program is executed and a Go runtime started in about a millisecond, a
// process of one thread forked in a tenth of that. So the daemon starts one
// server, which forks a stage for each container. The stage is a copy of one
// thread of a Go program, and all that the Go runtime would leave to another
// thread never comes: so a stage starts no goroutine, makes its system calls
// raw, is pinned to its thread, and has no garbage collector. With GOMAXPROCS=1
// the thread that forks is the only one that can hold a lock of the allocator.
// A stage is a child of the daemon, not of the server.

// ServerFD is the server's end of a socket of type SOCK_SEQPACKET.
const ServerFD = 3

// Env is the environment that the server needs.
func Env() []string {
	return []string{"GOGC=off", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1,containermaxprocs=0"}
}

// Request asks the server for a stage. With it travel descriptors: Files that
// will be the first process's 3, 4 and so on, then the program, the write end
// of the status pipe, those that steps use, and last, with Cgroup set, a cgroup
// to start in.
type Request struct {
	Clone  uint64 // CLONE_NEW flags
	Size   uint32 // bytes of the program
	Files  uint32
	Cgroup bool
}

const requestLen = 20

const maxFD = 1<<31 - 1

// maxFDs is the kernel's SCM_MAX_FD.
const maxFDs = 253

// Append encodes the request.
func (r Request) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, r.Clone)
	b = binary.LittleEndian.AppendUint32(b, r.Size)
	b = binary.LittleEndian.AppendUint32(b, r.Files)
	c := uint32(0)
	if r.Cgroup {
		c = 1
	}
	return binary.LittleEndian.AppendUint32(b, c)
}

// The server writes to the status pipe, too: a mark and the stage's process
// number or, negated, the errno for which there is none. A stage that fails at
// once may have written before it.
const (
	pidMark = 0xfb
	pidLen  = 5
)

// ParsePID finds what the server wrote in what has come from a status pipe, and
// returns what is there besides, which is the stage's. It returns false when
// more has to be read.
func ParsePID(b []byte) (pid int, errno syscall.Errno, rest []byte, ok bool) {
	stage := b
	for {
		if _, more, ok := ParseReport(stage); ok {
			stage = more
			continue
		}
		if len(stage) == 0 || stage[0] == reportMark { // cut short
			return 0, 0, b, false
		}
		break
	}
	for len(stage) > 0 && stage[0] != pidMark { // Go, breaking down
		stage = stage[1:]
	}
	if len(stage) < pidLen {
		return 0, 0, b, false
	}
	v := int32(binary.LittleEndian.Uint32(stage[1:]))
	rest = append(b[:len(b)-len(stage):len(b)-len(stage)], stage[pidLen:]...)
	if v <= 0 {
		return 0, syscall.Errno(-v), rest, true
	}
	return int(v), 0, rest, true
}

// Main serves until the daemon closes the socket or is gone. It does not
// return. In its copies it is the stage.
func Main() {
	runtime.LockOSThread()
	// The daemon's table of descriptors may have been large. Unsharing makes
	// this thread one of its own that is as small as a new process has it, and
	// containers inherit it.
	do(unix.SYS_CLOSE_RANGE, ServerFD+1, maxFD, unix.CLOSE_RANGE_UNSHARE, 0, 0, 0)
	buf := make([]byte, requestLen+1)
	oob := make([]byte, unix.CmsgSpace(maxFDs*4))
	for {
		n, oobn, _, _, err := syscall.Recvmsg(ServerFD, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			syscall.Exit(0)
		}
		fds := rights(oob[:oobn])
		if n == requestLen && len(fds) > 0 {
			serve(buf[:n], fds)
		}
		for _, fd := range fds {
			closeFD(fd)
		}
	}
}

// rights returns the descriptors of a control message.
func rights(oob []byte) []int {
	m, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(m) != 1 {
		return nil
	}
	fds, _ := syscall.ParseUnixRights(&m[0])
	return fds
}

// cloneArgs is struct clone_args (clone3(2)).
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// serve forks a stage and tells the daemon its number.
func serve(request []byte, fds []int) {
	r := Request{
		Clone:  binary.LittleEndian.Uint64(request),
		Size:   binary.LittleEndian.Uint32(request[8:]),
		Files:  binary.LittleEndian.Uint32(request[12:]),
		Cgroup: request[16] != 0,
	}
	program := int(r.Files)
	if len(fds) < program+2 {
		return // the pipe closes, which is answer enough
	}
	args := &cloneArgs{flags: r.Clone | unix.CLONE_PARENT}
	if r.Cgroup {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(fds[len(fds)-1])
	}
	procPin()
	pid, e := do(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	if e == 0 && pid == 0 {
		stageMain(r, fds)
	}
	procUnpin()
	answer := int32(pid)
	if e != 0 {
		answer = -int32(e)
	}
	b := binary.LittleEndian.AppendUint32([]byte{pidMark}, uint32(answer))
	do(unix.SYS_WRITE, uintptr(fds[program+1]), uintptr(unsafe.Pointer(&b[0])), pidLen, 0, 0, 0)
}

// stageMain is where a forked stage begins.
func stageMain(r Request, fds []int) {
	program, status := fds[r.Files], fds[r.Files+1]
	s := &stage{status: status, root: -1, files: fds[r.Files+2:]}
	do(unix.SYS_SETSID, 0, 0, 0, 0, 0, 0)
	do(unix.SYS_DUP3, uintptr(status), 2, 0, 0, 0, 0) // where Go writes when it breaks down
	// The kernel gave them numbers in rising order, all above ServerFD, so
	// moving one down never covers one that is still to be moved.
	for i, fd := range fds[:r.Files] {
		if _, e := do(unix.SYS_DUP3, uintptr(fd), uintptr(ServerFD+i), 0, 0, 0, 0); e != 0 {
			s.fail("pass descriptor", e)
		}
	}
	// What is above stays until the first process is executed.
	do(unix.SYS_CLOSE_RANGE, uintptr(ServerFD+int(r.Files)), maxFD, unix.CLOSE_RANGE_CLOEXEC, 0, 0, 0)
	s.run(program, int(r.Size))
}
