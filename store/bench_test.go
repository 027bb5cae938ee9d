package store

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// many is how many workloads the record holds in these benchmarks.
const many = 10_000

func named(i int) mayfly.Workload {
	return mayfly.Workload{
		Space:   "default",
		Name:    fmt.Sprintf("w%d", i),
		Image:   "registry.example/team/thumbnail:v1",
		Process: mayfly.Process{Env: map[string]string{"A": "1", "B": "2"}},
		Routes:  []mayfly.Route{{Path: fmt.Sprintf("/w%d", i)}},
	}
}

func BenchmarkTenThousandWorkloads(b *testing.B) {
	dir := b.TempDir()
	fill(b, dir)
	b.Run("open", func(b *testing.B) { benchmarkOpen(b, dir) })
	engine, err := bus.Open(b.Context(), dir, bus.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	s, err := Open(b.Context(), engine, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.Run("deploy", func(b *testing.B) {
		for b.Loop() {
			deploy(b, s, named(0))
		}
	})
	b.Run("release", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.PutRelease(b.Context(), named(0), "sha256:1"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("instance", func(b *testing.B) { benchmarkInstance(b, s) })
	b.Run("snapshot after a change", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			deploy(b, s, named(0))
			b.StartTimer()
			s.Snapshot()
		}
	})
}

func fill(b *testing.B, dir string) {
	engine, err := bus.Open(b.Context(), dir, bus.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	s, err := Open(b.Context(), engine, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	for i := range many {
		deploy(b, s, named(i))
	}
	b.Logf("%d first deploys, one by one: %v", many, time.Since(start))
}

// benchmarkOpen reports, besides the time, what an open store keeps in memory.
func benchmarkOpen(b *testing.B, dir string) {
	var opened time.Duration
	for b.Loop() {
		before := heap()
		engine, err := bus.Open(b.Context(), dir, bus.Options{})
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		s, err := Open(b.Context(), engine, Options{})
		if err != nil {
			b.Fatal(err)
		}
		opened += time.Since(start)
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/1e6, "MB-kept")
		s.Close()
		engine.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(opened.Milliseconds())/float64(b.N), "store-ms/op")
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// benchmarkInstance is the record's part of one `mayfly run --name`.
func benchmarkInstance(b *testing.B, s *Store) {
	for b.Loop() {
		in := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Name: "bench", State: mayfly.Starting}
		rev, err := s.PutInstance(b.Context(), in)
		if err != nil {
			b.Fatal(err)
		}
		in.State = mayfly.Running
		if _, err := s.UpdateInstance(b.Context(), in, rev); err != nil {
			b.Fatal(err)
		}
		if err := s.DeleteInstance(b.Context(), "default", in.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecordRun(b *testing.B) {
	s := open(b)
	run := mayfly.Run{Space: "default", Workload: "thumb", Started: time.Now(), Exit: &mayfly.Exit{Reason: mayfly.Succeeded}}
	for b.Loop() {
		run.ID = mayfly.NewID()
		s.RecordRun(run)
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkReadRuns reads from 200,000 runs of 100 workloads, of which one is
// called seldom.
func BenchmarkReadRuns(b *testing.B) {
	s := open(b)
	var first string
	for i := range 200_000 {
		run := mayfly.Run{ID: mayfly.NewID(), Space: "default", Workload: fmt.Sprintf("w%d", i%99)}
		if i%20_000 == 0 {
			run.Workload = "seldom"
		}
		if i == 0 {
			first = run.ID
		}
		s.RecordRun(run)
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, test := range []struct{ name, workload string }{{"all", ""}, {"one", "w7"}, {"seldom", "seldom"}} {
		b.Run(test.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Runs(b.Context(), "default", test.workload, 20, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("oldest by id", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Run(b.Context(), "default", first); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("no such id", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Run(b.Context(), "default", mayfly.NewID()); err == nil {
				b.Fatal("found")
			}
		}
	})
}
