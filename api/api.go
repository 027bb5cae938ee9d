// Package api is the HTTP server: JSON under /v1, described by the OpenAPI
// document at /v1/openapi.json, streams of JSON lines for what takes long, and
// an upgraded connection for the streams of a program.
//
// The wire form is that of package client, which calls it. The server holds no
// state of the platform: it checks, bounds and translates, and the services
// that it is given do the rest.
//
// What it promises:
//   - Everything read from outside is bounded in size and in time. A stream
//     that goes out has no such bound: it lasts as long as its reader does.
//   - Each failure is a problem (RFC 9457) with a kind of the closed list.
//   - A client that leaves ends what it asked for, apart from the down of the
//     machine.
//   - The socket belongs to root and the group mayfly. TCP is served on loopback
//     addresses only, because callers have no identity yet; requests that a
//     browser sends on behalf of another site are refused there.
//
// Creating operations take an Idempotency-Key header: the same key with the same
// body gives the first answer again, for the last 1,000 keys and at most ten
// minutes, as long as the daemon runs. A failure is not remembered.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Bounds of what a client may send and how slowly.
const (
	maxJSON      = 1 << 20
	maxPlan      = 16 << 20      // what asks for a plan
	maxCode      = 1<<30 + 1<<28 // package build takes 1 GiB of files; a tar is longer
	maxImport    = 64 << 30
	maxTasks     = 64 << 20 // what submits tasks
	maxHeaders   = 64 << 10
	headerTime   = 10 * time.Second
	jsonTime     = 10 * time.Second // for a whole JSON body
	uploadTime   = time.Minute      // for each piece of an upload
	idleTime     = 2 * time.Minute
	heartbeat    = 20 * time.Second // between signs of life on a silent stream
	shutdownTime = 5 * time.Second  // for what is being answered when the end comes
)

// Options tune a Server. The zero value is fit for production.
type Options struct {
	Log      *slog.Logger // discarded if nil
	Version  string       // as `mayfly version` shows it
	Node     string       // name of this node, for version
	Driver   string       // name of the container driver, for version
	URL      string       // where routes are served, for version; empty: nowhere
	Group    string       // group that may use the socket, if there is one; "mayfly" if empty
	MaxCode  int64        // bytes of an uploaded code tar; 1.25 GiB if zero
	MaxTasks int64        // bytes of a request that submits tasks; 64 MiB if zero
	Stop     func()       // ends the daemon, after Machine.StopAll; nothing if nil
}

// Server answers on the addresses that it was opened with.
type Server struct {
	services  Services
	opts      Options
	listeners []listener
	handler   http.Handler
	answers   *answers
	bodies    bodies // of containers
	spec      []byte // the OpenAPI document

	closing chan struct{}  // closed when streams shall end
	streams sync.WaitGroup // connections that net/http no longer knows

	mu   sync.Mutex
	held []net.Conn // of those who wait for the end of the process
}

// Open listens on the addresses, unix:///path or http://host:port, and answers
// nobody before Run. A path that another daemon listens on is a Conflict, an
// address that is not loopback is Denied.
func Open(addresses []string, services Services, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Group == "" {
		opts.Group = "mayfly"
	}
	if opts.MaxCode == 0 {
		opts.MaxCode = maxCode
	}
	if opts.MaxTasks == 0 {
		opts.MaxTasks = maxTasks
	}
	s := &Server{services: services, opts: opts, closing: make(chan struct{}), answers: newAnswers()}
	handler, err := s.routes()
	if err != nil {
		return nil, err
	}
	s.handler = handler
	for _, address := range addresses {
		l, err := listen(address, opts.Group, opts.Log)
		if err != nil {
			s.closeListeners()
			return nil, err
		}
		s.listeners = append(s.listeners, l)
	}
	return s, nil
}

// Addresses returns where the server listens, in the form that Open takes, with
// ports that the system picked filled in.
func (s *Server) Addresses() []string {
	var all []string
	for _, l := range s.listeners {
		all = append(all, l.address)
	}
	return all
}

// Run answers until ctx ends. Then it ends the streams, gives what is being
// answered some seconds, and returns when none of its goroutines is left.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	for _, l := range s.listeners {
		srv := &http.Server{
			Handler:           s.guard(l.tcp, s.handler),
			ReadHeaderTimeout: headerTime,
			IdleTimeout:       idleTime,
			MaxHeaderBytes:    maxHeaders,
			BaseContext:       func(net.Listener) context.Context { return base },
			ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
		}
		group.Go(func() error {
			if err := srv.Serve(l.Listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.address, err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			limit, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
			defer stop()
			if srv.Shutdown(limit) != nil {
				cancel()
				return srv.Close()
			}
			return nil
		})
	}
	context.AfterFunc(ctx, func() { close(s.closing) })
	err := group.Wait()
	cancel()
	s.streams.Wait()
	return err
}

// Close stops listening, where Run has not, and lets those go who wait for the
// end of the daemon. The end of the process does the same.
func (s *Server) Close() {
	s.closeListeners()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.held {
		conn.Close()
	}
	s.held = nil
}

func (s *Server) closeListeners() {
	for _, l := range s.listeners {
		l.Close()
	}
}
