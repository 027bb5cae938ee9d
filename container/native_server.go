package container

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/mayfly-run/mayfly/container/setup"
	"golang.org/x/sys/unix"
)

// setupServer is the process that forks setup stages. It ends with the daemon,
// and is started again should it have ended before.
type setupServer struct {
	init string

	mu     sync.Mutex
	socket int // -1 when closed
	pid    int

	// Files is how many open files a child of the daemon may have. Soft is what
	// it was before Go raised it (package syscall), so stages must set it back.
	files unix.Rlimit
}

var errServerClosed = errors.New("the native driver is closed")

func startServer(init string) (*setupServer, error) {
	s := &setupServer{init: init, socket: -1}
	return s, s.start()
}

// start starts the process. The caller holds mu, or nobody else has s.
func (s *setupServer) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[1])
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	defer null.Close()
	fd := null.Fd()
	attr := &syscall.ProcAttr{
		Dir: "/", Env: setup.Env(), Files: []uintptr{fd, fd, fd, uintptr(pair[1])},
		Sys: &syscall.SysProcAttr{Setsid: true, Ptrace: true},
	}
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec(s.init, []string{setup.Name}, attr)
	traced := err == nil
	if errors.Is(err, unix.EPERM) { // not for us to trace
		attr.Sys.Ptrace = false
		pid, err = syscall.ForkExec(s.init, []string{setup.Name}, attr)
	}
	if err != nil {
		unix.Close(pair[0])
		return fmt.Errorf("start %s: %w", s.init, err)
	}
	s.socket, s.pid = pair[0], pid
	if !traced {
		return unix.Getrlimit(unix.RLIMIT_NOFILE, &s.files)
	}
	return s.readLimit()
}

// readLimit reads the limit of open files that the server has been given. It
// has stopped before its first instruction, so its own Go has raised nothing.
func (s *setupServer) readLimit() error {
	var status unix.WaitStatus
	var err error
	for {
		if _, err = unix.Wait4(s.pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if err == nil && !status.Stopped() {
		err = fmt.Errorf("it ended with status %#x", uint32(status))
	}
	if err == nil {
		err = unix.Prlimit(s.pid, unix.RLIMIT_NOFILE, nil, &s.files)
	}
	if err == nil {
		err = unix.PtraceDetach(s.pid)
	}
	if err != nil {
		unix.Kill(s.pid, unix.SIGKILL)
		return errors.Join(fmt.Errorf("start %s: %w", s.init, err), s.stop())
	}
	return nil
}

// limit is the limit of open files that containers inherit.
func (s *setupServer) limit() unix.Rlimit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files
}

// stop closes the socket, at which the process ends, and reaps it.
func (s *setupServer) stop() error {
	if s.socket < 0 {
		return nil
	}
	err := unix.Close(s.socket)
	s.socket = -1
	for {
		_, werr := syscall.Wait4(s.pid, nil, 0, nil)
		if werr != syscall.EINTR {
			return errors.Join(err, werr)
		}
	}
}

// Close ends the process.
func (s *setupServer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop()
}

// fork asks for a stage. What becomes of it is heard on the status pipe.
func (s *setupServer) fork(r setup.Request, fds []int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.socket < 0 {
		return errServerClosed
	}
	message, rights := r.Append(nil), unix.UnixRights(fds...)
	err := unix.Sendmsg(s.socket, message, rights, nil, unix.MSG_NOSIGNAL)
	if err == unix.EPIPE || err == unix.ECONNRESET {
		if err = s.stop(); err == nil {
			err = s.start()
		}
		if err == nil {
			err = unix.Sendmsg(s.socket, message, rights, nil, unix.MSG_NOSIGNAL)
		}
	}
	if err != nil {
		return fmt.Errorf("ask for a setup stage: %w", err)
	}
	return nil
}

// nativeChild is a container's first process and our child.
type nativeChild struct {
	pid   int
	pidfd *os.File
}

// newNativeChild reads from a status pipe which process it is of. It returns
// what the stage has written since, too.
func newNativeChild(status *os.File) (*nativeChild, []byte, error) {
	var head []byte
	for {
		buf := make([]byte, 512)
		n, err := status.Read(buf)
		head = append(head, buf[:n]...)
		pid, errno, rest, ok := setup.ParsePID(head)
		switch {
		case ok && errno != 0:
			return nil, nil, fmt.Errorf("clone: %w", errno)
		case ok:
			pidfd, err := openPidfd(pid)
			return &nativeChild{pid: pid, pidfd: pidfd}, rest, err
		case err != nil:
			return nil, nil, fmt.Errorf("setup server ended: %w", err)
		}
	}
}

// kill ends the process if it has not been waited for.
func (c *nativeChild) kill() {
	if raw, err := c.pidfd.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	}
}

// wait blocks until the process has ended, without holding a thread, and reaps it.
func (c *nativeChild) wait() (uint32, error) {
	defer c.pidfd.Close()
	if err := waitPidfd(c.pidfd); err != nil {
		return 0, fmt.Errorf("wait for process %d: %w", c.pid, err)
	}
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(c.pid, &status, 0, nil)
		if err != syscall.EINTR {
			return uint32(status), err
		}
	}
}
