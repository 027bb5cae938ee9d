package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/mayfly-run/mayfly"
)

// Attachment is a connection to the streams of an instance.
type Attachment struct {
	client *Client
	conn   io.ReadWriteCloser
	stdin  bool
}

// Attach connects to the streams of an instance. Once it returns, nothing that
// the program writes is missed, so attach to a created instance before
// starting it. With stdin the program's input is ours; only one may hold it.
// The caller calls Stream or Close.
func (c *Client) Attach(ctx context.Context, ref string, stdin bool) (*Attachment, error) {
	resp, err := c.sendUpgrade(ctx, call{
		method: http.MethodPost,
		path:   []string{"instances", ref, "attach"},
		query:  url.Values{"stdin": {strconv.FormatBool(stdin)}},
		header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {AttachProtocol}},
	})
	if err != nil {
		return nil, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.Header.Get("Upgrade") != AttachProtocol {
		resp.Body.Close()
		return nil, mayfly.Errorf(mayfly.Internal, "the daemon at %s does not speak %s", c.host, AttachProtocol)
	}
	return &Attachment{client: c, conn: conn, stdin: stdin}, nil
}

// sendUpgrade makes a call that must be answered with 101.
func (c *Client) sendUpgrade(ctx context.Context, k call) (*http.Response, error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.sendError(ctx, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return nil, mayfly.Errorf(mayfly.Internal, "the daemon answered %d to an upgrade", resp.StatusCode)
	}
	return nil, problemOf(resp)
}

// Close ends the connection. The program goes on.
func (a *Attachment) Close() error { return a.conn.Close() }

// Stream copies stdin to the program, and what it writes to stdout and stderr,
// until it has ended and all was copied. It returns the ended instance. A nil
// stdin ends the program's input at once. The connection is closed.
//
// A read from stdin that has begun cannot be taken back: the goroutine in it
// ends with the next byte, or with stdin.
func (a *Attachment) Stream(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (mayfly.Instance, error) {
	defer a.conn.Close()
	stop := context.AfterFunc(ctx, func() { a.conn.Close() })
	defer stop()
	if a.stdin {
		go a.sendStdin(stdin)
	}
	instance, err := a.receive(stdout, stderr)
	var broken *brokenError
	if errors.As(err, &broken) {
		return instance, a.client.sendError(ctx, broken.err)
	}
	return instance, err
}

// sendStdin ends when stdin does or the connection is closed. The program may
// end before its input does, so a failure to send says nothing.
func (a *Attachment) sendStdin(stdin io.Reader) {
	frames := NewFrameWriter(a.conn)
	if stdin != nil {
		buf := make([]byte, MaxFrame)
		for {
			n, err := stdin.Read(buf)
			if n > 0 && frames.WriteFrame(FrameStdin, buf[:n]) != nil {
				return
			}
			if err != nil {
				break
			}
		}
	}
	frames.WriteFrame(FrameStdin, nil)
}

// brokenError is a failure of the connection, not of where we write to.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }

func (a *Attachment) receive(stdout, stderr io.Writer) (i mayfly.Instance, err error) {
	frames := NewFrameReader(a.conn)
	for {
		stream, p, err := frames.ReadFrame()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the stream broke off")
			}
			return i, &brokenError{err}
		}
		switch stream {
		case FrameStdout:
			_, err = stdout.Write(p)
		case FrameStderr:
			_, err = stderr.Write(p)
		case FrameExit:
			if err := json.Unmarshal(p, &i); err != nil {
				return i, mayfly.Errorf(mayfly.Internal, "decode the daemon's answer: %w", err)
			}
			return i, nil
		case FrameError:
			var problem Problem
			if err := json.Unmarshal(p, &problem); err != nil {
				return i, mayfly.Errorf(mayfly.Internal, "decode the daemon's answer: %w", err)
			}
			return i, problem.Err()
		default:
			err = &brokenError{errors.New("the daemon sent a frame that only we send")}
		}
		if err != nil {
			return i, err
		}
	}
}
