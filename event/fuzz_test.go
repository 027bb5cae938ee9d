package event_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/event"
)

// FuzzDecode holds that whatever comes over HTTP is refused as Invalid or TooLarge,
// or is events that say the same after another round in either form.
func FuzzDecode(f *testing.F) {
	f.Add("application/cloudevents+json", "1.0", "a", `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":[1]},"n":3,"b":true}`)
	f.Add("application/cloudevents+json; charset=utf-8", "", "", `{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"text/xml","data":"<a/>"}`)
	f.Add("application/cloudevents-batch+json", "", "", `[{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"AAE="}]`)
	f.Add("text/plain", "1.0", "Euro%20%E2%82%AC", "hello")
	f.Add("application/json", "1.0", `"quoted \" text"`, `{"a":1}`)
	f.Add("", "0.3", "%zz", "\x00")
	f.Fuzz(func(t *testing.T, contentType, version, subject, body string) {
		header := http.Header{"Content-Type": {contentType}, "Ce-Specversion": {version}, "Ce-Subject": {subject}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}}
		events, err := event.Decode(header, []byte(body), nil)
		if kind := mayfly.KindOf(err); err != nil && kind != mayfly.Invalid && kind != mayfly.TooLarge {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		for _, ev := range events {
			text, err := json.Marshal(ev)
			if err != nil {
				t.Fatal(err)
			}
			again, err := event.Decode(http.Header{"Content-Type": {event.ContentEvent}}, text, nil)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			same(t, ev, again[0])
			binary := http.Header{}
			for name, value := range event.Request(&ev).Header {
				binary.Set(name, value)
			}
			if again, err = event.Decode(binary, ev.Data, nil); err != nil {
				t.Fatalf("%v: %v", binary, err)
			}
			same(t, ev, again[0])
		}
	})
}

// same holds that two events have the same attributes. (What has no type is JSON
// in one form and unknown in the other, and JSON is written shorter.)
func same(t *testing.T, a, b mayfly.Event) {
	t.Helper()
	all := map[string]string{}
	a.Attributes(func(name, value string) { all[name] = value })
	b.Attributes(func(name, value string) {
		if all[name] != value && !(name == "datacontenttype" && all[name] == "") {
			t.Errorf("%s was %q and is %q", name, all[name], value)
		}
		delete(all, name)
	})
	if len(all) > 0 {
		t.Errorf("%v is missing", all)
	}
}

// FuzzMapping holds that no filter or order of a mapping makes a match panic.
func FuzzMapping(f *testing.F) {
	f.Add("photo.*", "/s*", "data.a.b", "1", "subject = 'x'", `{"a":{"b":1}}`)
	f.Add("*", "", "subject", "", "", `[`)
	f.Fuzz(func(t *testing.T, eventType, source, name, value, sql, data string) {
		m := mayfly.EventMapping{Type: eventType, Source: source, Filter: map[string]string{name: value}, SQL: sql, OrderBy: name}
		if err := event.Check(m); err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Fatal(err)
			}
			return
		}
		event.Selects(m, &mayfly.Event{ID: "1", Source: "/s", Type: "photo.x", Data: []byte(data)})
	})
}
