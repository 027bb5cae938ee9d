package queue

import (
	"testing"

	"github.com/mayfly-run/mayfly"
)

// BenchmarkFanOut is what a task costs that comes after another, from the end of
// that one to its own.
func BenchmarkFanOut(b *testing.B) {
	n := startNode(b)
	parent := n.submit(work("parent"))[0]
	n.deploy(mayfly.Workload{Name: "child"})
	g := n.next()
	for left := b.N; left > 0; {
		subs := make([]mayfly.Submission, min(left, MaxBatch))
		for i := range subs {
			subs[i] = after("child", parent)
		}
		for _, a := range n.Queue.Submit(b.Context(), subs) {
			if a.Err != nil {
				b.Fatal(a.Err)
			}
		}
		left -= len(subs)
	}
	b.ResetTimer()
	n.done(g, mayfly.Succeeded)
	serve(b.Context(), b, n, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}
