// Package probe asks programs whether they are well: by an HTTP request, a TCP
// connection, a gRPC health check or a command beside them.
//
// Try asks once. Watch asks again and again, counts, and tells when the answer
// has changed. Neither knows where the program is: a Target reaches it. What an
// asked program answers is bounded in size and time, no redirect is followed,
// and each try has a connection of its own, so that a server which takes no more
// connections is found out. What follows from the answer is the caller's.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/mayfly-run/mayfly"
)

// Timeout is how long one try may take, where the probe does not say.
const Timeout = 3 * time.Second

const (
	maxReason = 300 // bytes of a reason
	maxPart   = 160 // bytes of it that the asked program may choose
)

// Target reaches the program that is asked.
type Target struct {
	// Dial opens a TCP connection to a port of the program.
	Dial func(ctx context.Context, port uint16) (net.Conn, error)
	// Exec runs a command beside the program and returns its exit code and the
	// end of what it wrote. When ctx ends it kills the command and returns.
	Exec func(ctx context.Context, argv []string) (code int, tail string, err error)
	// Port is asked where the probe names none.
	Port uint16
	// Host is what an HTTP request's Host header says, where the probe's headers
	// do not; "localhost" if empty.
	Host string
}

// Try asks once, and returns nil if the program is well. The error is one line
// for a person, such as "http GET /: 503 Service Unavailable". It returns ctx's
// own error when ctx ended before the answer.
func Try(ctx context.Context, t Target, p mayfly.Probe) error {
	limit := p.Timeout
	if limit <= 0 {
		limit = Timeout
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	what, err := t.ask(bounded, p)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: no answer within %s", what, limit)
	}
	return fmt.Errorf("%s: %s", what, short(err))
}

// ask also says what was asked, for the error.
func (t Target) ask(ctx context.Context, p mayfly.Probe) (what string, err error) {
	switch {
	case p.HTTP != nil:
		path := p.HTTP.Path
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		return "http GET " + line(path, maxPart), t.askHTTP(ctx, path, p.HTTP)
	case p.GRPC != nil:
		what = "grpc health check"
		if p.GRPC.Service != "" {
			what += " of " + line(p.GRPC.Service, maxPart)
		}
		return what, t.askGRPC(ctx, p.GRPC)
	case len(p.Exec) > 0:
		return "exec " + line(strings.Join(p.Exec, " "), maxPart/2), t.askExec(ctx, p.Exec)
	case p.TCP != nil:
		return fmt.Sprintf("tcp port %d", t.port(p.TCP.Port)), t.askTCP(ctx, p.TCP)
	}
	return "probe", errors.New("says neither http, tcp, grpc nor exec")
}

func (t Target) port(port uint16) uint16 {
	if port == 0 {
		return t.Port
	}
	return port
}

// dial opens a connection that ends with ctx: release it with the function.
func (t Target) dial(ctx context.Context, port uint16) (net.Conn, func(), error) {
	if t.Dial == nil {
		return nil, nil, errors.New("it has no network to ask through")
	}
	if port = t.port(port); port == 0 {
		return nil, nil, errors.New("no port is known; name one in the probe")
	}
	conn, err := t.Dial(ctx, port)
	if err != nil {
		return nil, nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() { stop(); conn.Close() }, nil
}

func (t Target) askTCP(ctx context.Context, p *mayfly.TCPProbe) error {
	_, release, err := t.dial(ctx, p.Port)
	if err == nil {
		release()
	}
	return err
}

func (t Target) askExec(ctx context.Context, argv []string) error {
	if t.Exec == nil {
		return errors.New("nothing can be run there")
	}
	code, tail, err := t.Exec(ctx, argv)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case code == 0:
		return nil
	}
	if last := lastLine(tail); last != "" {
		return fmt.Errorf("exit code %d: %s", code, last)
	}
	return fmt.Errorf("exit code %d", code)
}

// short is what of an error a person needs: the reason, without the addresses
// around it.
func short(err error) string {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed without an answer"
	}
	return line(err.Error(), maxReason)
}

// lastLine returns the last line that says anything.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return line(text[strings.LastIndexAny(text, "\r\n")+1:], maxPart)
}

// line makes text fit for a line of a log: printable, and at most limit bytes.
func line(text string, limit int) string {
	cut := len(text) > limit
	if cut {
		text = text[:limit]
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
	if cut {
		text += "..."
	}
	return text
}
