package container

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly/container/wire"
)

// errInitGone means that the connection to init ended: its container did, or
// is about to.
var errInitGone = errors.New("the container is gone")

// IsGone reports whether an error of a Sandbox's method means that the container
// has ended.
func IsGone(err error) bool { return errors.Is(err, errInitGone) }

// initConn speaks package wire's protocol with one mayfly-init.
type initConn struct {
	conn *net.UnixConn
	in   []byte // received, not yet taken; of read alone
	fds  []int

	version uint16 // that init speaks

	done chan struct{} // closed when serve has ended

	mu      sync.Mutex // guards what follows, and one frame at a time goes out
	next    uint32
	waiting map[uint32]chan<- answer
	exits   map[uint32]*Process
	closed  bool
}

type answer struct {
	t    wire.Type
	body []byte
	fd   int // a descriptor that came with it; -1: none
}

// dialInit connects to the socket in dir and exchanges greetings. It returns
// what init says that it runs. Its wait for an init that is stopped or starved
// ends with ctx, and after greetTimeout.
func dialInit(ctx context.Context, dir string, logMax int64) (*initConn, wire.Greeting, error) {
	var g wire.Greeting
	conn, err := dialUnix(dir, socketName)
	if err != nil {
		return nil, g, err
	}
	c := &initConn{
		conn:    conn,
		done:    make(chan struct{}),
		next:    newBase(),
		waiting: make(map[uint32]chan<- answer),
		exits:   make(map[uint32]*Process),
	}
	hello := wire.Greeting{Version: wire.Version, LogMax: uint32(logMax / 2)}
	if err := c.write(wire.Hello, 0, hello.Append(nil), nil); err != nil {
		conn.Close()
		return nil, g, err
	}
	conn.SetReadDeadline(time.Now().Add(greetTimeout))
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	t, _, body, err := c.read()
	for err == nil && t == wire.Exited { // just then; it is in the file as well
		t, _, body, err = c.read()
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	conn.SetReadDeadline(time.Time{})
	if err == nil {
		err = g.Decode(body)
	}
	c.dropFiles()
	if err != nil {
		conn.Close()
		return nil, g, fmt.Errorf("greet init: %w", err)
	}
	c.version = g.Version
	return c, g, nil
}

const greetTimeout = 10 * time.Second

// newBase starts the numbers of a connection's requests where those of an
// earlier daemon's connections to the same init are most unlikely to be.
func newBase() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return uint32(b[0]&0x7f)<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | 1
}

// serve reads until the connection ends, and then fails whoever waits.
func (c *initConn) serve() {
	for {
		t, number, body, err := c.read()
		if err != nil {
			break
		}
		c.deliver(t, number, body)
	}
	c.conn.Close()
	c.dropFiles()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, w := range c.waiting {
		close(w)
	}
	clear(c.waiting)
	for _, p := range c.exits {
		p.lose()
	}
	clear(c.exits)
	close(c.done)
}

func (c *initConn) deliver(t wire.Type, number uint32, body []byte) {
	fd := -1
	if t == wire.Done && len(c.fds) > 0 {
		fd = c.fds[0]
		c.fds = c.fds[1:]
	}
	if len(c.in) == 0 {
		c.dropFiles() // they belong to no frame that is still to come
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t == wire.Exited {
		var s wire.Status
		if p := c.exits[number]; p != nil && s.Decode(body) == nil {
			delete(c.exits, number)
			p.end(s)
		}
		return
	}
	w := c.waiting[number]
	delete(c.waiting, number)
	if w == nil {
		if fd >= 0 {
			syscall.Close(fd)
		}
		return
	}
	w <- answer{t: t, body: append([]byte(nil), body...), fd: fd}
}

// call sends a request and waits for its answer. A process that the request
// starts is given as p, to be told of its end.
func (c *initConn) call(ctx context.Context, t wire.Type, body []byte, files []*os.File, p *Process) (fd int, err error) {
	w := make(chan answer, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return -1, errInitGone
	}
	c.next++
	for c.exits[c.next] != nil || c.next == 0 {
		c.next++ // an earlier daemon's
	}
	number := c.next
	c.waiting[number] = w
	if p != nil {
		p.number = number
		c.exits[number] = p
	}
	err = c.writeUntil(ctx, t, number, body, files)
	c.mu.Unlock()
	if err != nil {
		c.forget(number)
		return -1, err
	}
	select {
	case a, ok := <-w:
		return c.result(a, ok, number)
	case <-ctx.Done():
		c.forget(number)
		select { // it may have come meanwhile, with a descriptor
		case a, ok := <-w:
			return c.result(a, ok, number)
		default:
			return -1, context.Cause(ctx)
		}
	}
}

// do is a call whose answer has no descriptor. One that comes all the same is
// closed.
func (c *initConn) do(ctx context.Context, t wire.Type, body []byte, files []*os.File, p *Process) error {
	fd, err := c.call(ctx, t, body, files, p)
	if fd >= 0 {
		syscall.Close(fd)
	}
	return err
}

func (c *initConn) result(a answer, ok bool, number uint32) (int, error) {
	if !ok {
		return -1, errInitGone
	}
	if a.t == wire.Error {
		c.forget(number)
		var f wire.Failure
		if err := f.Decode(a.body); err != nil {
			return -1, err
		}
		if f.Errno != 0 {
			return -1, syscall.Errno(f.Errno)
		}
		return -1, errors.New(f.Text)
	}
	return a.fd, nil
}

func (c *initConn) forget(number uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, number)
	delete(c.exits, number)
}

func (c *initConn) write(t wire.Type, number uint32, body []byte, files []*os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writeLocked(t, number, body, files)
}

// writeUntil gives up when ctx ends, and the connection with it, for half a
// frame may have gone out. Only an init that does not read makes it wait.
func (c *initConn) writeUntil(ctx context.Context, t wire.Type, number uint32, body []byte, files []*os.File) error {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(over)
	})
	err := c.writeLocked(t, number, body, files)
	if !stop() {
		<-over
		c.conn.SetWriteDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.conn.Close()
		return context.Cause(ctx)
	}
	return err
}

func (c *initConn) writeLocked(t wire.Type, number uint32, body []byte, files []*os.File) error {
	if len(body)+wire.HeaderLen > wire.MaxFrame {
		return syscall.E2BIG
	}
	frame := make([]byte, wire.HeaderLen, wire.HeaderLen+len(body))
	wire.PutHeader(frame, t, number, len(body))
	frame = append(frame, body...)
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd()) // sets it to blocking, as a program expects it
		}
		oob = syscall.UnixRights(fds...)
	}
	for len(frame) > 0 {
		n, _, err := c.conn.WriteMsgUnix(frame, oob, nil)
		if err != nil {
			return err
		}
		frame, oob = frame[n:], nil
	}
	return nil
}

// read takes the next frame. The body is valid until the next read.
func (c *initConn) read() (wire.Type, uint32, []byte, error) {
	if err := c.fill(wire.HeaderLen); err != nil {
		return 0, 0, nil, err
	}
	t, number, n, ok := wire.Header(c.in)
	if !ok {
		return 0, 0, nil, wire.ErrMalformed
	}
	if err := c.fill(wire.HeaderLen + n); err != nil {
		return 0, 0, nil, err
	}
	body := c.in[wire.HeaderLen : wire.HeaderLen+n : wire.HeaderLen+n]
	c.in = c.in[wire.HeaderLen+n:]
	return t, number, body, nil
}

func (c *initConn) fill(n int) error {
	if len(c.in) >= n {
		return nil
	}
	if cap(c.in) < n {
		c.in = append(make([]byte, 0, max(n, 512)), c.in...)
	}
	var oob [64]byte
	for len(c.in) < n {
		got, oobn, _, _, err := c.conn.ReadMsgUnix(c.in[len(c.in):cap(c.in)], oob[:])
		if err != nil {
			return err
		}
		if oobn > 0 {
			if err := c.keep(oob[:oobn]); err != nil {
				return err
			}
		}
		if got == 0 {
			return io.EOF
		}
		c.in = c.in[:len(c.in)+got]
	}
	return nil
}

func (c *initConn) keep(oob []byte) error {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for i := range messages {
		if fds, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			c.fds = append(c.fds, fds...)
		}
	}
	if len(c.fds) > maxPending {
		return wire.ErrMalformed
	}
	return nil
}

// maxPending is how many descriptors may have come before the frames that they
// belong to were taken. Init sends one with each answer to a Dial.
const maxPending = 64

// dropFiles closes what came and is not wanted.
func (c *initConn) dropFiles() {
	for _, fd := range c.fds {
		syscall.Close(fd)
	}
	c.fds = nil
}

// attach opens a connection of its own on which output comes, calls ready, and
// passes each chunk to fn until the output or ctx ends.
func attach(ctx context.Context, dir string, ready func(), fn func(wire.Chunk) error) error {
	conn, err := dialUnix(dir, socketName)
	if err != nil {
		return err
	}
	c := &initConn{conn: conn}
	defer c.dropFiles()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := c.write(wire.Attach, 1, nil, nil); err != nil {
		return err
	}
	for {
		t, _, body, err := c.read()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil // the container has ended, and init had sent everything
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		switch t {
		case wire.Done:
			ready()
		case wire.Output:
			var chunk wire.Chunk
			if err := chunk.Decode(body); err != nil {
				return err
			}
			if err := fn(chunk); err != nil {
				return err
			}
		}
	}
}
