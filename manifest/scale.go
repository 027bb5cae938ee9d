package manifest

import (
	"time"

	"github.com/mayfly-run/mayfly"
)

// Limits of scale.
const (
	maxScale       = 10_000
	maxPerInstance = 100_000
	maxQueued      = 1_000_000
	maxIdle        = 24 * time.Hour
)

var scaleKeys = []string{"min", "max", "active", "concurrency", "queue", "idle", "cooldown", "by"}

// scale reads how many instances a service has: a number, or a mapping.
func (d *decoder) scale(m map[string]any) (s mayfly.Scale) {
	if _, ok := m["scale"].(map[string]any); !ok {
		if m["scale"] == nil && m["replicas"] == nil {
			return s
		}
		return scaleOf(int(d.integer(m, d.either(m, "scale", "replicas"), 0, maxScale)))
	}
	sub, under := d.mapping(m, "scale", "write scale: 2, or scale: {min: 1, max: 4}")
	defer d.done(sub)
	if m["replicas"] != nil {
		d.fail("replicas", "keep one of them", "scale and replicas are the same")
	}
	if sub.err = sub.keys(under, scaleKeys, nil); sub.err != nil {
		return s
	}
	s = sub.scaleFields(under)
	if under["min"] != nil {
		s.None = s.Min == 0
	}
	s.Active = int(sub.integer(under, "active", 1, maxScale))
	s.By = sub.text(under, "by")
	switch {
	case s.By != "" && mayfly.CheckName("workload", s.By) != nil:
		sub.fail("by", "name a function or service of this manifest", "by: %q is not a valid name", s.By)
	case s.Max != 0 && s.Max < s.Min:
		sub.fail("max", "", "max is less than min")
	case s.Active > max(s.Min, 1):
		sub.fail("active", "", "active is more than min")
	case s.Scaled():
	case under["idle"] != nil:
		sub.fail("idle", "set max above min", "idle is for what is scaled, and the number of instances is fixed")
	case under["cooldown"] != nil:
		sub.fail("cooldown", "set max above min", "cooldown is for what is scaled, and the number of instances is fixed")
	case under["queue"] != nil && s.Concurrency == 0:
		sub.fail("queue", "set concurrency too", "queue bounds what waits beyond concurrency, which has no limit")
	}
	return s
}

// functionScale reads how many sandboxes a function has, and how many runs
// each of them serves.
func (f *Workload) functionScale(d *decoder, m map[string]any) (s mayfly.Scale) {
	if m["scale"] == nil {
		return s
	}
	const hint = "write scale: {min: 0, max: 10}"
	if _, ok := m["scale"].(map[string]any); !ok {
		d.fail("scale", hint, "scale of a function must be a mapping: it has as many instances as its runs need")
		return s
	}
	sub, under := d.mapping(m, "scale", hint)
	defer d.done(sub)
	if under["active"] != nil {
		sub.fail("active", "", "active is for services: every instance of a function works")
	}
	if under["by"] != nil {
		sub.fail("by", "", "by is for services: a function has as many instances as its runs need")
	}
	if sub.err == nil {
		sub.err = sub.keys(under, scaleKeys, nil)
	}
	if sub.err != nil {
		return s
	}
	s = sub.scaleFields(under)
	switch {
	case s.Max != 0 && s.Max < s.Min:
		sub.fail("max", "", "max is less than min")
	case s.Concurrency > 1 && f.Isolation == mayfly.IsolationRun:
		sub.fail("concurrency", "add isolation: instance", "with isolation run each instance serves one run")
	case s.Cooldown > 0 && f.Isolation == mayfly.IsolationRun:
		sub.fail("cooldown", "add isolation: instance", "with isolation run each instance ends with its run")
	}
	return s
}

func (d *decoder) scaleFields(m map[string]any) mayfly.Scale {
	return mayfly.Scale{
		Min: int(d.integer(m, "min", 0, maxScale)), Max: int(d.integer(m, "max", 1, maxScale)),
		Concurrency: int(d.integer(m, "concurrency", 1, maxPerInstance)), Queue: int(d.integer(m, "queue", 1, maxQueued)),
		Idle: d.duration(m, "idle", maxIdle), Cooldown: d.duration(m, "cooldown", maxIdle),
	}
}

func scaleOf(n int) mayfly.Scale { return mayfly.Scale{Min: n, None: n == 0} }
