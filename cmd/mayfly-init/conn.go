package main

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/mayfly-run/mayfly/container/wire"
)

// conn is one connection of the daemon's.
type conn struct {
	file *os.File
	raw  syscall.RawConn

	in    []byte // received, not yet taken
	start int
	fds   []int // received, not yet taken

	mu sync.Mutex // one frame at a time goes out
}

func newConn(fd int) (*conn, error) {
	f := os.NewFile(uintptr(fd), "control")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &conn{file: f, raw: raw}, nil
}

func (c *conn) close() {
	c.file.Close()
	for _, fd := range c.fds {
		syscall.Close(fd)
	}
	c.fds = nil
}

// next reads one frame. The body is valid until the next call.
func (c *conn) next() (t wire.Type, number uint32, body []byte, err error) {
	if err := c.fill(wire.HeaderLen); err != nil {
		return 0, 0, nil, err
	}
	t, number, n, err := wire.Header(c.in[c.start:])
	if err != nil {
		return 0, 0, nil, err
	}
	if err := c.fill(wire.HeaderLen + n); err != nil {
		return 0, 0, nil, err
	}
	body = c.in[c.start+wire.HeaderLen : c.start+wire.HeaderLen+n]
	c.start += wire.HeaderLen + n
	return t, number, body, nil
}

// fill reads until n bytes are there.
func (c *conn) fill(n int) error {
	if c.start == len(c.in) || cap(c.in)-c.start < n {
		rest := c.in[c.start:]
		if want := max(n, 2048); cap(c.in) < want || cap(c.in) > 64<<10 {
			c.in = make([]byte, 0, want)
		}
		c.in = append(c.in[:0], rest...)
		c.start = 0
	}
	for len(c.in)-c.start < n {
		if err := c.receive(); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) receive() error {
	var oob [64]byte // room for MaxFiles descriptors
	var n, oobn int
	var err error
	rerr := c.raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, err = syscall.Recvmsg(int(fd), c.in[len(c.in):cap(c.in)], oob[:], syscall.MSG_CMSG_CLOEXEC)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN
			}
		}
	})
	if rerr != nil {
		return rerr
	}
	if err != nil {
		return err
	}
	if oobn > 0 {
		messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return err
		}
		for i := range messages {
			fds, err := syscall.ParseUnixRights(&messages[i])
			if err != nil {
				return err
			}
			c.fds = append(c.fds, fds...)
		}
	}
	if n == 0 {
		return io.EOF
	}
	c.in = c.in[:len(c.in)+n]
	return nil
}

var errNoDescriptor = errors.New("a descriptor is missing")

// takeFile returns the next descriptor that came in.
func (c *conn) takeFile() (int, error) {
	if len(c.fds) == 0 {
		return -1, errNoDescriptor
	}
	fd := c.fds[0]
	c.fds = c.fds[1:]
	return fd, nil
}

// reply sends one frame, with a descriptor unless fd is negative.
func (c *conn) reply(t wire.Type, number uint32, body []byte, fd int) error {
	frame := make([]byte, wire.HeaderLen, wire.HeaderLen+len(body))
	wire.PutHeader(frame, t, number, len(body))
	return c.write(append(frame, body...), fd)
}

func (c *conn) fail(number uint32, err error) error {
	f := wire.Failure{Text: err.Error()}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		f.Errno = uint32(errno)
	}
	return c.reply(wire.Error, number, f.Append(nil), -1)
}

// write sends a whole frame. It waits while the daemon does not read.
func (c *conn) write(frame []byte, fd int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var oob []byte
	if fd >= 0 {
		oob = syscall.UnixRights(fd)
	}
	for len(frame) > 0 {
		var n int
		var err error
		werr := c.raw.Write(func(s uintptr) bool {
			n, err = syscall.SendmsgN(int(s), frame, oob, nil, syscall.MSG_NOSIGNAL)
			return err != syscall.EAGAIN
		})
		if werr != nil {
			return werr
		}
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		frame, oob = frame[n:], nil
	}
	return nil
}
