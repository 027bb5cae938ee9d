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
type Attachment struct{ streams }

// Execution is a connection to the streams of one more program in an instance.
type Execution struct{ streams }

// streams are a program's, over an upgraded connection.
type streams struct {
	client *Client
	conn   io.ReadWriteCloser
	stdin  bool
}

// Attach connects to the streams of an instance. Once it returns, nothing that
// the program writes is missed, so attach to a created instance before
// starting it. With stdin the program's input is ours; only one may hold it.
// The caller calls Stream or Close.
func (c *Client) Attach(ctx context.Context, ref string, stdin bool) (*Attachment, error) {
	s, err := c.openStreams(ctx, stdin, call{path: []string{"instances", ref, "attach"}, query: url.Values{"stdin": {strconv.FormatBool(stdin)}}})
	if err != nil {
		return nil, err
	}
	return &Attachment{s}, nil
}

// Exec runs one more program in a running instance, which ref names as
// GetInstance takes it, or as SERVICE or SERVICE/REPLICA. The caller calls
// Stream or Close, which ends the program.
func (c *Client) Exec(ctx context.Context, ref string, spec mayfly.ExecSpec) (*Execution, error) {
	s, err := c.openStreams(ctx, spec.Stdin, call{path: []string{"instances", ref, "exec"}, send: spec})
	if err != nil {
		return nil, err
	}
	return &Execution{s}, nil
}

// openStreams makes a call that becomes a connection.
func (c *Client) openStreams(ctx context.Context, stdin bool, k call) (streams, error) {
	k.method = http.MethodPost
	k.header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {AttachProtocol}}
	resp, err := c.sendUpgrade(ctx, k)
	if err != nil {
		return streams{}, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.Header.Get("Upgrade") != AttachProtocol {
		resp.Body.Close()
		return streams{}, mayfly.Errorf(mayfly.Internal, "the daemon at %s does not speak %s", c.host, AttachProtocol)
	}
	return streams{client: c, conn: conn, stdin: stdin}, nil
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

// Close ends the connection. An instance's own program goes on, that of an
// Execution is made to end.
func (s *streams) Close() error { return s.conn.Close() }

// Stream copies stdin to the program, and what it writes to stdout and stderr,
// until it has ended and all was copied. It returns the ended instance. A nil
// stdin ends the program's input at once. The connection is closed.
//
// A read from stdin that has begun cannot be taken back: the goroutine in it
// ends with the next byte, or with stdin.
func (a *Attachment) Stream(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (ended mayfly.Instance, err error) {
	err = a.stream(ctx, stdin, stdout, stderr, &ended)
	return ended, err
}

// Stream is as that of an Attachment, and returns how the program ended. One that
// could not be executed ended with 126 or 127, and Detail says why.
func (e *Execution) Stream(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (exit mayfly.Exit, err error) {
	err = e.stream(ctx, stdin, stdout, stderr, &exit)
	return exit, err
}

// stream decodes what the last frame says into last.
func (s *streams) stream(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, last any) error {
	defer s.conn.Close()
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	if s.stdin {
		go s.sendStdin(stdin)
	}
	err := s.receive(stdout, stderr, last)
	var broken *brokenError
	if errors.As(err, &broken) {
		return s.client.sendError(ctx, broken.err)
	}
	return err
}

// sendStdin ends when stdin does or the connection is closed. The program may
// end before its input does, so a failure to send says nothing.
func (s *streams) sendStdin(stdin io.Reader) {
	frames := NewFrameWriter(s.conn)
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

func (s *streams) receive(stdout, stderr io.Writer, last any) error {
	frames := NewFrameReader(s.conn)
	for {
		stream, p, err := frames.ReadFrame()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the stream broke off")
			}
			return &brokenError{err}
		}
		switch stream {
		case FrameStdout:
			_, err = stdout.Write(p)
		case FrameStderr:
			_, err = stderr.Write(p)
		case FrameExit:
			if err := json.Unmarshal(p, last); err != nil {
				return mayfly.Errorf(mayfly.Internal, "decode the daemon's answer: %w", err)
			}
			return nil
		case FrameError:
			var problem Problem
			if err := json.Unmarshal(p, &problem); err != nil {
				return mayfly.Errorf(mayfly.Internal, "decode the daemon's answer: %w", err)
			}
			return problem.Err()
		default:
			err = &brokenError{errors.New("the daemon sent a frame that only we send")}
		}
		if err != nil {
			return err
		}
	}
}
