package bus

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
)

// engine is the embedded server. A stream of it that could not write once, as on
// a full disk, refuses every write from then on, without an answer, until the
// server is opened again; that is what mend does. (JetStream can be switched off
// and on within a server too, but then every request is carried out twice.)
type engine struct {
	dir    string
	log    *slog.Logger
	broken chan struct{} // has a value when a stream could not write

	mu  sync.Mutex
	srv *server.Server // nil while there is none
}

// start runs a server. It opens no port and installs no signal handler.
func (e *engine) start() error {
	logger := &serverLog{log: e.log, broken: e.broken}
	srv, err := server.NewServer(&server.Options{
		ServerName:             "mayfly",
		DontListen:             true,
		NoSigs:                 true,
		NoLog:                  true, // SetLoggerV2 below
		DisableJetStreamBanner: true,
		JetStream:              true,
		JetStreamDomain:        Domain,
		JetStreamMaxMemory:     maxMemory,
		JetStreamMaxStore:      maxStore,
		JetStreamLimits:        server.JSLimitOpts{DefaultMaxConsumers: maxConsumers},
		StoreDir:               e.dir,
		SyncAlways:             true,
		SyncInterval:           syncInterval,
		MaxPayload:             MaxMessage,
	})
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "configure nats: %w", err)
	}
	srv.SetLoggerV2(logger, false, false, false)
	srv.Start() // blocks until the store is open, or has logged why not
	err = logger.fatal()
	if err == nil && !(srv.ReadyForConnections(openTimeout) && srv.JetStreamEnabled()) {
		err = errors.New("the engine did not start")
	}
	if err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return mayfly.Errorf(mayfly.Unavailable, "cannot open the state in %s: %w", filepath.Join(e.dir, storeDir), err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv = srv
	return nil
}

// stop ends the server, if there is one.
func (e *engine) stop() {
	e.mu.Lock()
	srv := e.srv
	e.srv = nil
	e.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

// InProcessConn connects the client, again after mend.
func (e *engine) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.srv == nil {
		return nil, nats.ErrNoServers
	}
	return e.srv.InProcessConn()
}

// How long mend waits after a write that was refused, and between looks at the
// disk.
const (
	mendFirst   = time.Second
	mendLongest = 30 * time.Second
)

// Run opens the engine anew after the disk refused a write, as soon as there is
// room, until ctx ends. What was acknowledged is there afterwards; whoever waits
// for an answer meanwhile gets none, and an error.
func (b *Bus) Run(ctx context.Context) error {
	pause, last := mendFirst, time.Time{}
	for {
		select {
		case <-b.engine.broken:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.setRefused(true)
		if time.Since(last) > 10*mendLongest {
			pause = mendFirst
		}
		b.log.Error("the disk of the data directory refused a write; nothing is recorded until it can be written again", "dir", b.dir)
		for err := errors.New("not tried yet"); err != nil; pause = min(2*pause, mendLongest) {
			if !b.awaitRoom(ctx, pause) {
				return ctx.Err()
			}
			b.engine.stop()
			select {
			case <-b.engine.broken: // said again by what was stopped
			default:
			}
			if err = b.engine.start(); err != nil {
				b.log.Error("the state cannot be opened again yet", "error", err)
			}
		}
		last = time.Now()
		b.setRefused(false)
		b.log.Warn("the data directory is written again")
	}
}

// awaitRoom waits a while, and until there is room to end something.
func (b *Bus) awaitRoom(ctx context.Context, pause time.Duration) bool {
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
		b.gauge.mu.Lock()
		room := b.look()
		b.gauge.mu.Unlock()
		if room != NoRoom {
			return true
		}
		pause = mendFirst
	}
}

func (b *Bus) setRefused(refused bool) {
	b.gauge.mu.Lock()
	defer b.gauge.mu.Unlock()
	b.gauge.refused = refused
}
