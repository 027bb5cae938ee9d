// Package bus opens NATS, the engine under everything that Mayfly remembers,
// and holds the only list of its streams, buckets and subjects (list.go).
//
// The server is embedded: it runs in this process, listens nowhere, and keeps
// its files in the data directory, of which one process at a time is the
// owner. What a strict stream acknowledges is on disk and survives kill -9 and
// power loss: every write is synced, and the file system is synced after a
// stream has been created, because JetStream does not sync its own metadata.
// An async stream (call history) may lose its last messages to a crash.
//
// One sync after the other bounds what a stream takes, so a Journal has records
// that are written at the same time share a message. Syncing many messages at
// once instead was tried: publish without SyncAlways, then one fdatasync for all.
// But without SyncAlways the server also replaces a block that it has compacted
// by a file that is not synced, and some file systems may then be left with an
// empty one: messages that were acknowledged long ago.
//
// Some of the disk is kept for what becomes of what is there already: Room says
// when nothing new is to be begun. Should the disk be full nevertheless, Run
// gets the engine going again when there is room.
//
// What the messages mean is left to the packages above.
package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bounds on time, and on the memory that the engine may take.
const (
	openTimeout   = 30 * time.Second // a large store on a slow disk is replayed
	closeTimeout  = 5 * time.Second  // for history that is still on its way
	maxMemory     = 64 << 20         // bytes, all memory streams together
	maxStore      = 1 << 42          // bytes; each stream has its own limit
	maxPending    = 4096             // publishes without an answer yet
	maxConsumers  = 10_000           // of one stream, watchers included
	syncInterval  = 10 * time.Second // of async streams
	reconnectWait = 50 * time.Millisecond
)

// Options tune a Bus. The zero value is fit for production.
type Options struct {
	Log     *slog.Logger // nil: nothing is logged
	Version string       // of this program, written down for whoever is older; "unknown" if empty
}

// Bus is an open connection to NATS with every stream of the list in place.
// Its methods are safe for concurrent use.
type Bus struct {
	dir    string
	log    *slog.Logger
	lock   *os.File
	engine engine
	gauge  gauge
	conn   *nats.Conn
	js     jetstream.JetStream
	state  jetstream.KeyValue
	runs   jetstream.Stream
}

// Open starts the embedded server on the data directory dir, which is created
// when missing, and puts every stream of the list in place. It fails with a
// Conflict error when another process has dir open, with an Invalid one when a
// newer Mayfly wrote it, and with an Unavailable one when its disk is full. Close
// releases dir.
func Open(ctx context.Context, dir string, opts Options) (*Bus, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Version = cmp.Or(opts.Version, "unknown")
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	b := &Bus{dir: dir, log: opts.Log, lock: lock}
	b.engine = engine{dir: dir, log: opts.Log, broken: make(chan struct{}, 1)}
	if err := b.open(ctx, dir, opts); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bus) open(ctx context.Context, dir string, opts Options) error {
	if err := checkFormat(dir); err != nil {
		return err
	}
	if err := checkRoom(dir); err != nil {
		return err
	}
	if err := b.engine.start(); err != nil {
		return err
	}
	if err := b.connect(opts.Log); err != nil {
		return err
	}
	if err := b.ensureList(ctx, dir); err != nil {
		return err
	}
	return writeFormat(dir, opts.Version)
}

// dial connects to the server, however long a busy machine has it stand still.
func dial(server nats.InProcessConnProvider, log *slog.Logger) (*nats.Conn, error) {
	conn, err := nats.Connect("",
		nats.InProcessServer(server),
		nats.Name("mayfly"),
		nats.Timeout(openTimeout),
		nats.MaxReconnects(-1), // Run opens the engine anew when it must
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(0, 0),
		nats.ReconnectBufSize(-1), // what was given up must not be written later
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Error("nats connection", "error", err)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	return conn, nil
}

func (b *Bus) connect(log *slog.Logger) error {
	conn, err := dial(&b.engine, log)
	if err != nil {
		return err
	}
	b.conn = conn
	b.js, err = jetstream.New(conn,
		jetstream.WithPublishAsyncMaxPending(maxPending),
		jetstream.WithPublishAsyncTimeout(openTimeout),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, msg *nats.Msg, err error) {
			log.Error("publish in the background", "subject", msg.Subject, "error", err)
		}),
	)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	return nil
}

// JetStream returns the handle for publishing and for reading streams. An
// asynchronous publish that fails is logged by the bus.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }

// Dir is the data directory, in which the packages above may have directories of
// their own.
func (b *Bus) Dir() string { return b.dir }

// State returns the bucket of desired and observed state.
func (b *Bus) State() jetstream.KeyValue { return b.state }

// Runs returns the stream of call history.
func (b *Bus) Runs() jetstream.Stream { return b.runs }

// Close waits, for five seconds at most, until history that is on its way has
// been taken, then stops the server and releases the data directory. Nothing
// of the Bus runs afterwards.
func (b *Bus) Close() error {
	var err error
	if b.js != nil {
		select {
		case <-b.js.PublishAsyncComplete():
		case <-time.After(closeTimeout):
			err = fmt.Errorf("close bus: %d records of history not written", b.js.PublishAsyncPending())
		}
	}
	if b.conn != nil {
		b.conn.Close()
	}
	b.engine.stop()
	return errors.Join(err, b.lock.Close())
}
