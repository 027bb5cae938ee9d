package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// What a stdio function writes is held back until it has ended, because its
// exit code decides between an answer and an error; but not more of it, and
// not for longer, than this: then it streams, and a failure cuts the answer
// off.
const (
	holdBytes = 64 << 10
	holdTime  = time.Second
)

// stdio gives the body to the program as standard input and answers with its
// standard output.
func (x *run) stdio(ctx context.Context, w *answer, req *http.Request) (int, error) {
	p := x.lease.Program
	p.Env = append(append(p.Env[:len(p.Env):len(p.Env)], x.identity().Environment()...),
		"CONTENT_TYPE="+req.Header.Get("Content-Type"))
	out, theirs, err := x.lease.Pipe(false)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	p.Stdout = theirs
	var in *os.File
	if req.Body != nil && req.ContentLength != 0 {
		if in, p.Stdin, err = x.lease.Pipe(true); err != nil {
			theirs.Close()
			return 0, err
		}
	}
	main, err := x.lease.Start(ctx, p)
	theirs.Close()
	if p.Stdin != nil {
		p.Stdin.Close()
	}
	if err != nil {
		if in != nil {
			in.Close()
		}
		return 0, x.startError(ctx, p.Argv[0], err)
	}
	defer context.AfterFunc(ctx, func() { out.SetReadDeadline(time.Unix(1, 0)) })()
	fed := x.feed(in)
	status, err := x.relay(ctx, w, out, main)
	if in != nil {
		in.SetWriteDeadline(time.Unix(1, 0)) // it may not have read it all
	}
	x.body.await(fed)
	if err != nil && x.body.err != nil && !x.body.interrupted.Load() {
		err = x.body.err // that is why
	}
	return status, err
}

// feed copies the body to the program in a goroutine; its end is on the
// channel. A program that does not read it all is no error. One that was not
// sent it all is killed before it could take what came for the whole.
func (x *run) feed(in *os.File) <-chan struct{} {
	done := make(chan struct{})
	if in == nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		io.Copy(in, x.body)
		if x.body.err != nil {
			x.lease.Kill()
			<-x.lease.Ended()
		}
		in.Close()
	}()
	return done
}

// relay passes the output on and then judges by the exit code.
func (x *run) relay(ctx context.Context, w *answer, out *os.File, main *container.Process) (int, error) {
	var held bytes.Buffer
	begin := func() error {
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		_, err := w.Write(held.Bytes())
		held.Reset()
		return err
	}
	buf := make([]byte, 32<<10)
	var first time.Time
	for {
		if w.status == 0 && !first.IsZero() {
			out.SetReadDeadline(first.Add(holdTime))
		}
		n, err := out.Read(buf)
		held.Write(buf[:n])
		if n > 0 && first.IsZero() {
			first = time.Now()
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if late {
			out.SetReadDeadline(time.Time{})
		}
		if w.status != 0 || late || held.Len() >= holdBytes {
			out.SetReadDeadline(time.Time{})
			if err := begin(); err != nil {
				return 0, err
			}
			w.flush()
		}
		if err == io.EOF {
			break
		}
		if err != nil && !late {
			return 0, err
		}
	}
	select {
	case <-main.Done():
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if e := x.exitOf(main); e.Reason != mayfly.Succeeded {
		return 0, &exitError{exit: e}
	}
	if w.status == 0 {
		w.Header().Set("Content-Length", strconv.Itoa(held.Len()))
		if err := begin(); err != nil {
			return 0, err
		}
	}
	return http.StatusOK, nil
}

// startError says why a program could not be executed.
func (x *run) startError(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		select {
		case <-x.lease.Ended():
			return &exitError{exit: x.lease.Exit()}
		default:
			return err
		}
	}
	code, detail := container.ExecFailure(name, errno)
	return &exitError{exit: mayfly.Exit{Code: code, Reason: mayfly.ExitedNonZero, Time: time.Now(), Detail: detail}}
}
