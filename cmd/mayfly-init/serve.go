package main

import (
	"os"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly/container/wire"
)

// listen accepts the daemon's connections for ever.
func (in *initd) listen(fd int) error {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	raw, err := os.NewFile(uintptr(fd), "listener").SyscallConn()
	if err != nil {
		return err
	}
	for {
		var c int
		var aerr error
		if err := raw.Read(func(fd uintptr) bool {
			c, _, aerr = syscall.Accept4(int(fd), syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
			return aerr != syscall.EAGAIN
		}); err != nil {
			return err
		}
		if aerr == syscall.EINTR || aerr == syscall.ECONNABORTED {
			continue
		}
		if aerr != nil {
			return aerr
		}
		conn, err := newConn(c)
		if err != nil {
			return err
		}
		go in.serve(conn)
	}
}

// serve carries out what one connection asks for, until it ends.
func (in *initd) serve(c *conn) {
	defer in.leave(c)
	for {
		t, number, body, err := c.next()
		if err != nil {
			return
		}
		switch t {
		case wire.Hello:
			err = in.hello(c, number, body)
		case wire.Start, wire.Spawn:
			err = in.program(c, t, number, body)
		case wire.Signal:
			err = in.signal(c, number, body)
		case wire.Dial:
			err = in.dial(c, number, body)
		case wire.Attach:
			if in.log.attach(c, number) == nil {
				return // the connection is the log's now
			}
			return
		default:
			err = c.fail(number, syscall.ENOSYS)
		}
		if err != nil {
			return
		}
	}
}

func (in *initd) hello(c *conn, number uint32, body []byte) error {
	var g wire.Greeting
	if err := g.Decode(body); err != nil {
		return err
	}
	if g.LogMax > 0 {
		in.log.setMax(int(g.LogMax))
	}
	main := in.join(c)
	return c.reply(wire.Hello, number, wire.Greeting{Version: wire.Version, Main: main}.Append(nil), -1)
}

func (in *initd) program(c *conn, t wire.Type, number uint32, body []byte) error {
	var p wire.Program
	if err := p.Decode(body); err != nil {
		return err
	}
	if err := in.start(c, number, p, t == wire.Start); err != nil {
		return c.fail(number, err)
	}
	return nil
}

func (in *initd) signal(c *conn, number uint32, body []byte) error {
	var k wire.Kill
	if err := k.Decode(body); err != nil {
		return err
	}
	if err := in.kill(k); err != nil {
		return c.fail(number, err)
	}
	return c.reply(wire.Done, number, nil, -1)
}

// dial connects in a goroutine of its own, because the program may take its
// time to listen and the daemon has other things to say meanwhile.
func (in *initd) dial(c *conn, number uint32, body []byte) error {
	var d wire.Dialing
	if err := d.Decode(body); err != nil {
		return err
	}
	go func() {
		fd, err := connect(int(d.Port), time.Duration(d.Timeout)*time.Millisecond)
		if err != nil {
			c.fail(number, err)
			return
		}
		c.reply(wire.Done, number, nil, fd)
		syscall.Close(fd)
	}()
	return nil
}

// connect tries until somebody listens. There is no event to wait for: the
// kernel tells nobody that a port was opened.
func connect(port int, timeout time.Duration) (int, error) {
	end := time.Now().Add(timeout)
	for wait := 500 * time.Microsecond; ; wait = min(wait*3/2, 10*time.Millisecond) {
		fd, err := connectOnce(syscall.AF_INET, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
		if err == nil {
			return fd, nil
		}
		fd6, err6 := connectOnce(syscall.AF_INET6, &syscall.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}})
		if err6 == nil {
			return fd6, nil
		}
		if time.Now().Add(wait).After(end) {
			return -1, err
		}
		time.Sleep(wait)
	}
}

func connectOnce(family int, to syscall.Sockaddr) (int, error) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	limit := syscall.Timeval{Sec: 1} // also bounds connect, socket(7)
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	if err := syscall.Connect(fd, to); err != nil {
		syscall.Close(fd)
		return -1, err
	}
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &syscall.Timeval{})
	return fd, nil
}
