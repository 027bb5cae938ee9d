package discovery

import (
	"fmt"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// crowd is a view with so many endpoints, and as many watchers, of so many
// services; and those who watch the first service.
func crowd(t testing.TB, count, services int, all bool) (*view, []*Subscription) {
	v := newView()
	var first []*Subscription
	for i := range count {
		e := endpoint(fmt.Sprint("s", i%services), fmt.Sprintf("i%d.http", i))
		v.set(e.ID, &e)
	}
	for i := range count {
		r := requires(fmt.Sprint("s", i%services))
		r.All = all
		c := Consumer{Space: "default", Instance: fmt.Sprint("c", i)}
		sel, err := newSelector(c, &r)
		if err != nil {
			t.Fatal(err)
		}
		s := v.watch(sel, c, r)
		_, revision := s.Current()
		s.Ack(revision)
		if i%services == 0 {
			first = append(first, s)
		}
	}
	return v, first
}

// flip takes an endpoint of the first service away and brings it back, and has
// those whom it concerns look.
func flip(v *view, first []*Subscription) {
	e := endpoint("s0", "i0.http")
	for _, next := range []*mayfly.Endpoint{nil, &e} {
		v.mu.Lock()
		v.set(e.ID, next)
		v.mu.Unlock()
		for _, s := range first {
			select {
			case <-s.C():
				_, revision := s.Current()
				s.Ack(revision)
			default:
			}
		}
	}
}

// TestChangeCostsThoseItConcerns: what a change allocates, which is exact where
// time is not, is the same whether ten or ten thousand watch other services.
func TestChangeCostsThoseItConcerns(t *testing.T) {
	costs := map[int]float64{}
	for _, count := range []int{10, 10_000} {
		v, first := crowd(t, count, count/10, true)
		if len(first) != 10 {
			t.Fatalf("%d watchers", len(first))
		}
		costs[count] = testing.AllocsPerRun(100, func() { flip(v, first) })
	}
	t.Logf("two changes that concern 10: %.0f allocations among 10 watchers, %.0f among 10,000", costs[10], costs[10_000])
	if costs[10_000] > costs[10]+1 { // maps grow now and then
		t.Errorf("the cost grows: %v", costs)
	}
}

// BenchmarkChange is a change, told and acknowledged.
func BenchmarkChange(b *testing.B) {
	for _, bench := range []struct {
		name            string
		count, services int
		all             bool
	}{
		{"10-of-10", 10, 1, true},
		{"10-of-1000", 1000, 100, true},
		{"10-of-10000", 10_000, 1000, true},
		{"10000-of-10000", 10_000, 1, true},
		{"10000-of-10000,one-each", 10_000, 1, false},
	} {
		b.Run(bench.name, func(b *testing.B) {
			v, first := crowd(b, bench.count, bench.services, bench.all)
			b.ReportAllocs()
			for b.Loop() {
				flip(v, first)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/change")
		})
	}
}

func BenchmarkFind(b *testing.B) {
	v, _ := crowd(b, 10_000, 1000, true)
	r := requires("s7")
	b.ReportAllocs()
	for b.Loop() {
		sel, err := newSelector(Consumer{Space: "default"}, &r)
		if err != nil || len(v.find(sel, Consumer{}, true)) != 10 {
			b.Fatal(err)
		}
	}
}
