package queue

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

const manySchedules = 20_000

// addMany adds schedules from as many goroutines as a server has requests.
func (k *keeper) addMany(b *testing.B, count int, change func(i int, s *mayfly.Schedule)) {
	b.Helper()
	next := make(chan int)
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for i := range next {
				s := minutely(func(s *mayfly.Schedule) {
					s.Name, s.Task.Payload = fmt.Sprintf("s%05d", i), payload
					change(i, s)
				})
				if _, err := k.Add(context.Background(), s, false); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	group.Wait()
}

// BenchmarkSchedules is 20,000 schedules: what adding one costs, a start, the
// memory, a look when one is due, and a minute in which all are.
func BenchmarkSchedules(b *testing.B) {
	k := newKeeper(b)
	took := func(f func()) float64 {
		begun := time.Now()
		f()
		return time.Since(begun).Seconds()
	}
	adding := took(func() {
		k.addMany(b, manySchedules, func(i int, s *mayfly.Schedule) { s.Cron = fmt.Sprintf("%d %d * * *", i%60, i/60%24) })
	})
	k.Schedules = nil
	before := heapInUse()
	opening := took(func() { k.open(b) })
	looking := took(func() { k.pass(context.Background()) })
	held := heapInUse() - before
	// The 13 or 14 that are due in each minute, one pass each.
	firing := took(func() { k.wait(60) })
	fired := manySchedules * 60 / (24 * 60)
	for b.Loop() {
		k.pass(context.Background()) // nothing is due
	}
	b.ReportMetric(manySchedules/adding, "added/s")
	b.ReportMetric(opening*1e3, "ms/open")
	b.ReportMetric(looking*1e3, "ms/first-look")
	b.ReportMetric(float64(held)/manySchedules, "heap-B/schedule")
	b.ReportMetric(firing*1e6/float64(fired), "µs/tick")
}

// BenchmarkSchedulesAllAtOnce is a minute in which 20,000 ticks are due.
func BenchmarkSchedulesAllAtOnce(b *testing.B) {
	k := newKeeper(b)
	k.addMany(b, manySchedules, func(int, *mayfly.Schedule) {})
	for b.Loop() {
		k.wait(1)
	}
	b.ReportMetric(float64(b.N)*manySchedules/b.Elapsed().Seconds(), "ticks/s")
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
