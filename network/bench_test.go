package network

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// benchmark times attach, and detaches outside of the clock, 100 at a time.
func benchmark(b *testing.B, n *Network, before func(), ports ...mayfly.Port) {
	b.Helper()
	var ids []string
	detach := func() {
		if err := n.Detach(context.Background(), ids...); err != nil {
			b.Fatal(err)
		}
		ids = ids[:0]
	}
	for i := 0; b.Loop(); i++ {
		if i%100 == 0 {
			b.StopTimer()
			detach()
			linksGoneBut(b, n)
			before()
			b.StartTimer()
		}
		ids = append(ids, fmt.Sprint(i))
		if _, err := n.Attach(context.Background(), fmt.Sprint(i), ports); err != nil {
			b.Fatal(err)
		}
	}
	detach()
}

func linksGoneBut(b *testing.B, n *Network) {
	names := []string{n.bridge}
	for _, ns := range n.warm {
		names = append(names, vethOf(ns.addr))
	}
	linksGone(b, names...)
}

func BenchmarkAttachCold(b *testing.B) {
	n := open(b, "cold", Options{Warm: -1})
	benchmark(b, n, func() {})
}

func BenchmarkAttachWarm(b *testing.B) {
	n := open(b, "warm", Options{Warm: 100})
	benchmark(b, n, func() { n.fill(context.Background()) })
}

func BenchmarkAttachWarmWithPort(b *testing.B) {
	n := open(b, "warmport", Options{Warm: 100})
	benchmark(b, n, func() { n.fill(context.Background()) }, mayfly.Port{Container: 80})
}

// BenchmarkDetach is for one of a batch of 100, until the kernel has taken
// its link away.
func BenchmarkDetach(b *testing.B) {
	n := open(b, "detach", Options{Warm: -1})
	const batch = 100
	left := 0
	var ids []string
	for i := 0; b.Loop(); i++ {
		if left == 0 {
			b.StopTimer()
			ids = ids[:0]
			for left = range batch {
				ids = append(ids, fmt.Sprint(i, left))
				attach(b, n, ids[left])
			}
			b.StartTimer()
			if err := n.Detach(context.Background(), ids...); err != nil {
				b.Fatal(err)
			}
			linksGone(b, n.bridge)
		}
		left--
	}
}

// BenchmarkFirstConnect is the node's first TCP connection to a container that
// is attached already: no packet may wait for an address to be looked up.
func BenchmarkFirstConnect(b *testing.B) {
	n := open(b, "first", Options{Warm: -1})
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		a := attach(b, n, fmt.Sprint(i))
		var l net.Listener
		var err error
		in(b, a.NetNS, func() { l, err = net.Listen("tcp4", ":80") })
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		c, err := net.Dial("tcp4", at(a.Address, 80))
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
		l.Close()
		if err := n.Detach(context.Background(), a.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// machineBusy is the processor time that the whole machine has spent, kernel
// workers included, in µs and steps of 10 ms.
func machineBusy(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var busy float64
	for i, f := range strings.Fields(line)[1:] {
		ticks, err := strconv.ParseFloat(f, 64)
		if err != nil {
			b.Fatal(err)
		}
		if i < 3 || i == 5 || i == 6 { // user, nice, system, irq, softirq
			busy += ticks * 10_000
		}
	}
	return busy
}

// benchmarkCPU is for attaching and detaching, the kernel's taking down
// included. On a machine that does nothing else.
func benchmarkCPU(b *testing.B, n *Network, attach func(id string) (*Attachment, error)) {
	before, i := machineBusy(b), 0
	for ; b.Loop(); i++ {
		if _, err := attach("a"); err != nil {
			b.Fatal(err)
		}
		if err := n.Detach(context.Background(), "a"); err != nil {
			b.Fatal(err)
		}
		if i%100 == 99 { // the kernel takes them down in batches, as when the node does
			linksGoneBut(b, n)
		}
	}
	linksGoneBut(b, n)
	b.ReportMetric((machineBusy(b)-before)/float64(i), "cpu-µs/op")
}

func BenchmarkUntouched(b *testing.B) {
	n := open(b, "untouched", Options{Warm: 1})
	attachSealed(b, n, "first")
	detach(b, n, "first")
	benchmarkCPU(b, n, func(id string) (*Attachment, error) { return n.AttachSealed(context.Background(), id) })
}

func BenchmarkTouched(b *testing.B) {
	n := open(b, "touched", Options{Warm: -1})
	benchmarkCPU(b, n, func(id string) (*Attachment, error) { return n.Attach(context.Background(), id, nil) })
}
