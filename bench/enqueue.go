package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// EnqueueRow is how fast tasks are accepted over HTTP, and how fast JetStream
// takes the same bytes. The rates are medians, per second.
type EnqueueRow struct {
	HTTP  float64 `json:"httpPerSecond"`
	Bare  float64 `json:"barePerSecond"`
	Ratio float64 `json:"ratio"` // median of the ratios of neighbours
	Bytes int     `json:"bytes"` // of a message, its headers and subject included
}

// enqueuePayload is what a submitted task carries, in bytes.
const enqueuePayload = 300

// enqueue has 16 clients submit tasks one by one to a queue that is paused, and
// 16 publish the very message that such a task is stored as, in turns.
func (b *bench) enqueue(ctx context.Context) error {
	sub := mayfly.Submission{Workload: noop, Payload: []byte(strings.Repeat("x", enqueuePayload))}
	d, err := b.upNoop(ctx, "enqueue")
	if err != nil {
		return err
	}
	if err := d.api.PauseQueue(ctx, noop); err != nil {
		return err
	}
	if _, err := d.api.Submit(ctx, sub); err != nil {
		return err
	}
	if err := d.down(ctx); err != nil {
		return err
	}
	sample, config, err := sampleTask(ctx, d.dir)
	if err != nil {
		return fmt.Errorf("read the task from its stream: %w", err)
	}
	bare, err := openBare(ctx, filepath.Join(b.dir, "bare"), config)
	if err != nil {
		return fmt.Errorf("open a JetStream of the bench's own: %w", err)
	}
	defer bare.close()
	if d, err = b.up(ctx, "enqueue"); err != nil {
		return err
	}
	row := EnqueueRow{Bytes: sample.Size()}
	var http, plain, ratios []float64
	for i := range pick(b, 6, 1) {
		over, err := d.submitFor(ctx, sub, pick(b, 3*time.Second, 300*time.Millisecond))
		if err != nil {
			return err
		}
		straight, err := bare.publishFor(ctx, sample, pick(b, 3*time.Second, 300*time.Millisecond))
		if err != nil {
			return err
		}
		b.say("enqueue: %.0f/s over HTTP, %.0f/s bare", over, straight)
		if i > 0 || b.quick { // the first round only warms up
			http, plain, ratios = append(http, over), append(plain, straight), append(ratios, over/straight)
		}
	}
	row.HTTP, row.Bare, row.Ratio = round1(median(http)), round1(median(plain)), round3(median(ratios))
	b.results.Enqueue = &row
	return d.down(ctx)
}

// submitFor has the clients submit for a while and returns the rate.
func (d *daemon) submitFor(ctx context.Context, sub mayfly.Submission, long time.Duration) (float64, error) {
	free := make(chan *submitter, submitClients)
	for range submitClients {
		s, err := d.submitter(sub)
		if err != nil {
			return 0, err
		}
		defer s.conn.Close()
		free <- s
	}
	begun := time.Now()
	n, err := crowd(ctx, func(context.Context) error {
		s := <-free
		defer func() { free <- s }()
		return s.submit()
	}, submitClients, long)
	return float64(n) / time.Since(begun).Seconds(), err
}

// sampleTask reads the last task that a daemon which is down has accepted, as
// it is stored, and how its stream is made.
func sampleTask(ctx context.Context, dir string) (*nats.Msg, jetstream.StreamConfig, error) {
	opened, err := bus.Open(ctx, dir, bus.Options{})
	if err != nil {
		return nil, jetstream.StreamConfig{}, err
	}
	defer opened.Close()
	stream, err := opened.JetStream().Stream(ctx, bus.TasksStream)
	if err != nil {
		return nil, jetstream.StreamConfig{}, err
	}
	info := stream.CachedInfo()
	raw, err := stream.GetMsg(ctx, info.State.LastSeq)
	if err != nil {
		return nil, jetstream.StreamConfig{}, err
	}
	raw.Header.Del(jetstream.ExpectedLastSeqHeader) // which one writer knows, and 16 do not
	return &nats.Msg{Subject: raw.Subject, Header: raw.Header, Data: raw.Data}, info.Config, nil
}

// bareStream is a JetStream that nothing stands before, in this process.
type bareStream struct {
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
}

// openBare starts a server that syncs each message before it acknowledges it,
// with one stream.
func openBare(ctx context.Context, dir string, config jetstream.StreamConfig) (_ *bareStream, err error) {
	bare := &bareStream{}
	bare.server, err = server.NewServer(&server.Options{
		DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir, SyncAlways: true, MaxPayload: bus.MaxMessage,
	})
	if err != nil {
		return nil, err
	}
	bare.server.Start()
	if !bare.server.ReadyForConnections(30 * time.Second) {
		return nil, errors.Join(errors.New("it did not start"), bare.close())
	}
	if bare.conn, err = nats.Connect("", nats.InProcessServer(bare.server)); err != nil {
		return nil, errors.Join(err, bare.close())
	}
	if bare.js, err = jetstream.New(bare.conn); err == nil {
		_, err = bare.js.CreateStream(ctx, config)
	}
	if err != nil {
		return nil, errors.Join(err, bare.close())
	}
	return bare, nil
}

func (s *bareStream) close() error {
	if s.conn != nil {
		s.conn.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
	return nil
}

// publishFor has clients publish a message for a while and returns the rate.
func (s *bareStream) publishFor(ctx context.Context, sample *nats.Msg, long time.Duration) (float64, error) {
	begun := time.Now()
	n, err := crowd(ctx, func(ctx context.Context) error {
		_, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: sample.Subject, Header: sample.Header, Data: sample.Data})
		return err
	}, submitClients, long)
	return float64(n) / time.Since(begun).Seconds(), err
}
