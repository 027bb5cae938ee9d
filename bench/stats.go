package main

import (
	"slices"
	"time"
)

// sample is a set of durations.
type sample []time.Duration

// quantile returns the least value that q of all are not above, 0 < q <= 1:
// one that was measured, never one between two.
func (s sample) quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(float64(len(sorted))*q+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// ms is a duration in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// mb is bytes in units of 10^6, to the hundredth.
func mb(bytes float64) float64 { return float64(int64(bytes/1e4+0.5)) / 100 }
