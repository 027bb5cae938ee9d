package scale

import (
	"math"
	"time"
)

// Rate counts what ends, for those who are to know how long a queue takes. Its
// zero value has counted nothing.
type Rate struct {
	sum         float64 // of e^(-age/rateTime) for each: of a steady stream, those within rateTime
	first, last time.Time
}

const rateTime = 10 * time.Second

// Count counts one that ends now.
func (r *Rate) Count(now time.Time) {
	if now.Sub(r.last) > rateTime { // it was long ago, or never
		r.sum, r.first = 0, now
	}
	r.sum, r.last = r.sum*fade(now.Sub(r.last))+1, now
}

func fade(age time.Duration) float64 { return math.Exp(-age.Seconds() / rateTime.Seconds()) }

// Time is how long it takes until so many have ended, as things go; 0 if nothing
// tells.
func (r *Rate) Time(n int, now time.Time) time.Duration {
	seen := rateTime.Seconds() * (1 - fade(now.Sub(r.first)))
	each := r.sum * fade(now.Sub(r.last)) / max(seen, 0.1) // per second
	if each < 1e-3 {
		return 0
	}
	return time.Duration(float64(n) / each * float64(time.Second))
}
