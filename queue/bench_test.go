package queue

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

const clients = 16

// parallel calls f from 16 clients until b.N calls were made.
func parallel(b *testing.B, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				f(int(i))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

var payload = make([]byte, 300)

func submitTo(b *testing.B, n *node, workload string) {
	if a := n.Submit(context.Background(), []mayfly.Submission{{Workload: workload, Payload: payload}})[0]; a.Err != nil {
		b.Error(a.Err)
	}
}

func BenchmarkSubmit(b *testing.B) {
	b.Run("bare publish", func(b *testing.B) {
		n := newNode(b, Options{})
		rec, err := journalRecord(n.sample(), payload)
		if err != nil {
			b.Fatal(err)
		}
		size := len(rec.Head) + len(rec.Data)
		parallel(b, func(i int) {
			subject := bus.DeadSubject(home, "w", fmt.Sprint(i))
			if _, err := n.js.Publish(context.Background(), subject, make([]byte, size), jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
				b.Error(err)
			}
		})
	})
	b.Run("submit", func(b *testing.B) {
		n := newNode(b, Options{})
		parallel(b, func(int) { submitTo(b, n, "w") })
	})
	b.Run("submit 100 at once", func(b *testing.B) {
		n := newNode(b, Options{})
		subs := make([]mayfly.Submission, 100)
		for i := range subs {
			subs[i] = mayfly.Submission{Workload: "w", Payload: payload}
		}
		for b.Loop() {
			n.Submit(context.Background(), subs)
		}
		b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
	})
}

func (n *node) sample() mayfly.Task {
	task, err := newTask(mayfly.Submission{Workload: "w", Payload: payload})
	if err != nil {
		n.t.Fatal(err)
	}
	return task
}

// serve runs no-op attempts until ctx ends or so many are done.
func serve(ctx context.Context, b *testing.B, n *node, count int) {
	var left atomic.Int64
	left.Store(int64(count))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				g, err := n.Next(ctx, "n1")
				if err != nil {
					return
				}
				if _, err := n.Done(context.Background(), g, mayfly.Result{Exit: mayfly.Exit{Reason: mayfly.Succeeded}}); err != nil {
					b.Error(err)
				}
				if left.Add(-1) == 0 {
					cancel()
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkEndToEnd: 16 clients submit one by one, and the clock stops when the
// last outcome is on disk.
func BenchmarkEndToEnd(b *testing.B) {
	for _, workloads := range []int{1, 10_000} {
		for _, blocked := range []bool{false, true} {
			b.Run(fmt.Sprintf("workloads=%d/paused backlog=%v", workloads, blocked), func(b *testing.B) {
				n := startNode(b)
				if blocked {
					if err := n.Pause(b.Context(), home, "paused"); err != nil {
						b.Fatal(err)
					}
					submitTo(b, n, "paused")
				}
				var served sync.WaitGroup
				served.Go(func() { serve(b.Context(), b, n, b.N) })
				parallel(b, func(i int) { submitTo(b, n, fmt.Sprintf("w%d", i%workloads)) })
				b.StartTimer()
				served.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
			})
		}
	}
}

// BenchmarkBacklog is what a task costs to grant and to end when many are
// queued, what the queue and the server keep in memory for them, and how long a
// start takes until the first grant, and until all has been looked at, and a
// stop. On a busy machine compare the CPU time.
func BenchmarkBacklog(b *testing.B) {
	for _, test := range []struct{ queued, workloads int }{
		{1000, 1}, {100_000, 1}, {100_000, 10_000}, {1_000_000, 1}, {1_000_000, 10_000},
	} {
		b.Run(fmt.Sprintf("queued=%d/workloads=%d", test.queued, test.workloads), func(b *testing.B) {
			n := newNode(b, Options{})
			before := heapSize()
			fill(b, n, test.queued, test.workloads)
			memory := heapSize() - before
			dir := n.dir
			start := time.Now()
			n.stop()
			stop := time.Since(start)
			start = time.Now()
			n = openNode(b, dir, Options{})
			n.start()
			n.done(n.next(), mayfly.Succeeded)
			open := time.Since(start)
			n.awaitScan()
			scan := time.Since(start)
			count := min(b.N, test.queued-1)
			cpu := cpuTime()
			b.ResetTimer()
			serve(b.Context(), b, n, count)
			b.StopTimer()
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(count), "µs-cpu/task")
			b.ReportMetric(float64(count)/b.Elapsed().Seconds(), "tasks/s")
			b.ReportMetric(float64(memory)/float64(test.queued), "bytes/queued")
			b.ReportMetric(open.Seconds(), "s-to-first-grant")
			b.ReportMetric(scan.Seconds(), "s-to-all-seen")
			b.ReportMetric(stop.Seconds(), "s-stop")
			n.stop()
		})
	}
}

func (n *node) awaitScan() {
	for scanning := true; scanning; time.Sleep(time.Millisecond) {
		n.mu.Lock()
		scanning = n.scanning
		n.mu.Unlock()
	}
}

func cpuTime() time.Duration {
	var use unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &use)
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func fill(b *testing.B, n *node, queued, workloads int) {
	subs := make([]mayfly.Submission, 0, MaxBatch)
	for i := range queued {
		subs = append(subs, mayfly.Submission{Workload: fmt.Sprintf("w%d", i%workloads), Payload: payload})
		if len(subs) == MaxBatch || i == queued-1 {
			for _, a := range n.Submit(b.Context(), subs) {
				if a.Err != nil {
					b.Fatal(a.Err)
				}
			}
			subs = subs[:0]
		}
	}
}

func heapSize() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
