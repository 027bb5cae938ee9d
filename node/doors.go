package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"golang.org/x/sys/unix"
)

// Inside answers the programs in containers that ask at /run/mayfly/api.sock.
// The api package gives it.
type Inside interface {
	// ServeInside answers a request of who. It may do no more for the request
	// than who may ask for, whatever the request says.
	ServeInside(w http.ResponseWriter, r *http.Request, who mayfly.Identity)
}

const (
	doorName = "api.sock"

	// DoorHost is where a program in a container finds the API, as clients
	// want it in MAYFLY_HOST.
	DoorHost = "unix:///run/mayfly/" + doorName
)

// Bounds of what programs may do to the daemon through their sockets.
const (
	doorConns   = 64 // connections of one container; more wait in the kernel
	allConns    = 2048
	doorHeaders = 16 << 10        // bytes of a request's head
	doorEnd     = 5 * time.Second // for what is being answered when the end comes
)

// doorTimes are how slow a program may be.
type doorTimes struct {
	head  time.Duration // of a request, as a whole
	idle  time.Duration // between two requests of a connection
	write time.Duration // until it takes a piece of an answer
}

// doors are the sockets of all containers. One goroutine waits for all of them
// in an epoll instance, because nearly all containers end without having
// asked anything: a socket costs its container some microseconds, and while it
// waits no goroutine.
type doors struct {
	inside Inside
	log    *slog.Logger
	epoll  *os.File
	epfd   int             // of epoll: Fd would make it block
	wait   syscall.RawConn // of epoll
	slots  chan struct{}   // a place for each connection
	ending chan struct{}   // closed when Accept shall end
	times  doorTimes
	end    sync.Once

	events [64]unix.EpollEvent // that Accept has not looked at, of events[next:found]
	next   int
	found  int

	mu     sync.Mutex
	last   uint64           // key of the last door
	keys   map[uint64]*door // by what epoll knows them by
	ids    map[string]*door // by the sandbox
	closed bool
}

// door is the socket of one container.
type door struct {
	doors   *doors
	key     uint64
	fd      int
	sandbox *container.Sandbox
	who     mayfly.Identity // but for the run

	mu    sync.Mutex
	conns map[*doorConn]struct{}
	full  bool // nothing is accepted until a connection ends
	gone  bool
}

// openDoors returns doors that ask inside, nil if that is nil.
func openDoors(inside Inside, log *slog.Logger) (*doors, error) {
	if inside == nil {
		return nil, nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create", err)
	}
	unix.SetNonblock(fd, true) // so that os waits for it
	d := &doors{
		inside: inside, log: log, epoll: os.NewFile(uintptr(fd), "doors"), epfd: fd,
		slots: make(chan struct{}, allConns), ending: make(chan struct{}),
		times: doorTimes{head: 10 * time.Second, idle: 30 * time.Second, write: time.Minute},
		keys:  make(map[uint64]*door), ids: make(map[string]*door),
	}
	if d.wait, err = d.epoll.SyscallConn(); err != nil {
		d.epoll.Close()
		return nil, err
	}
	return d, nil
}

// open makes the socket of a sandbox. It ends with shut.
func (d *doors) open(s *container.Sandbox, who mayfly.Identity) error {
	if d == nil {
		return nil
	}
	fd, err := s.Listen(doorName)
	if err != nil {
		return err
	}
	if err := d.add(&door{doors: d, fd: fd, sandbox: s, who: who}); err != nil {
		unix.Close(fd)
		return err
	}
	select {
	case <-s.Ended(): // shut may have been called before
		d.shut(s.ID)
	default:
	}
	return nil
}

func (d *doors) add(o *door) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errShuttingDown()
	}
	d.last++
	o.key = d.last
	if err := o.arm(unix.EPOLL_CTL_ADD, unix.EPOLLIN); err != nil {
		return err
	}
	d.keys[o.key], d.ids[o.sandbox.ID] = o, o
	return nil
}

// reopen makes the socket of a sandbox that an earlier daemon left.
func (d *doors) reopen(s *container.Sandbox) error {
	if d == nil {
		return nil
	}
	me, err := readSelf(s)
	if err != nil {
		return err
	}
	return d.open(s, me.identity())
}

// arm says what the epoll instance is to wait for. The doors are not closed.
func (o *door) arm(op int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(o.key), Pad: int32(o.key >> 32)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(o.doors.epfd, op, o.fd, &e))
}

// shut ends the sockets of sandboxes, and every connection to them: one that a
// program has passed on must not outlive its container.
func (d *doors) shut(ids ...string) {
	if d == nil {
		return
	}
	for _, id := range ids {
		d.mu.Lock()
		o := d.ids[id]
		delete(d.ids, id)
		if o != nil {
			delete(d.keys, o.key)
		}
		d.mu.Unlock()
		if o != nil {
			o.shut()
		}
	}
}

func (o *door) shut() {
	o.mu.Lock()
	o.gone = true
	conns := o.conns
	o.conns = nil
	unix.Close(o.fd)
	o.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// run answers until ctx ends, and shuts every door.
func (d *doors) run(ctx context.Context) error {
	if d == nil {
		return nil
	}
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	srv := &http.Server{
		Handler:           http.HandlerFunc(d.serve),
		ReadHeaderTimeout: d.times.head,
		IdleTimeout:       d.times.idle,
		MaxHeaderBytes:    doorHeaders,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, doorKey{}, c.(*doorConn).door)
		},
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(d) }()
	var err error
	select {
	case err = <-served:
		err = fmt.Errorf("serve containers: %w", err)
	case <-ctx.Done():
		end(errShuttingDown())
		limit, stop := context.WithTimeout(context.WithoutCancel(ctx), doorEnd)
		if srv.Shutdown(limit) != nil {
			srv.Close()
		}
		stop()
		<-served
	}
	d.close()
	return err
}

type doorKey struct{}

// runHeader names a run: to a program with its input, and by it where several runs
// are in its container.
const runHeader = "X-Mayfly-Run"

func (d *doors) serve(w http.ResponseWriter, r *http.Request) {
	o := r.Context().Value(doorKey{}).(*door)
	who := o.who
	run := o.sandbox.Run()
	if run == nil { // one that serves several is told which of them asks
		run = o.sandbox.RunOf(r.Header.Get(runHeader))
	}
	if run != nil {
		who.Run, who.Attempt, who.Deadline, who.Task = run.ID, run.Attempt, run.Deadline, run.Task
	}
	d.inside.ServeInside(w, r, who)
}

// close shuts all doors.
func (d *doors) close() {
	if d == nil {
		return
	}
	d.mu.Lock()
	d.closed = true
	ids := slices.Collect(maps.Keys(d.ids))
	d.mu.Unlock()
	d.shut(ids...)
	d.epoll.Close()
}

// Accept implements net.Listener for all doors at once. One goroutine calls it.
func (d *doors) Accept() (net.Conn, error) {
	select {
	case d.slots <- struct{}{}:
	case <-d.ending:
		return nil, net.ErrClosed
	}
	for {
		conn, err := d.accept()
		if conn == nil && err == nil {
			continue
		}
		if err != nil {
			<-d.slots
		}
		return conn, err
	}
}

// accept looks at the next event. It returns nothing if that came to nothing.
func (d *doors) accept() (net.Conn, error) {
	if d.next == d.found {
		if err := d.await(); err != nil {
			return nil, err
		}
	}
	e := d.events[d.next]
	d.next++
	d.mu.Lock()
	o := d.keys[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
	d.mu.Unlock()
	if o == nil {
		return nil, nil // it was shut just now
	}
	c, err := o.accept()
	if c == nil { // not a net.Conn that holds nil
		return nil, err
	}
	return c, err
}

// await blocks until there are events. Its error is net.ErrClosed at the end.
func (d *doors) await() error {
	var failed error
	d.next, d.found = 0, 0
	err := d.wait.Read(func(fd uintptr) bool {
		n, err := unix.EpollWait(int(fd), d.events[:], 0)
		if err != nil && err != unix.EINTR {
			failed = os.NewSyscallError("epoll_wait", err)
			return true
		}
		d.found = max(n, 0)
		return n > 0
	})
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return errors.Join(err, failed)
}

// accept takes one connection, nil if there is none.
func (o *door) accept() (*doorConn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone || o.full {
		return nil, nil
	}
	fd, _, err := unix.Accept4(o.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	switch err {
	case nil:
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		return nil, err // net/http waits before it tries again
	default:
		return nil, nil
	}
	f := os.NewFile(uintptr(fd), "door")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	c := &doorConn{Conn: conn, door: o}
	if o.conns == nil {
		o.conns = make(map[*doorConn]struct{})
	}
	o.conns[c] = struct{}{}
	if len(o.conns) >= doorConns {
		o.full = true
		o.arm(unix.EPOLL_CTL_MOD, 0)
	}
	return c, nil
}

// Close implements net.Listener: it ends Accept.
func (d *doors) Close() error {
	d.end.Do(func() { close(d.ending) })
	return d.epoll.SetReadDeadline(time.Unix(1, 0))
}

// Addr implements net.Listener.
func (d *doors) Addr() net.Addr { return &net.UnixAddr{Name: doorName, Net: "unix"} }

// doorConn is a connection of a program in a container.
type doorConn struct {
	net.Conn
	door *door
	once sync.Once
}

// Write gives up on a program that takes nothing.
func (c *doorConn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(c.door.doors.times.write))
	return c.Conn.Write(p)
}

// Close lets another connection in.
func (c *doorConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		o := c.door
		<-o.doors.slots
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.conns, c)
		if o.full && !o.gone {
			o.full = false
			o.arm(unix.EPOLL_CTL_MOD, unix.EPOLLIN)
		}
	})
	return err
}
