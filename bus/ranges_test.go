package bus

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestRanges compares a set with a map of numbers.
func TestRanges(t *testing.T) {
	const most = 60
	rapid.Check(t, func(r *rapid.T) {
		var set ranges
		model := map[uint64]bool{}
		number := rapid.Uint64Range(1, most)
		r.Repeat(map[string]func(*rapid.T){
			"add": func(r *rapid.T) {
				first := number.Draw(r, "first")
				last := min(most, first+rapid.SampledFrom([]uint64{0, 0, 1, 9}).Draw(r, "more"))
				set.add(first, last)
				for n := first; n <= last; n++ {
					model[n] = true
				}
			},
			"drop": func(r *rapid.T) {
				before := number.Draw(r, "before")
				set.drop(before)
				for n := range before {
					delete(model, n)
				}
			},
			"": func(r *rapid.T) {
				for n := uint64(1); n <= most+1; n++ {
					want := n
					for model[want] {
						want++
					}
					if got := set.after(n); got != want {
						r.Fatalf("after %d comes %d of %v, want %d", n, got, set, want)
					}
				}
				if !slices.IsSortedFunc(set, func(a, b span) int { return int(a.last+1) - int(b.first) }) {
					r.Fatalf("%v has parts that touch or are not in order", set)
				}
			},
		})
	})
}
