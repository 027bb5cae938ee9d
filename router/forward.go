package router

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// peer is a program that listens, as one request has it.
type peer interface {
	// connect returns a connection over which nothing is under way, and whether it
	// was kept from before. With fresh it is a new one.
	connect(ctx context.Context, fresh bool) (conn net.Conn, kept bool, err error)

	// giveBack takes back what connect gave. Unless it is to be kept, it is closed.
	giveBack(conn net.Conn, keep bool)

	// tell gives the fields that the program gets besides those of the request.
	tell(line func(name, value string))
}

// forward hands a request to a program and streams its answer, at once both ways.
// The error is nil when the answer was passed on whole, of whatever status. With
// an error and a status, a part of it was.
//
// The request is sent once, but for two cases: nothing of it was sent, or it may
// be repeated (RFC 9110, section 9.2.2), has no body, and a kept connection ended
// before a byte of the answer: most likely it had been closed while it waited. An
// error is a movableError where that allows another instance to get it.
func (r *Router) forward(ctx context.Context, w http.ResponseWriter, req *http.Request, v *visit, body *requestBody, p peer) (status int, err error) {
	buf := r.heads.get()
	defer r.heads.put(buf)
	head := appendHead((*buf)[:0], req, v, body, p)
	*buf = head
	sent := false
	for fresh := false; ; fresh = true {
		conn, kept, err := p.connect(ctx, fresh)
		if err != nil {
			return 0, &movableError{err, sent}
		}
		x := exchange{router: r, conn: conn, br: r.reader(conn), w: w, req: req, body: body}
		stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		err = x.do(head)
		undisturbed := stop()
		if x.br != nil {
			x.keep = x.keep && x.br.Buffered() == 0
			r.putReader(x.br)
		}
		x.finish(p, undisturbed && err == nil)
		if err == nil || ctx.Err() != nil || !x.again(err) {
			return x.status, err
		}
		sent = sent || !x.unsent
		if fresh || !kept {
			return x.status, &movableError{err, sent}
		}
	}
}

// movableError is why a program did not answer a request that another may be given:
// nothing of it was sent, or it may be repeated.
type movableError struct {
	error
	sent bool // the program may have seen it
}

func (e *movableError) Unwrap() error { return e.error }

// Of the instances that may get a request one after the other, as each ends before
// it has answered.
const (
	mostSent  = 3 // that may have seen it
	mostTried = 6 // all
)

// moves counts the instances that had a request.
type moves struct{ tried, sent int }

// on counts one more, and reports whether another one may get it.
func (m *moves) on(e *movableError) bool {
	if m.tried++; e.sent {
		m.sent++
	}
	return m.tried < mostTried && m.sent < mostSent
}

// exchange is a request and its answer over one connection.
type exchange struct {
	router *Router
	conn   net.Conn
	br     *bufio.Reader // of conn; nil once somebody else has it
	w      http.ResponseWriter
	req    *http.Request
	body   *requestBody

	unsent bool          // not a byte of the request was sent
	status int           // that was passed on; 0: none yet
	keep   bool          // the connection can be used again
	sent   chan struct{} // closed when the body is sent, or cannot be; nil: there is none
	asked  chan bool     // whether the program wants the body; nil: it is sent anyway
	sendEr error         // why the body cannot be sent; valid after sent
}

// do sends the request and passes the answer on.
func (x *exchange) do(head []byte) error {
	if n, err := x.conn.Write(head); err != nil {
		x.unsent = n == 0
		return err
	}
	if !x.body.eof.Load() {
		x.send()
	}
	err := x.answer()
	x.ask(false)
	if err != nil && x.sent != nil {
		x.conn.Close()
		there := x.req.Context().Err() == nil
		x.body.await(x.sent)
		x.body.unwanted = there && x.body.interrupted.Load()
		if bad := (*bodyError)(nil); errors.As(x.sendEr, &bad) && !x.body.interrupted.Load() {
			err = x.sendEr // that is why
		}
	}
	return err
}

// again reports whether the request may be sent once more.
func (x *exchange) again(err error) bool {
	if x.unsent {
		return x.sent == nil
	}
	return repeatable(x.req.Method) && x.sent == nil && errors.As(err, new(*unansweredError)) &&
		(errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}

// finish gives the connection back or closes it. One over which the request has
// not been sent whole, though it was answered, cannot be used again.
func (x *exchange) finish(p peer, ok bool) {
	keep := x.keep && ok
	if x.sent != nil && keep {
		select {
		case <-x.sent:
		default:
			timer := time.NewTimer(moment)
			select {
			case <-x.sent:
			case <-timer.C:
				keep = false
			}
			timer.Stop()
		}
		keep = keep && x.sendEr == nil
	}
	p.giveBack(x.conn, keep)
	if x.sent != nil && !keep {
		x.body.await(x.sent)
		if x.sendEr == errUnwanted {
			x.body.left = true // the client does not send it either
		}
	}
}

// answer reads the answer and passes it on.
func (x *exchange) answer() error {
	for range maxInterim {
		r, err := readReply(x.br, x.req.Method)
		switch {
		case err != nil:
			return err
		case r.status == http.StatusContinue:
			x.ask(true)
		case r.status == http.StatusSwitchingProtocols:
			return x.upgrade(r)
		case r.status < 200:
			x.interim(r)
		default:
			return x.pass(r)
		}
	}
	return badReply("more than %d answers before the one proper", maxInterim)
}

// interim passes on what comes before the answer proper, such as early hints.
func (x *exchange) interim(r *reply) {
	if x.req.ProtoMajor == 1 && x.req.ProtoMinor == 0 {
		return
	}
	h := x.w.Header()
	for name, values := range r.header {
		h[name] = values
	}
	x.w.WriteHeader(r.status)
	for name := range r.header {
		delete(h, name)
	}
}

// pass passes an answer on.
func (x *exchange) pass(r *reply) error {
	x.ask(false)
	h := x.w.Header()
	for name, values := range r.header {
		if name != "X-Mayfly-Run" { // that is ours to say
			h[name] = values
		}
	}
	if r.header["Content-Type"] == nil {
		h["Content-Type"] = nil // nobody guesses it
	}
	if len(r.trailer) > 0 {
		h["Trailer"] = []string{strings.Join(r.trailer, ", ")}
	}
	x.status = r.status
	x.w.WriteHeader(r.status)
	if err := x.passBody(r); err != nil {
		return err
	}
	x.keep = !r.close
	return nil
}
