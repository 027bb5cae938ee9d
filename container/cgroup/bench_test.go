package cgroup

import (
	"fmt"
	"runtime"
	"testing"
)

func BenchmarkMake(b *testing.B) {
	h, parent := host(b)
	for i := range b.N {
		g, err := h.Make(fmt.Sprint(parent, "/", i), limits())
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := g.Remove(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkRemove(b *testing.B) {
	h, parent := host(b)
	for i := range b.N {
		b.StopTimer()
		g, err := h.Make(fmt.Sprint(parent, "/", i), limits())
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := g.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEnter compares the ways into a group on v1: one thread by tasks,
// and a process by cgroup.procs.
func BenchmarkEnter(b *testing.B) {
	h, parent := host(b)
	if h.Mode == V2 {
		b.Skip("v1 only")
	}
	g, err := h.Make(parent+"/enter", limits())
	if err != nil {
		b.Fatal(err)
	}
	defer g.Remove()
	b.Run("tasks", func(b *testing.B) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for range b.N {
			for _, dir := range g.dirs {
				if err := write(dir, "tasks", "0"); err != nil {
					b.Error(err)
				}
			}
			b.StopTimer()
			leave(b, h, "tasks", "0")
			b.StartTimer()
		}
	})
	b.Run("cgroup.procs", func(b *testing.B) {
		who := fmt.Sprint(start(b, g, "wait").Process.Pid)
		for range b.N {
			b.StopTimer()
			leave(b, h, "cgroup.procs", who)
			b.StartTimer()
			for _, dir := range g.dirs {
				if err := write(dir, "cgroup.procs", who); err != nil {
					b.Error(err)
				}
			}
		}
	})
}

// leave moves a thread or process back to where the tests are.
func leave(t testing.TB, h *Host, file, who string) {
	for _, tree := range h.Hierarchies {
		if err := write(tree.Mount+tree.Self, file, who); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkStats(b *testing.B) {
	g := makeGroup(b, limits())
	for b.Loop() {
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}
