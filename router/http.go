package router

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"golang.org/x/sys/unix"
)

// http hands a request to a program that listens, and streams its answer.
func (x *run) http(ctx context.Context, w *answer, req *http.Request) (int, error) {
	status, err := x.router.forward(ctx, w, req, x.visit, x.body, x)
	if x.body.over(ctx) && (err != nil || status == http.StatusSwitchingProtocols) {
		return status, context.Cause(ctx)
	}
	if err == nil {
		return status, nil
	}
	told := x.died(err)
	if safe := (*movableError)(nil); errors.As(err, &safe) && x.movable(safe, told) {
		return 0, &movableError{told, safe.sent}
	}
	return status, told
}

// movable reports whether a request that may be given to another instance is to be:
// what was not sent is, and else what came to instances that ended for no fault of
// its own. One that is perhaps to blame has one more try.
func (x *run) movable(e *movableError, told error) bool {
	var ended *exitError
	switch {
	case !e.sent:
		return true
	case x.release.Workload.Isolation != mayfly.IsolationInstance || !errors.As(told, &ended):
		return false // the run was what the program was there for; or it lives
	}
	switch exit := &ended.exit; {
	case exit.Reason == mayfly.Lost:
		return true // for the sake of another
	case exit.Reason == mayfly.OutOfMemory, exit.Reason == mayfly.DeadlinePassed:
		return false
	case exit.Signal == int(syscall.SIGKILL), exit.Signal == int(syscall.SIGTERM):
		return true
	}
	return x.lease.Shared() && (x.moves.sent == 0 || x.lease.Innocent())
}

// connect is part of peer.
func (x *run) connect(ctx context.Context, fresh bool) (conn net.Conn, kept bool, err error) {
	conn = x.lease.Conn
	x.lease.Conn = nil
	if conn != nil && !fresh && idle(conn) {
		return conn, true, nil
	}
	if conn != nil {
		conn.Close()
	}
	conn, err = x.lease.Dial(ctx, x.lease.Port, time.Second)
	return conn, false, err
}

// giveBack is part of peer.
func (x *run) giveBack(conn net.Conn, keep bool) {
	if keep {
		x.lease.Conn = conn
		return
	}
	conn.Close()
}

// tell is part of peer.
func (x *run) tell(line func(name, value string)) { x.identity().Headers(line) }

// deathNews is how long the kernel and init may take to report a program's
// end after its connection broke.
const deathNews = 500 * time.Millisecond

// died finds out whether a broken connection means that the program ended.
func (x *run) died(err error) error {
	if errors.As(err, new(*bodyError)) {
		return err
	}
	if errors.As(err, new(*errReply)) {
		return mayfly.Errorf(mayfly.Failed, "function %s cannot be understood: %w", x.record.Workload, err)
	}
	t := time.NewTimer(deathNews)
	defer t.Stop()
	main := x.lease.Main()
	if main == nil {
		return mayfly.Errorf(mayfly.Failed, "function %s: %w", x.record.Workload, err)
	}
	select {
	case <-main.Done():
		e := x.exitOf(main)
		switch e.Reason {
		case mayfly.Succeeded:
			e.Reason, e.Detail = mayfly.ExitedNonZero, "it ended before it had answered"
		case mayfly.OutOfMemory, mayfly.DeadlinePassed:
			if x.lease.Innocent() {
				e.Detail = "its instance ended, because of another run in it: " + string(e.Reason)
				e.Reason = mayfly.Lost
			}
		}
		return &exitError{exit: e}
	case <-t.C:
		return mayfly.Errorf(mayfly.Failed, "function %s broke the connection off: %w", x.record.Workload, err)
	}
}

// exitOf is how the lease's program ended, the kernel's word on memory
// included.
func (x *run) exitOf(p *container.Process) mayfly.Exit {
	e := p.Exit()
	if e.Signal == 0 {
		return e
	}
	select {
	case <-x.lease.Ended():
		return x.lease.Exit()
	case <-time.After(deathNews):
		return e
	}
}

// idle reports whether a connection is open and nothing has come that nobody
// asked for.
func idle(conn net.Conn) bool {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
		return true
	})
	return err == nil && quiet
}
