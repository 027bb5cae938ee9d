package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

func TestEvents(t *testing.T) {
	text := `events: [order.placed, {type: "photo.*", source: /photos, filter: {bucket: holiday, size: 3, raw: true}, concurrency: 4, retries: 0, orderBy: data.user}, {type: x, filter: "EXISTS subject"}]`
	m, err := Parse("m.yaml", []byte(one("image: a", text)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []mayfly.EventMapping{
		{Type: "order.placed"},
		{Type: "photo.*", Source: "/photos", Filter: map[string]string{"bucket": "holiday", "size": "3", "raw": "true"}, Concurrency: 4, Retries: -1, OrderBy: "data.user"},
		{Type: "x", SQL: "EXISTS subject"},
	}
	if diff := cmp.Diff(want, m.Functions[0].Events); diff != "" {
		t.Error("(-want +got):\n" + diff)
	}
	text = `schedules: [{every: 1m, emit: tick}, {every: 1h, emit: {type: tock, source: /clock, subject: s, data: {a: 1}, extensions: {room: 3}}}]`
	if m, err = Parse("m.yaml", []byte(one("image: a", text)), Options{}); err != nil {
		t.Fatal(err)
	}
	all := m.Functions[0].Schedules
	tock := &mayfly.Event{Type: "tock", Source: "/clock", Subject: "s", DataContentType: "application/json", Data: []byte(`{"a":1}`), Extensions: map[string]string{"room": "3"}}
	if diff := cmp.Diff([]*mayfly.Event{{Type: "tick"}, tock}, []*mayfly.Event{all[0].Emit, all[1].Emit}); diff != "" {
		t.Error("(-want +got):\n" + diff)
	}
}

func TestEventErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"events: photo", `function "f": events must be a list`},
		{"events: [1]", `function "f": an event must be a mapping or a type`},
		{"events: [{source: x}]", `the type of an event is missing`},
		{"events: [{typ: x}]", `unknown key "typ"`},
		{"events: [{type: x, filter: [a]}]", `filter cannot be a list`},
		{"key: {field: user}\n    events: [{type: x, concurrency: 2}]", `key and the concurrency of an event exclude each other`},
		{"events: [{type: x, filter: \"subject LIKE\"}]", `4:32: function "f": the filter is wrong at character 13`},
		{"events: [{type: x, filter: {a: [1]}}]", `a`},
		{"events: [{type: x, concurrency: -1}]", `concurrency must be a whole number`},
		{"schedules: [{every: 1m, emit: [x]}]", `emit must be a type or a mapping`},
		{"schedules: [{every: 1m, emit: {subject: x}}]", `the attribute type is missing`},
		{"schedules: [{every: 1m, emit: x, payload: y}]", `it either emits an event or makes a task`},
	} {
		_, err := Parse("m.yaml", []byte(one("image: a", test.text)), Options{})
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s:\n got %v\nwant %s", test.text, err, test.want)
		}
	}
}
