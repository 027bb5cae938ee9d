package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
	"github.com/mayfly-run/mayfly/store"
)

// FlatRow is what a task costs the queue to grant and to end, while many wait,
// of many workloads. There are no containers in it.
type FlatRow struct {
	Queued    int     `json:"queued"`
	Workloads int     `json:"workloads"`
	PerSecond float64 `json:"perSecond"` // granted and ended by 16 runners
	CPU       float64 `json:"cpuMs"`     // of each
	Memory    float64 `json:"bytesEach"` // of the heap, for each that waits
	Open      float64 `json:"openSeconds"`
	Close     float64 `json:"closeSeconds"`
}

// NodeRow is a node with tasks that wait.
type NodeRow struct {
	Queued int     `json:"queued"`
	Start  float64 `json:"startSeconds"`
	Stop   float64 `json:"stopSeconds"`
	RSS    float64 `json:"rssMB"` // after the start
}

// flat measures the queue by itself at several sizes, and how long a node with
// many tasks takes to stop and to start.
func (b *bench) flat(ctx context.Context) error {
	sizes := []struct{ queued, workloads int }{{1000, 1}, {10_000, 1}, {100_000, 1}, {100_000, 100}, {100_000, 10_000}}
	most := 100_000
	switch {
	case b.quick:
		sizes = sizes[:1]
		most = 1000
	case b.long:
		sizes = append(sizes, struct{ queued, workloads int }{1_000_000, 1}, struct{ queued, workloads int }{1_000_000, 10_000})
		most = 1_000_000
	}
	for _, s := range sizes {
		row, err := b.flatRow(ctx, s.queued, s.workloads)
		if err != nil {
			return fmt.Errorf("%d tasks of %d workloads: %w", s.queued, s.workloads, err)
		}
		b.say("flat: %d of %d workloads: %.0f/s, %.3f ms of CPU each", s.queued, s.workloads, row.PerSecond, row.CPU)
		b.results.Flat = append(b.results.Flat, row)
	}
	return b.fullNode(ctx, most)
}

// ownQueue is a queue in this process.
type ownQueue struct {
	bus   *bus.Bus
	store *store.Store
	*queue.Queue
}

func openQueue(ctx context.Context, dir string) (*ownQueue, error) {
	q := &ownQueue{}
	var err error
	if q.bus, err = bus.Open(ctx, dir, bus.Options{}); err != nil {
		return nil, err
	}
	if q.store, err = store.Open(ctx, q.bus, store.Options{}); err == nil {
		q.Queue, err = queue.Open(ctx, q.bus, q.store, queue.Options{})
	}
	if err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

func (q *ownQueue) close() error {
	if q.Queue != nil {
		q.Close()
	}
	if q.store != nil {
		q.store.Close()
	}
	return q.bus.Close()
}

// flatRow fills a queue, closes it, opens it again, and has some tasks done.
func (b *bench) flatRow(ctx context.Context, queued, workloads int) (FlatRow, error) {
	row := FlatRow{Queued: queued, Workloads: workloads}
	dir := filepath.Join(b.dir, "flat")
	defer os.RemoveAll(dir)
	q, err := openQueue(ctx, dir)
	if err != nil {
		return row, err
	}
	if err := q.fill(ctx, queued, workloads); err != nil {
		return row, errors.Join(err, q.close())
	}
	begun := time.Now()
	if err := q.close(); err != nil {
		return row, err
	}
	row.Close = round3(time.Since(begun).Seconds())
	heap := heapSize()
	begun = time.Now()
	if q, err = openQueue(ctx, dir); err != nil {
		return row, err
	}
	// It takes tasks at once, and grants them when it knows what is there.
	if _, err := q.List(ctx, queue.Filter{Space: mayfly.DefaultSpace, Limit: 1}); err != nil {
		return row, errors.Join(err, q.close())
	}
	row.Open = round3(time.Since(begun).Seconds())
	if now := heapSize(); now > heap {
		row.Memory = round1(float64(now-heap) / float64(queued))
	}
	return row, errors.Join(q.measure(ctx, &row, min(queued, 10_000)), q.close())
}

func (q *ownQueue) fill(ctx context.Context, queued, workloads int) error {
	name := func(i int) string { return fmt.Sprintf("w%d", i%workloads) }
	for i := range workloads {
		w := mayfly.Workload{Space: mayfly.DefaultSpace, Name: name(i), Protocol: mayfly.Stdio, Isolation: mayfly.IsolationRun}
		rel, err := q.store.PutRelease(ctx, w, "sha256:0")
		if err == nil {
			_, err = q.store.SetWorkload(ctx, w.Space, w.Name, rel.Number, 0)
		}
		if err != nil {
			return err
		}
	}
	const batch = 1000
	for first := 0; first < queued; first += batch {
		subs := make([]mayfly.Submission, min(batch, queued-first))
		for i := range subs {
			subs[i] = mayfly.Submission{Workload: name(first + i)}
		}
		for _, a := range q.Submit(ctx, subs) {
			if a.Err != nil {
				return a.Err
			}
		}
	}
	return ctx.Err()
}

// measure has count tasks granted and ended by as many runners as there are
// clients.
func (q *ownQueue) measure(ctx context.Context, row *FlatRow, count int) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- q.Run(running) }()
	runners, enough := context.WithCancel(running)
	defer enough()
	var left atomic.Int64
	left.Store(int64(count))
	var group sync.WaitGroup
	errs := make(chan error, submitClients)
	used, err := ownCPU()
	if err != nil {
		return err
	}
	begun := time.Now()
	var took time.Duration
	for range submitClients {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				g, err := q.Next(runners, "bench")
				if err == nil {
					_, err = q.Done(ctx, g, mayfly.Result{Exit: mayfly.Exit{Reason: mayfly.Succeeded, Time: time.Now()}})
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	took = time.Since(begun)
	now, err := ownCPU()
	stop()
	<-ended
	row.PerSecond = round1(float64(count) / took.Seconds())
	row.CPU = round3(ms(now-used) / float64(count))
	select {
	case err := <-errs:
		return err
	default:
		return err
	}
}

// heapSize is what is alive in this process, in bytes.
func heapSize() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// fullNode fills a daemon's queue, which is paused, and starts it again.
func (b *bench) fullNode(ctx context.Context, queued int) error {
	d, err := b.upNoop(ctx, "full")
	if err != nil {
		return err
	}
	if err := d.api.PauseQueue(ctx, noop); err != nil {
		return err
	}
	for first := 0; first < queued; first += 1000 {
		subs := make([]mayfly.Submission, min(1000, queued-first))
		for i := range subs {
			subs[i].Workload = noop
		}
		if _, err := d.api.SubmitAll(ctx, subs); err != nil {
			return err
		}
	}
	row := NodeRow{Queued: queued}
	begun := time.Now()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	row.Stop = round3(time.Since(begun).Seconds())
	begun = time.Now()
	if d, err = b.up(ctx, "full"); err != nil {
		return err
	}
	row.Start = round3(time.Since(begun).Seconds())
	if err := d.settle(ctx); err != nil {
		return err
	}
	rss, err := d.rss()
	if err != nil {
		return err
	}
	row.RSS = mb(float64(rss))
	b.results.Node = &row
	return d.down(ctx)
}
