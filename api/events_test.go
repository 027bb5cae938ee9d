package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/event"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// serveEvents serves real events on a real bus.
func serveEvents(t testing.TB) (*server, *event.Events) {
	t.Helper()
	ctx := context.Background()
	b, err := bus.Open(ctx, filepath.Join(t.TempDir(), "data"), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(ctx, b, s, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := event.Open(ctx, b, s, q, event.Options{})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { q.Run(running) })
	ended.Go(func() { e.Run(running) })
	t.Cleanup(func() {
		stop()
		ended.Wait()
		e.Close()
		q.Close()
		s.Close()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return serveAll(t, api.Services{Events: e, Tasks: q}, api.Options{}), e
}

// scenario is a case of the feature file.
type scenario struct {
	name       string
	request    string
	attributes map[string]string
	data       string
}

// feature reads the scenarios of a feature file, each outline once for each of
// its examples.
func feature(t *testing.T, text string) (all []scenario) {
	for _, outline := range strings.Split(text, "Scenario Outline: ")[1:] {
		docs := strings.Split(outline, `"""`)
		if len(docs) != 5 {
			t.Fatalf("%d texts in %.40q", len(docs)/2, outline)
		}
		s := scenario{request: dedent(docs[1]), data: dedent(docs[3]), attributes: map[string]string{}}
		s.name, _, _ = strings.Cut(outline, "\n")
		for _, row := range tableOf(docs[2])[1:] {
			s.attributes[row[0]] = row[1]
		}
		examples := tableOf(docs[4])
		for _, row := range examples[1:] {
			one := s
			fill := func(text string) string { return strings.ReplaceAll(text, "<"+examples[0][0]+">", row[0]) }
			one.name, one.request, one.attributes = fill(s.name), fill(s.request), map[string]string{}
			for key, value := range s.attributes {
				one.attributes[key] = fill(value)
			}
			all = append(all, one)
		}
	}
	return all
}

func tableOf(text string) (rows [][]string) {
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "|") {
			var row []string
			for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
				row = append(row, strings.TrimSpace(cell))
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// dedent takes the indentation of the first line from all.
func dedent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	indent := len(lines[0]) - len(strings.TrimLeft(lines[0], " "))
	for i, line := range lines {
		lines[i] = line[min(indent, len(line)-len(strings.TrimLeft(line, " "))):]
	}
	return strings.TrimRight(strings.Join(lines, "\n"), " \n")
}

// TestConformance sends every request of the public conformance feature file of
// the HTTP binding, byte for byte but for the length, which Gherkin's layout
// changes, and looks at what was accepted.
func TestConformance(t *testing.T) {
	text, err := os.ReadFile("../event/testdata/http-protocol-binding.feature")
	if err != nil {
		t.Fatal(err)
	}
	all := feature(t, string(text))
	if len(all) != strings.Count(string(text), "\n    | application/") || len(all) < 4 {
		t.Fatalf("%d cases", len(all))
	}
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			up, events := serveEvents(t)
			head, body, _ := strings.Cut(s.request, "\n\n")
			raw := strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body
			req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
			if err != nil {
				t.Fatal(err)
			}
			req.RequestURI, req.URL.Scheme, req.URL.Host, req.URL.Path = "", "http", strings.TrimPrefix(up.tcp, "http://"), "/v1/events"
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
			req.Host = ""
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer http.DefaultClient.CloseIdleConnections()
			answer, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusAccepted {
				t.Fatalf("%d %s", resp.StatusCode, answer)
			}
			list, _, err := events.List(t.Context(), event.Filter{Space: mayfly.DefaultSpace})
			if err != nil || len(list) != 1 {
				t.Fatalf("%v %v", list, err)
			}
			got := map[string]string{}
			list[0].Event.Attributes(func(name, value string) { got[name] = value })
			for name, want := range s.attributes {
				if got[name] != want {
					t.Errorf("%s is %q, not %q", name, got[name], want)
				}
			}
			if len(got) != len(s.attributes) {
				t.Errorf("the attributes are %v", got)
			}
			var have, want bytes.Buffer
			if json.Compact(&have, list[0].Event.Data) != nil || json.Compact(&want, []byte(s.data)) != nil || have.String() != want.String() {
				t.Errorf("the data is %s, not %s", list[0].Event.Data, s.data)
			}
		})
	}
}

func TestEventsAnswers(t *testing.T) {
	up, _ := serveEvents(t)
	defer http.DefaultClient.CloseIdleConnections()
	post := func(header map[string]string, body string) (int, string) {
		t.Helper()
		req, _ := http.NewRequest(http.MethodPost, up.tcp+"/v1/events", strings.NewReader(body))
		for name, value := range header {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		if resp.StatusCode >= 400 && resp.Header.Get("Content-Type") != client.ContentProblem {
			t.Errorf("%d as %s", resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		return resp.StatusCode, string(text)
	}
	structured, batch := map[string]string{"Content-Type": event.ContentEvent}, map[string]string{"Content-Type": event.ContentBatch}
	binary := func(extra ...string) map[string]string {
		h := map[string]string{"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
		for i := 0; i < len(extra); i += 2 {
			h[extra[i]] = extra[i+1]
		}
		return h
	}
	const whole = `"specversion":"1.0","id":"1","source":"/s","type":"t"`
	for _, c := range []struct {
		name   string
		header map[string]string
		body   string
		status int
		says   string
	}{
		{"first", binary(), "", 202, `"accepted":1`},
		{"again", binary(), "", 200, `"known":1`},
		{"partly known", batch, `[{` + whole + `},{"specversion":"1.0","id":"2","source":"/s","type":"t"}]`, 202, `"accepted":1,"known":1`},
		{"empty batch", batch, `[]`, 200, `"accepted":0`},
		{"encoded", binary("ce-id", "3", "ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"), "", 202, ""},
		{"no event", nil, "hello", 400, "this is no event"},
		{"no type", structured, `{"specversion":"1.0","id":"1","source":"/s"}`, 400, "the attribute type is missing"},
		{"no version", structured, `{"id":"1","source":"/s","type":"t"}`, 400, "specversion is missing"},
		{"old version", binary("ce-specversion", "0.3"), "", 400, `specversion \"0.3\" is not known`},
		{"second is bad", batch, `[{` + whole + `},{"specversion":"1.0"}]`, 400, "event 2 of 2"},
		{"no JSON", structured, `{`, 400, "not valid JSON"},
		{"empty body", structured, ``, 400, "the body is empty"},
		{"no array", batch, `{}`, 400, "a batch is a JSON array"},
		{"XML", map[string]string{"Content-Type": "application/cloudevents+xml"}, `<a/>`, 400, "a form of events that is not known"},
		{"data is no JSON", binary("Content-Type", "application/json"), `{`, 400, "no valid JSON"},
		{"bad time", binary("ce-time", "yesterday"), ``, 400, "is not a time"},
		{"bad name", binary("ce-my_name", "x"), ``, 400, "cannot name an attribute"},
		{"bad escape", binary("ce-subject", "%zz"), ``, 400, "percent-encoded"},
		{"content type in ce-", binary("ce-datacontenttype", "text/plain"), ``, 400, "Content-Type says it"},
		{"twice", structured, `{` + whole + `,"id":"2"}`, 400, "is there twice"},
		{"two data", structured, `{` + whole + `,"data":1,"data_base64":"MQ=="}`, 400, "exclude each other"},
		{"structure", structured, `{` + whole + `,"extension":{}}`, 400, "has structure"},
		{"large number", structured, `{` + whole + `,"extension":99999999999}`, 400, "32 bits"},
		{"the platform's", binary("ce-type", "mayfly.x"), ``, 400, "the platform's own"},
		{"large data", binary("Content-Type", "text/plain"), strings.Repeat("x", mayfly.MaxEventData+1), 413, "the limit is"},
		{"large attributes", binary("ce-subject", strings.Repeat("x", 9<<10)), ``, 413, "the limit is"},
	} {
		if status, text := post(c.header, c.body); status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %.300s", c.name, status, text)
		}
	}
}

func TestEventsOverTheClient(t *testing.T) {
	up, _ := serveEvents(t)
	c, ctx := up.client, t.Context()
	sub := mayfly.EventMapping{URL: "http://127.0.0.1:1/hook", Type: "t", Filter: map[string]string{"n": "1"}, Retries: 3}
	made, err := c.MapEvent(ctx, sub)
	if err != nil || made.ID == "" {
		t.Fatal(made, err)
	}
	tailed := make(chan string, 1)
	ready := make(chan struct{})
	tailing, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		close(ready)
		c.TailEvents(tailing, client.EventFilter{Filter: map[string]string{"subject": "s"}}, func(a *mayfly.AcceptedEvent, _ int) error {
			select {
			case tailed <- a.Event.ID:
			default: // one is enough
			}
			return nil
		})
	})
	defer ended.Wait()
	defer stop()
	<-ready
	for i := 0; ; i++ { // until the tail looks on
		id := mayfly.NewID()
		done, err := c.Emit(ctx, mayfly.Event{ID: id, Source: "/x", Type: "t", Subject: "s", Data: []byte(`{"n": 2}`), DataContentType: "application/json"}, mayfly.Event{Source: "/x", Type: "t"})
		if err != nil || done.Accepted != 2 {
			t.Fatal(done, err)
		}
		select {
		case <-tailed:
		default:
			continue
		}
		break
	}
	list, err := c.ListEvents(ctx, client.EventFilter{Filter: map[string]string{"n": "2"}, Limit: 1})
	if err != nil || len(list) != 1 || list[0].Event.Subject != "s" || string(list[0].Event.Data) != `{"n":2}` {
		t.Fatalf("%+v %v", list, err)
	}
	got, err := c.GetEvent(ctx, list[0].Key)
	if err != nil || got.Number != list[0].Number {
		t.Error(got, err)
	}
	if done, err := c.ReplayEvents(ctx, client.Replay{ID: got.Event.ID}); err != nil || done.Events != 1 {
		t.Error(done, err)
	}
	if _, err := c.ReplayEvents(ctx, client.Replay{ID: "nobody"}); mayfly.KindOf(err) != mayfly.NotFound {
		t.Error(err)
	}
	if _, err := c.ListEvents(ctx, client.EventFilter{SQL: "subject ="}); mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "character 10") {
		t.Error(err)
	}
	triggers, err := c.Triggers(ctx)
	if err != nil || len(triggers) != 1 || triggers[0].URL != sub.URL {
		t.Errorf("%+v %v", triggers, err)
	}
	if n, err := c.UnmapEvent(ctx, sub.URL, ""); err != nil || n.Mappings != 1 {
		t.Error(n, err)
	}
}
