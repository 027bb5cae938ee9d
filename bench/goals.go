package main

import "strconv"

// Goal is something that Mayfly is to reach.
type Goal struct {
	Text  string  `json:"text"`
	Value float64 `json:"value"`
	Bound float64 `json:"bound"`
	Unit  string  `json:"unit"`
	Met   bool    `json:"met"`
}

// judge holds the figures that there are against the goals.
func (r *Results) judge() {
	r.Goals = nil
	r.judgeLatency()
	crun := r.latency("static", "crun run")
	if fresh, rival := r.perSecond(freshRate, 4), r.perSecond("crun run", 4); fresh > 0 && rival > 0 {
		r.atLeast("fresh containers per second, 4 clients: 1.5 times parallel crun run's", fresh, 1.5*rival, "/s")
	}
	for _, l := range r.Load {
		if crun != nil && l.Arrivals == "even" {
			r.atMost("pool hit's p99 at half the maximum rate: crun run's p50", l.P99, crun.P50, "ms")
		}
	}
	if b := r.Burst; b != nil {
		r.atMost(strconv.Itoa(b.Requests)+" requests at once: neither answered nor refused with Retry-After",
			float64(b.Other+b.Lost+b.Hung), 0, "requests")
	}
	if m := r.Memory; m != nil {
		r.atMost("idle daemon's RSS", m.IdleRSS, 80, "MB")
		r.atMost("memory of a waiting sandbox of a static program", max(m.Come, m.Go), 4, "MB")
	}
	if l := r.Leftovers; l != nil {
		r.atMost("left over after "+strconv.Itoa(l.Runs)+" runs", float64(l.left()), 0, "things")
	}
	r.judgeScale()
	r.judgePush()
	r.judgeQueue()
	r.judgeServices()
	r.judgeEvents()
	r.judgeRoutes()
}

func (r *Results) judgeLatency() {
	hit, miss := r.latency("static", poolHit), r.latency("static", poolMiss)
	if hit == nil || miss == nil {
		return
	}
	if crun := r.latency("static", "crun run"); crun != nil {
		r.atMost("pool hit's p50: 1/5 of crun run's", hit.P50, crun.P50/5, "ms")
		r.atMost("pool miss's p50: 2/3 of crun run's", miss.P50, crun.P50*2/3, "ms")
	}
	if docker := r.latency("static", "docker run --rm"); docker != nil {
		r.atMost("pool hit's p50: 1/100 of docker run --rm's", hit.P50, docker.P50/100, "ms")
	}
}

// left is how many things there are more than before, of those that are not
// meant to be kept.
func (l *LeftoverRow) left() int {
	n := 0
	for _, k := range l.Kinds {
		if !k.Kept {
			n += max(k.After-k.Before, 0)
		}
	}
	return n
}

func (r *Results) atMost(text string, value, bound float64, unit string) {
	r.Goals = append(r.Goals, Goal{Text: text, Value: value, Bound: round3(bound), Unit: unit, Met: value <= bound})
}

func (r *Results) atLeast(text string, value, bound float64, unit string) {
	r.Goals = append(r.Goals, Goal{Text: text, Value: value, Bound: round3(bound), Unit: unit, Met: value >= bound})
}

func round3(v float64) float64 { return float64(int64(v*1000+0.5)) / 1000 }
