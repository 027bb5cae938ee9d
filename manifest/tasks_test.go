package manifest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

func TestTasks(t *testing.T) {
	none := mayfly.Workload{}
	tests := []struct {
		name string
		text string
		want func(*mayfly.Workload)
	}{
		{"nothing", "", func(*mayfly.Workload) {}},
		{"a number of retries", "retries: 3", func(w *mayfly.Workload) { w.Retries.Max = 3 }},
		{"no retries", "retries: 0", func(*mayfly.Workload) {}},
		{"backoff", "retries: {max: 5, backoff: 2s, longest: 1m, jitter: 0.2, final: [2, 422]}", func(w *mayfly.Workload) {
			w.Retries = mayfly.Retries{Max: 5, Backoff: 2 * time.Second, Longest: time.Minute, Jitter: 0.2, Final: []int{2, 422}}
		}},
		{"delays", "retries: {delays: [0s, 10s, 1m]}", func(w *mayfly.Workload) {
			w.Retries = mayfly.Retries{Max: 3, Delays: []time.Duration{0, 10 * time.Second, time.Minute}}
		}},
		{"delays, the last of which is repeated", "retries: {max: 9, delays: [1s]}", func(w *mayfly.Workload) {
			w.Retries = mayfly.Retries{Max: 9, Delays: []time.Duration{time.Second}}
		}},
		{"more memory", "retries: {max: 3, memory: double, upto: 2GB}", func(w *mayfly.Workload) {
			w.Retries = mayfly.Retries{Max: 3, MemoryUpTo: 2 << 30}
		}},
		{"the same memory", "retries: {max: 3, memory: same}", func(w *mayfly.Workload) { w.Retries.Max = 3 }},
		{"a rate", "rate: 10", func(w *mayfly.Workload) { w.Rate.PerSecond = 10 }},
		{"a slow rate with a burst", "rate: {perSecond: 0.5, burst: 20}", func(w *mayfly.Workload) { w.Rate = mayfly.Rate{PerSecond: 0.5, Burst: 20} }},
		{"a key", "key: {field: user.id, max: 2}", func(w *mayfly.Workload) { w.Key = mayfly.KeyLimit{Field: "user.id", Max: 2} }},
		{"one of a key", "key: user", func(w *mayfly.Workload) { w.Key = mayfly.KeyLimit{Field: "user", Max: 1} }},
		{"one of a key, too", "key: {field: user}", func(w *mayfly.Workload) { w.Key = mayfly.KeyLimit{Field: "user", Max: 1} }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := Parse("m.yaml", []byte(one("image: a", test.text)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			got, want := m.Functions[0].Workload, none
			test.want(&want)
			if diff := cmp.Diff([]any{want.Retries, want.Rate, want.Key}, []any{got.Retries, got.Rate, got.Key}); diff != "" {
				t.Error("(-want +got):\n" + diff)
			}
		})
	}
}

func TestTaskErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		{"retries: many", `4:14: function "f": retries must be a whole number from 0 to 100 (retries: many)`},
		{"retries: 101", `4:14: function "f": retries must be a whole number from 0 to 100 (retries: 101)`},
		{"retries: [1s]", `4:14: function "f": retries cannot be a list (retries: [1s]); write retries: 3, or retries: {delays: [1s, 1m]}`},
		{"retries: {backoff: 1s}", `4:5: function "f": retries: nothing says how many (retries: {backoff: 1s}); add max: 3`},
		{"retries: {max: 3, backof: 1s}", `4:23: function "f": retries: unknown key "backof" (retries: {max: 3, backof: 1s}); did you mean "backoff"?`},
		{"retries: {max: 3, backoff: 5}", `4:32: function "f": retries: backoff "5" is not a duration (retries: {max: 3, backoff: 5}); add a unit, as in 5s`},
		{"retries: {max: 3, backoff: 1m, longest: 1s}", `longest is shorter than backoff`},
		{"retries: {backoff: 1s, delays: [1s]}", `delays and backoff exclude each other`},
		{"retries: {delays: [1s, soon]}", `4:28: function "f": retries: delay "soon" is not a duration (retries: {delays: [1s, soon]}); write it like 30s or 5m`},
		{"retries: {delays: [-1s]}", `a delay must be from 0s to 8784h`},
		{"retries: {delays: []}", `delays is empty`},
		{"retries: {delays: 1s}", `delays must be a list`},
		{"retries: {max: 1, jitter: 2}", `jitter must be a number from 0 to 1`},
		{"retries: {max: 1, final: [0]}", `an exit code is a whole number from 1 to 599`},
		{"retries: {max: 1, final: [x]}", `an exit code is a whole number from 1 to 599`},
		{"retries: {max: 1, memory: triple}", `memory cannot be "triple"`},
		{"retries: {max: 1, memory: double}", `memory double needs a limit (retries: {max: 1, memory: double}); add upto: 2GB`},
		{"retries: {max: 1, upto: 2GB}", `upto is the limit of memory: double`},
		{"memory: 1GB\n    retries: {max: 1, memory: double, upto: 1GB}", `upto must be more than the function's memory of 1GB`},
		{"rate: fast", `rate must be a number`},
		{"rate: 0", `rate must be a number`},
		{"rate: {burst: 3}", `rate: nothing says how many in a second`},
		{"rate: {perSecond: 1, burst: 0}", `burst must be a whole number from 1 to 1000000`},
		{"rate: {perMinute: 1}", `rate: unknown key "perMinute"`},
		{"key: {max: 3}", `key: nothing says which field`},
		{"key: {field: a..b}", `field "a..b" is not a field of the payload`},
		{"key: {field: a, max: 0}", `max must be a whole number from 1`},
		{"key: a b", `key "a b" is not a field of the payload`},
		{"key: [a]", `key must be a single value`},
	}
	for _, test := range tests {
		_, err := Parse("m.yaml", []byte(one("image: a", test.text)), Options{})
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "m.yaml:") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s\n got %v\nwant %s", test.text, err, test.want)
		}
	}
}
