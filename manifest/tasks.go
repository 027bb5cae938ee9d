package manifest

import (
	"regexp"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Limits of what a function says of its tasks.
const (
	maxRetries  = 100
	maxDelay    = 366 * 24 * time.Hour
	maxExitCode = 599 // an HTTP status counts as one
	maxRate     = 1_000_000
	maxFinal    = 64
)

var fieldPattern = regexp.MustCompile(`^[^.\s]+(\.[^.\s]+)*$`)

// tasks reads what holds for the tasks of a function.
func (f *Workload) tasks(d *decoder, m map[string]any) {
	f.Retries = f.retries(d, m)
	f.Rate = d.rate(m)
	f.Key = d.keyLimit(m)
}

// below is a decoder of the mapping under a key, and the mapping; nil where
// there is none or it is something else.
func (d *decoder) below(m map[string]any, key string, known ...string) (*decoder, map[string]any) {
	under, ok := m[key].(map[string]any)
	if !ok {
		return nil, nil
	}
	sub := &decoder{source: d.source, at: d.at.child(key), what: d.what + ": " + key}
	sub.err = sub.keys(under, known, nil)
	return sub, under
}

// done takes over the error of a decoder of a mapping below.
func (d *decoder) done(sub *decoder) {
	if d.err == nil {
		d.err = sub.err
	}
}

func (f *Workload) retries(d *decoder, m map[string]any) (r mayfly.Retries) {
	switch m["retries"].(type) {
	case nil:
		return r
	case map[string]any:
	case []any:
		d.fail("retries", "write retries: 3, or retries: {delays: [1s, 1m]}", "retries cannot be a list")
		return r
	default:
		r.Max = int(d.integer(m, "retries", 0, maxRetries))
		return r
	}
	sub, under := d.below(m, "retries", "max", "backoff", "longest", "delays", "jitter", "final", "memory", "upto")
	defer d.done(sub)
	r.Max = int(sub.integer(under, "max", 0, maxRetries))
	r.Backoff = sub.duration(under, "backoff", maxDelay)
	r.Longest = sub.duration(under, "longest", maxDelay)
	r.Delays = sub.delays(under)
	r.Jitter = sub.number(under, "jitter", 0, 1)
	r.Final = sub.exits(under)
	r.MemoryUpTo = sub.size(under, "upto", minMemory, maxMemory)
	double := sub.oneOf(under, "memory", "double", "same") == "double"
	has := func(key string) bool { return under[key] != nil }
	switch {
	case sub.err != nil:
	case has("delays") && has("backoff"):
		sub.fail("delays", "keep one of them", "delays and backoff exclude each other")
	case has("delays") && has("longest"):
		sub.fail("delays", "keep one of them", "delays and longest exclude each other")
	case !has("max") && len(r.Delays) > 0:
		r.Max = len(r.Delays)
	case !has("max"):
		sub.fail("", "add max: 3", "nothing says how many")
	case r.Longest > 0 && r.Longest < r.Backoff:
		sub.fail("longest", "", "longest is shorter than backoff")
	}
	switch {
	case double && !has("upto"):
		sub.fail("memory", "add upto: 2GB", "memory double needs a limit")
	case has("upto") && !double:
		sub.fail("upto", "add memory: double", "upto is the limit of memory: double")
	case double && f.Memory > 0 && r.MemoryUpTo <= f.Memory:
		sub.fail("upto", "", "upto must be more than the function's memory of %s", SizeText(f.Memory))
	}
	return r
}

// delays reads a list of durations, of which one may be 0s.
func (d *decoder) delays(m map[string]any) []time.Duration {
	list := d.list(m, "delays", maxRetries, "write delays: [1s, 10s, 1m]")
	var delays []time.Duration
	for i, item := range list {
		sub := d.item("delays", i)
		text, ok := scalarText(item)
		n, err := time.ParseDuration(text)
		switch {
		case !ok || err != nil:
			sub.fail("", "write it like 30s or 5m", "delay %q is not a duration", text)
		case n < 0 || n > maxDelay:
			sub.fail("", "", "a delay must be from 0s to %s", DurationText(maxDelay))
		}
		d.done(sub)
		delays = append(delays, n)
	}
	return delays
}

// exits reads a list of exit codes.
func (d *decoder) exits(m map[string]any) []int {
	var codes []int
	for i, item := range d.list(m, "final", maxFinal, "write final: [2, 3]") {
		sub := d.item("final", i)
		n, ok := item.(int64)
		if !ok || n < 1 || n > maxExitCode {
			sub.fail("", "", "an exit code is a whole number from 1 to %d", maxExitCode)
		}
		d.done(sub)
		codes = append(codes, int(n))
	}
	return codes
}

func (d *decoder) list(m map[string]any, key string, most int, hint string) []any {
	if m[key] == nil {
		return nil
	}
	list, ok := m[key].([]any)
	switch {
	case !ok:
		d.fail(key, hint, "%s must be a list", key)
	case len(list) == 0:
		d.fail(key, hint, "%s is empty", key)
	case len(list) > most:
		d.fail(key, "", "%s can have at most %d items", key, most)
	default:
		return list
	}
	return nil
}

// item returns the decoder of an item of a list.
func (d *decoder) item(list string, i int) *decoder {
	return &decoder{source: d.source, at: d.at.child(list).item(i), what: d.what}
}

// rate reads how many tasks may start in a second.
func (d *decoder) rate(m map[string]any) (r mayfly.Rate) {
	const least = 1.0 / 86400 // one a day
	if m["rate"] == nil {
		return r
	}
	sub, under := d.below(m, "rate", "perSecond", "burst")
	if sub == nil {
		r.PerSecond = d.number(m, "rate", least, maxRate)
		return r
	}
	defer d.done(sub)
	if under["perSecond"] == nil {
		sub.fail("", "add perSecond: 10", "nothing says how many in a second")
	}
	r.PerSecond = sub.number(under, "perSecond", least, maxRate)
	r.Burst = int(sub.integer(under, "burst", 1, maxRate))
	return r
}

// keyLimit reads how many tasks may run at once with the same value of a field.
func (d *decoder) keyLimit(m map[string]any) (k mayfly.KeyLimit) {
	if m["key"] == nil {
		return k
	}
	sub, under := d.below(m, "key", "field", "max")
	if sub == nil {
		k.Field, k.Max = d.text(m, "key"), 1
		if d.err == nil && !fieldPattern.MatchString(k.Field) {
			d.fail("key", "write key: user.id, or key: {field: user.id, max: 1}", "key %q is not a field of the payload", k.Field)
		}
		return k
	}
	defer d.done(sub)
	k.Field, k.Max = sub.text(under, "field"), 1
	if under["max"] != nil {
		k.Max = int(sub.integer(under, "max", 1, maxConcurrency))
	}
	switch {
	case under["field"] == nil:
		sub.fail("", "add field: user.id", "nothing says which field")
	case !fieldPattern.MatchString(k.Field):
		sub.fail("field", "write it like user.id", "field %q is not a field of the payload", k.Field)
	}
	return k
}
