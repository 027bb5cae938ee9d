package probe

import (
	"context"
	"time"

	"github.com/mayfly-run/mayfly"
)

// What a probe that says nothing else means.
const (
	Every     = 10 * time.Second
	Failures  = 3
	Successes = 1
)

// While it is not well it is asked more often, for somebody waits for it: at
// first after quickest, then after half as long again each time, up to slowest.
const (
	quickest = 2 * time.Millisecond
	slowest  = time.Second
)

// Options of a Watch. The zero value is for something that has just been started
// and of which nothing is known yet.
type Options struct {
	// Well is what is believed at first: that it is well, as of something which
	// was found running, or whose life is watched. It is not reported.
	Well bool
	// Began is when the program started, which Grace and Patience count from;
	// now if zero.
	Began time.Time
	// Tried is called after each try, with its error, by the goroutine of Watch.
	Tried func(error)
}

// Patience is how long after its start a program of which nothing is known may
// take to get well: the grace, and then as long as so many failures would take.
func Patience(p mayfly.Probe) time.Duration {
	p = withDefaults(p)
	return p.Grace + time.Duration(p.Failures)*p.Every
}

// Watch asks until ctx ends, and calls changed by its own goroutine whenever the
// answer has become another: well after p.Successes good tries in a row, not
// well, with the last reason, after p.Failures bad ones. Of what is not known to
// be well at the start, the first bad news comes when Patience has run out.
//
//	unknown --good--> well <--good-- not well
//	   |               |                ^
//	   +--out of patience--- bad -------+
//
// It asks every p.Every while it is well, each second after a failure, and at first
// each 20 ms while it is not well, then less and less, down to once a second. It
// returns ctx's error.
func Watch(ctx context.Context, t Target, p mayfly.Probe, o Options, changed func(well bool, reason error)) error {
	w := watch{p: withDefaults(p), well: o.Well, known: o.Well, began: o.Began}
	if w.began.IsZero() {
		w.began = time.Now()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		begin := time.Now()
		err := Try(ctx, t, p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if o.Tried != nil {
			o.Tried(err)
		}
		now := time.Now()
		if w.count(err, now) {
			changed(w.well, err)
		}
		timer.Reset(w.pause(now, now.Sub(begin)))
	}
}

// watch is what is known of one target.
type watch struct {
	p     mayfly.Probe
	began time.Time

	known, well bool
	good, bad   int           // in a row
	quick       time.Duration // the last pause while it was not well
}

// count takes the outcome of a try and says whether the answer changed.
func (w *watch) count(err error, now time.Time) bool {
	if err == nil {
		w.good++
		w.bad = 0
		if w.well || w.good < w.p.Successes {
			return false
		}
		w.well, w.known, w.quick = true, true, 0
		return true
	}
	w.good = 0
	age := now.Sub(w.began)
	if age < w.p.Grace {
		return false
	}
	w.bad++
	if w.known && !w.well || w.bad < w.p.Failures || !w.known && age < Patience(w.p) {
		return false
	}
	w.well, w.known = false, true
	return true
}

// pause is how long to wait after a try that took some time. While it is well,
// tries of all watches meet at full seconds, give or take a tenth of p.Every:
// waking up is most of what idle services cost. While it is not, a try that is
// costly is repeated less often.
func (w *watch) pause(now time.Time, took time.Duration) time.Duration {
	if w.well && w.bad > 0 { // whether that was the beginning of the end is soon known
		return min(slowest, w.p.Every)
	}
	if w.well {
		grid := min(w.p.Every/5, time.Second)
		return now.Add(w.p.Every).Round(grid).Sub(now)
	}
	w.quick = min(max(quickest, w.quick+w.quick/2, took), slowest)
	if w.known {
		w.quick = slowest
	}
	return min(w.quick, w.p.Every)
}

func withDefaults(p mayfly.Probe) mayfly.Probe {
	if p.Every <= 0 {
		p.Every = Every
	}
	if p.Failures <= 0 {
		p.Failures = Failures
	}
	if p.Successes <= 0 {
		p.Successes = Successes
	}
	return p
}
