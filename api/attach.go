package api

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

const upgradeAnswer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + client.AttachProtocol + "\r\n\r\n"

// attachment is one request to carry a program's streams, on its way to become
// a connection.
type attachment struct {
	what  string // for the log
	stdin bool

	// carry copies the streams until the program's output has ended, and calls
	// ready once it has begun. Meanwhile result waits for what the last frame
	// says.
	carry  func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, ready func()) error
	result func(ctx context.Context) (any, error)

	ready    chan struct{} // closed when the streams are carried
	upgraded chan struct{} // closed when out is set

	mu  sync.Mutex // over out: stdout and stderr write at once
	out *client.FrameWriter
}

type waited struct {
	value any
	err   error
}

// prepareFunc fills in an attachment from the request, in a space.
type prepareFunc func(w http.ResponseWriter, req *http.Request, a *attachment, space string) error

func (r *router) serveAttach(w http.ResponseWriter, req *http.Request) {
	r.serveUpgrade(w, req, r.attachTo)
}
func (r *router) serveExec(w http.ResponseWriter, req *http.Request) {
	r.serveUpgrade(w, req, r.execIn)
}

// serveUpgrade upgrades the connection once the streams are carried, so that
// every failure before that has the status of its kind.
func (r *router) serveUpgrade(w http.ResponseWriter, req *http.Request, prepare prepareFunc) {
	a, err := r.checkUpgrade(w, req, prepare)
	if err != nil {
		r.fail(w, req, err)
		return
	}
	r.streams.Add(1)
	defer r.streams.Done()
	closing, stop := r.untilClosing(req.Context())
	defer stop()
	ctx, cancel := context.WithCancel(closing)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	input, feed := io.Pipe()
	defer input.Close() // whoever feeds it fails from then on
	attached, ended := a.start(ctx, &group, input)
	select {
	case err := <-attached:
		if err != nil {
			r.fail(w, req, because(ctx, err))
			return
		}
		attached <- nil // it had ended already
	case <-a.ready:
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		r.fail(w, req, err)
		return
	}
	defer conn.Close()
	if !a.upgrade(conn) {
		return
	}
	// Who does not read must not hold up the end.
	defer context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Now().Add(lingerTime)) })()
	received := make(chan struct{})
	group.Go(func() {
		defer close(received)
		defer cancel() // who does not read any more has left
		a.receive(client.NewFrameReader(buffered), feed)
	})
	a.finish(r.Server, because(ctx, <-attached), ended)
	input.Close()
	linger(conn, received)
}

// lingerTime bounds how long a client may take to see that all is over.
const lingerTime = 2 * time.Second

// linger lets the client close the connection first. Closed while input is on
// its way, it would be reset, and the last frames could be lost.
func linger(conn net.Conn, received <-chan struct{}) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	<-received
}

func (r *router) checkUpgrade(w http.ResponseWriter, req *http.Request, prepare prepareFunc) (*attachment, error) {
	a := &attachment{ready: make(chan struct{}), upgraded: make(chan struct{})}
	if err := need(r.services.Instances, "instances"); err != nil {
		return nil, err
	}
	if !strings.EqualFold(req.Header.Get("Upgrade"), client.AttachProtocol) || !strings.EqualFold(req.Header.Get("Connection"), "Upgrade") {
		return nil, mayfly.Errorf(mayfly.Invalid, "attaching takes an upgraded connection").
			WithHint("send Connection: Upgrade and Upgrade: %s", client.AttachProtocol)
	}
	space := req.URL.Query().Get("space")
	if space == "" {
		space = mayfly.DefaultSpace
	}
	if err := mayfly.CheckName("space", space); err != nil {
		return nil, err
	}
	return a, prepare(w, req, a, space)
}

// attachTo carries the streams of an instance's own program.
func (r *router) attachTo(_ http.ResponseWriter, req *http.Request, a *attachment, space string) (err error) {
	if text := req.URL.Query().Get("stdin"); text != "" {
		if a.stdin, err = strconv.ParseBool(text); err != nil {
			return mayfly.Errorf(mayfly.Invalid, "query.stdin: %q is neither true nor false", text)
		}
	}
	instances := r.services.Instances
	i, err := instances.GetInstance(req.Context(), space, req.PathValue("ref"))
	a.what = "attach " + i.ID
	a.carry = func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, ready func()) error {
		return instances.AttachInstance(ctx, space, i.ID, stdin, stdout, stderr, ready)
	}
	a.result = func(ctx context.Context) (any, error) { return instances.WaitInstance(ctx, space, i.ID) }
	return err
}

// execIn carries the streams of one more program.
func (r *router) execIn(w http.ResponseWriter, req *http.Request, a *attachment, space string) error {
	body := newBody(w, req, maxJSON)
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var spec mayfly.ExecSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "the body is not what an exec takes: %w", err)
	}
	ref, exit := req.PathValue("ref"), make(chan mayfly.Exit, 1)
	a.what, a.stdin = "exec in "+ref, spec.Stdin
	a.carry = func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, ready func()) error {
		e, err := r.services.Instances.ExecInstance(ctx, space, ref, spec, stdin, stdout, stderr, ready)
		exit <- e
		return err
	}
	a.result = func(context.Context) (any, error) { return <-exit, nil }
	return nil
}

// start attaches, and begins to wait for the end: before the program is
// started, or one that is forgotten at its end could be gone.
func (a *attachment) start(ctx context.Context, group *sync.WaitGroup, input io.Reader) (attached chan error, ended chan waited) {
	attached, ended = make(chan error, 1), make(chan waited, 1)
	var stdin io.Reader // stays a true nil when there is none
	if a.stdin {
		stdin = input
	}
	var once sync.Once
	ready := func() { once.Do(func() { close(a.ready) }) }
	group.Go(func() {
		attached <- a.carry(ctx, stdin, a.stream(ctx, client.FrameStdout), a.stream(ctx, client.FrameStderr), ready)
	})
	group.Go(func() {
		value, err := a.result(ctx)
		ended <- waited{value, err}
	})
	return attached, ended
}

func (a *attachment) upgrade(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Time{}) // a connection that cannot do this fails at the next line
	if _, err := io.WriteString(conn, upgradeAnswer); err != nil {
		return false
	}
	a.out = client.NewFrameWriter(conn)
	close(a.upgraded)
	return true
}

// frameStream writes to one stream of an attachment.
type frameStream struct {
	ctx    context.Context
	a      *attachment
	stream byte
}

func (a *attachment) stream(ctx context.Context, stream byte) io.Writer {
	return frameStream{ctx, a, stream}
}

func (f frameStream) Write(p []byte) (int, error) {
	select {
	case <-f.a.upgraded:
	case <-f.ctx.Done():
		return 0, f.ctx.Err()
	}
	if len(p) == 0 {
		return 0, nil
	}
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	if err := f.a.out.WriteFrame(f.stream, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// receive feeds the program until the connection ends, and goes on reading
// when the program takes no more: the end of the connection must be seen.
func (a *attachment) receive(frames *client.FrameReader, feed *io.PipeWriter) {
	defer feed.Close()
	for {
		stream, p, err := frames.ReadFrame()
		if err != nil || stream != client.FrameStdin {
			return
		}
		if len(p) == 0 {
			feed.Close()
		} else if a.stdin {
			_, _ = feed.Write(p) // fails once the program takes no more
		}
	}
}

// finish sends the last frame. Nobody else writes any more.
func (a *attachment) finish(s *Server, err error, ended chan waited) {
	var last any
	kind := byte(client.FrameExit)
	if err == nil {
		end := <-ended
		last, err = end.value, end.err
	}
	if err != nil {
		last, kind = s.problem(err, a.what).Problem, client.FrameError
	}
	p, err := json.Marshal(last)
	if err != nil || len(p) > client.MaxFrame {
		p, _ = json.Marshal(client.NewProblem(mayfly.Errorf(mayfly.Internal, "the instance's description does not fit a frame")))
		kind = client.FrameError
	}
	_ = a.out.WriteFrame(kind, p) // who does not read it has left
}
