package api

import (
	"bytes"
	"net/url"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// FuzzSubmit holds the body of a submit to what the queue may rely on.
func FuzzSubmit(f *testing.F) {
	f.Add([]byte(`{"tasks":[{"workload":"w","payload":"aGVsbG8=","priority":3,"retries":{"max":3,"delays":[1,2]}}]}`), "", "a=b")
	f.Add([]byte(`{"tasks":[{"image":"i","argv":["a"],"env":{"A":"b"},"json":{"a":[1]},"delay":"2h"},{"workload":"x","text":"\u0000"}]}`), "k", "delay=1h&label=a=b&label=c")
	f.Add([]byte(`{"tasks":null}`), "k", "priority=10&space=x")
	f.Add([]byte(`{"tasks":[{"notBefore":"2026-01-01T00:00:00Z","labels":{"a":"b"},"after":["x"]}]}x`), "", "retries=0&timeout=-1s")
	f.Fuzz(func(t *testing.T, body []byte, key, query string) {
		before := bytes.Clone(body)
		subs, err := decodeTasks(body, "home", key)
		if !bytes.Equal(body, before) {
			t.Fatal("the body was changed")
		}
		switch {
		case err != nil && (len(subs) > 0 || mayfly.KindOf(err) == mayfly.Internal):
			t.Fatalf("%d tasks, %v", len(subs), err)
		case err == nil && (len(subs) == 0 || len(subs) > client.MaxTasks):
			t.Fatalf("%d tasks", len(subs))
		}
		for _, sub := range subs {
			if sub.Space != "home" || sub.Release != 0 {
				t.Fatalf("%+v", sub)
			}
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if sub, err := webhookSubmission(values); err != nil && mayfly.KindOf(err) != mayfly.Invalid || err == nil && mayfly.CheckName("space", sub.Space) != nil {
			t.Fatalf("%+v, %v", sub, err)
		}
	})
}
