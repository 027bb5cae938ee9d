package router

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"golang.org/x/sys/unix"
)

// http hands a request to a program that listens, and streams its answer.
func (x *run) http(ctx context.Context, w *answer, req *http.Request) (status int, err error) {
	via := &connTransport{lease: x.lease, body: x.body}
	defer func() { via.finish(err == nil) }()
	proxy := httputil.ReverseProxy{
		Transport:     via,
		FlushInterval: -1, // as the program writes, so the client reads
		ErrorLog:      log.New(io.Discard, "", 0),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", "function"
			p.Out.Host = p.In.Host
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.SetXForwarded()
			x.identify(p.Out.Header)
		},
		ModifyResponse: func(r *http.Response) error {
			status = r.StatusCode
			r.Header.Del("X-Mayfly-Run")
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, e error) { err = e },
	}
	defer func() {
		if v := recover(); v == http.ErrAbortHandler {
			err = x.died(errCutOff)
		} else if v != nil {
			panic(v)
		}
	}()
	proxy.ServeHTTP(w, req)
	if ctx.Err() != nil && (err != nil || status == http.StatusSwitchingProtocols) {
		return status, context.Cause(ctx)
	}
	if err != nil {
		return status, x.died(err)
	}
	return status, nil
}

var errCutOff = errors.New("the function's answer broke off")

// deathNews is how long the kernel and init may take to report a program's
// end after its connection broke.
const deathNews = 500 * time.Millisecond

// died finds out whether a broken connection means that the program ended.
func (x *run) died(err error) error {
	if bad := new(bodyError); errors.As(err, &bad) {
		return err
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
		if e.Reason == mayfly.Succeeded {
			e.Reason, e.Detail = mayfly.ExitedNonZero, "it ended before it had answered"
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

// connTransport sends a request over the one connection of a lease, and leaves
// the connection to the lease when the next request may use it.
type connTransport struct {
	lease *container.Lease
	body  *requestBody
	conn  net.Conn
	keep  bool          // the connection can be used again
	sent  chan struct{} // closed when the request is, or cannot be
	err   error         // why it cannot; valid then
}

// RoundTrip implements http.RoundTripper.
func (t *connTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	conn, err := connect(ctx, t.lease)
	if err != nil {
		return nil, err
	}
	t.conn = conn
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	t.sent = make(chan struct{})
	go func() {
		defer close(t.sent)
		w := bufio.NewWriterSize(conn, 4096)
		if req.Body != nil {
			req.Body = &headFirst{ReadCloser: req.Body, w: w}
		}
		err := req.Write(w)
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			conn.SetReadDeadline(time.Unix(1, 0)) // there may never be an answer
		}
		t.err = err
	}()
	br := bufio.NewReaderSize(conn, 4096)
	resp, err := readResponse(br, req)
	if err != nil {
		stop()
		conn.Close()
		t.body.await(t.sent)
		if t.err != nil && !t.body.interrupted.Load() {
			err = t.err
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &upgraded{Conn: conn, br: br, stop: stop}
		return resp, nil
	}
	resp.Body = &body{ReadCloser: resp.Body, t: t, br: br, stop: stop, reusable: !resp.Close && !req.Close}
	return resp, nil
}

// connect returns the connection that a lease came with, or a new one when the
// program has closed that meanwhile.
func connect(ctx context.Context, l *container.Lease) (net.Conn, error) {
	conn := l.Conn
	l.Conn = nil
	if conn != nil {
		if idle(conn) {
			return conn, nil
		}
		conn.Close()
	}
	return l.Dial(ctx, l.Port, time.Second)
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

// headFirst sends the request's head before it waits for the body, which may
// not come before the program has answered.
type headFirst struct {
	io.ReadCloser
	w *bufio.Writer
}

func (h *headFirst) Read(p []byte) (int, error) {
	if err := h.w.Flush(); err != nil {
		return 0, err
	}
	return h.ReadCloser.Read(p)
}

// readResponse passes over what comes before the answer proper.
func readResponse(br *bufio.Reader, req *http.Request) (*http.Response, error) {
	for range 5 {
		resp, err := http.ReadResponse(br, req)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
	return nil, errors.New("too many interim answers")
}

// finish gives the connection back or closes it. One over which the request
// has not been sent whole, though it was answered, cannot be used again.
func (t *connTransport) finish(ok bool) {
	if t.conn == nil {
		return
	}
	t.keep = t.keep && ok
	if t.sent != nil && t.keep {
		timer := time.NewTimer(moment)
		defer timer.Stop()
		select {
		case <-t.sent:
			t.keep = t.err == nil
		case <-timer.C:
			t.keep = false
		}
	}
	if t.keep {
		t.lease.Conn = t.conn
		return
	}
	t.conn.Close()
	if t.sent != nil {
		t.body.await(t.sent)
	}
}

// body is an answer's body; reading it to its end frees the connection.
type body struct {
	io.ReadCloser
	t        *connTransport
	br       *bufio.Reader
	stop     func() bool
	reusable bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.reusable && b.br.Buffered() == 0 {
		b.t.keep = b.stop()
		b.reusable = false
	}
	return n, err
}

func (b *body) Close() error {
	b.stop()
	if !b.t.keep {
		b.t.conn.Close()
		return nil
	}
	return nil
}

// upgraded is a connection that speaks another protocol now.
type upgraded struct {
	net.Conn
	br   *bufio.Reader
	stop func() bool
}

func (u *upgraded) Read(p []byte) (int, error) { return u.br.Read(p) }

func (u *upgraded) Close() error {
	u.stop()
	return u.Conn.Close()
}
