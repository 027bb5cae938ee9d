package router

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// submits takes what is submitted, or refuses it.
type submits struct {
	got     []mayfly.Submission
	refusal error
	dropped string // the last upload that was
}

func (s *submits) Submit(_ context.Context, subs []mayfly.Submission) []queue.Accepted {
	s.got = append(s.got, subs...)
	return []queue.Accepted{{Task: mayfly.Task{ID: "t1"}, New: s.refusal == nil, Err: s.refusal}}
}

func (s *submits) DropPayload(space, ref string) { s.dropped = ref }

func (s *submits) PutPayload(_ context.Context, space string, r io.Reader) (string, int64, error) {
	n, err := io.Copy(io.Discard, r)
	return fmt.Sprint(space, "/", n), n, err
}

func TestWhoPrefersNotToWait(t *testing.T) {
	cases := []struct {
		method string
		prefer []string
		want   bool
	}{
		{"POST", nil, false},
		{"POST", []string{"respond-async"}, true},
		{"POST", []string{"wait=10, Respond-Async ; x=y"}, true},
		{"POST", []string{"wait=10", "respond-async"}, true},
		{"POST", []string{"respond-asynchronously"}, false},
		{"POST", []string{`foo="respond-async"`}, false},
		{"GET", []string{"respond-async"}, false},
	}
	for _, c := range cases {
		req := httptest.NewRequest(c.method, "/", nil)
		req.Header["Prefer"] = c.prefer
		if got := (&Router{opts: Options{Tasks: &submits{}}}).prefersAsync(req); got != c.want {
			t.Errorf("%s %q: got %v", c.method, c.prefer, got)
		}
		if (&Router{}).prefersAsync(req) {
			t.Errorf("%s %q is to become a task where there are none", c.method, c.prefer)
		}
	}
}

func TestRequestsBecomeTasks(t *testing.T) {
	queue := &submits{}
	r := &Router{opts: Options{Tasks: queue, Timeout: 1e9, MaxBody: 100}}
	wl := &mayfly.Workload{Space: "s", Name: "f", MaxBody: 10}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.submit(w, req, wl, 7) }))
	defer srv.Close()
	send := func(body io.Reader) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, srv.URL+"/a?b=c", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(client.HeaderIdempotency, "k")
		req.Header.Set("Content-Type", "text/csv")
		req.Header.Set("Authorization", "Bearer secret")
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}
	for range 3 { // over one connection
		resp, text := send(strings.NewReader("0123456789"))
		var made client.AcceptedTask
		if err := json.Unmarshal([]byte(text), &made); err != nil || resp.StatusCode != 202 || made.ID != "t1" || !made.Created ||
			resp.Header.Get("Preference-Applied") != "respond-async" || resp.Header.Get("X-Mayfly-Run") != "t1" {
			t.Errorf("got %d %v %s", resp.StatusCode, resp.Header, text)
		}
	}
	want := mayfly.Submission{Space: "s", Workload: "f", Payload: []byte("0123456789"), Memory: 7, Key: "k"}
	want.Request = &mayfly.Request{Target: "/a?b=c", Header: map[string]string{"Content-Type": "text/csv", "User-Agent": "Go-http-client/1.1"}}
	if len(queue.got) != 3 || !reflect.DeepEqual(queue.got[0], want) {
		t.Errorf("got %+v", queue.got)
	}
	for name, body := range map[string]io.Reader{"of known size": strings.NewReader("0123456789x"), "of any size": io.MultiReader(strings.NewReader("0123456789x"))} {
		if resp, text := send(body); resp.StatusCode != 413 || !strings.Contains(text, "10 bytes at most") {
			t.Errorf("%s: got %d %s", name, resp.StatusCode, text)
		}
	}
	wl.MaxBody = 3 << 20
	large := strings.Repeat("x", 2<<20)
	if resp, text := send(strings.NewReader(large)); resp.StatusCode != 202 || queue.got[3].PayloadRef != "s/2097152" || queue.got[3].Payload != nil {
		t.Errorf("got %d %s", resp.StatusCode, text)
	}
	if resp, text := send(io.MultiReader(strings.NewReader(large), strings.NewReader(large))); resp.StatusCode != 413 {
		t.Errorf("got %d %s", resp.StatusCode, text)
	}
	queue.refusal = mayfly.Errorf(mayfly.Busy, "the task queue is full")
	if resp, text := send(strings.NewReader("x")); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %v %s", resp.StatusCode, resp.Header, text)
	}
	if resp, text := send(strings.NewReader(large)); resp.StatusCode != 429 || queue.dropped != "s/2097152" {
		t.Errorf("got %d %s, and %q was dropped", resp.StatusCode, text, queue.dropped)
	}
	if len(queue.got) != 6 {
		t.Errorf("%d tasks were submitted", len(queue.got))
	}
}
