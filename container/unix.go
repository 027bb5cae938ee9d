package container

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The path of a unix socket may have no more than 107 bytes (unix(7)), a data
// directory any number: sockets are reached through a descriptor of their
// directory.

// listenUnix makes a socket below dir and listens on it.
func listenUnix(dir int, name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: socketPath(dir, name)}); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func dialUnix(dir, name string) (*net.UnixConn, error) {
	d, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: socketPath(d, name), Net: "unix"})
}

func socketPath(dir int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

// fdPath is the name under which every process of this user can open f while
// this process lives.
func fdPath(f *os.File) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
}

// openPidfd returns a descriptor that becomes readable when the process ends.
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// waitPidfd blocks until the process of a pidfd has ended.
func waitPidfd(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	first := true
	return raw.Read(func(fd uintptr) bool {
		if !first {
			return true
		}
		first = false
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}

// pidfdEnded reports whether the process of a pidfd has ended.
func pidfdEnded(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return true
	}
	ended := true
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		ended = err != nil || n > 0
	})
	return err != nil || ended
}
