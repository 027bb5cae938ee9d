package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	client "github.com/mayfly-run/mayfly/sdk/go"
)

const downAnswer = "HTTP/1.1 200 OK\r\nContent-Type: " + client.ContentStream + "\r\nConnection: close\r\n\r\n"

// serveDown stops every container, says so, and ends the daemon. The
// connection is kept until the end of the process, which closes it: that is
// how the client sees the end. A client that leaves changes nothing.
func (r *router) serveDown(w http.ResponseWriter, req *http.Request) {
	if err := need(r.services.Machine, "containers"); err != nil {
		r.fail(w, req, err)
		return
	}
	r.streams.Add(1)
	defer r.streams.Done()
	ctx, stop := r.untilClosing(context.WithoutCancel(req.Context()))
	defer stop()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		r.fail(w, req, err)
		return
	}
	r.opts.Log.Info("it is taken down, with every container, because somebody asked for that", "client", req.RemoteAddr)
	r.hold(conn)
	_ = conn.SetDeadline(time.Time{})
	out := &stream{w: conn, form: asLine, flush: func() error { return nil }, begin: func() { _, _ = io.WriteString(conn, downAnswer) }}
	_, err = out.whileAlive(ctx, func(ctx context.Context, out *stream) (any, error) {
		return nil, r.services.Machine.StopAll(ctx, out.say)
	})
	out.finish(r.Server, req, nothing{}, because(ctx, err))
	if err != nil {
		r.release(conn)
		return
	}
	if r.opts.Stop != nil {
		r.opts.Stop()
	}
}

// hold keeps a connection open until Close.
func (s *Server) hold(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, conn)
}

func (s *Server) release(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.held {
		if c == conn {
			s.held = append(s.held[:i], s.held[i+1:]...)
			break
		}
	}
	conn.Close()
}
