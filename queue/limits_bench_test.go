package queue

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// BenchmarkLimits is what limits cost that hold nothing up, end to end, and the
// one of keys when it does: of 16 tasks that could run, those of 4 keys may.
func BenchmarkLimits(b *testing.B) {
	for _, test := range []struct {
		name     string
		workload mayfly.Workload
		keys     int
	}{
		{"none", mayfly.Workload{}, 1},
		{"concurrency", mayfly.Workload{Concurrency: 1000}, 1},
		{"rate", mayfly.Workload{Rate: mayfly.Rate{PerSecond: 1e6, Burst: 1000}}, 1},
		{"key", mayfly.Workload{Key: mayfly.KeyLimit{Field: "user.id", Max: 1000}}, 1000},
		{"key that is often reached", mayfly.Workload{Key: mayfly.KeyLimit{Field: "user.id", Max: 1}}, 4},
	} {
		b.Run(test.name, func(b *testing.B) {
			n := startNode(b)
			test.workload.Name = "w"
			n.deploy(test.workload)
			before := processorTime(b)
			var served sync.WaitGroup
			served.Go(func() { serve(b.Context(), b, n, b.N) })
			parallel(b, func(i int) {
				sub := mayfly.Submission{Workload: "w", Payload: fmt.Appendf(nil, `{"user": {"id": %d}, "more": "%0260d"}`, i%test.keys, i)}
				if a := n.Queue.Submit(context.Background(), []mayfly.Submission{sub})[0]; a.Err != nil {
					b.Error(a.Err)
				}
			})
			b.StartTimer()
			served.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/task")
		})
	}
}

// processorTime is what this process has used, which a busy machine changes
// less than how long it takes.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
