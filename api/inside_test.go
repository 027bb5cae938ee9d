package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// seenTasks notes what it is asked for, as "VERB SPACE ...".
type seenTasks struct {
	api.Tasks
	asked []string
}

func (s *seenTasks) note(format string, args ...any) {
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
}

func (s *seenTasks) Submit(_ context.Context, subs []mayfly.Submission) []queue.Accepted {
	all := make([]queue.Accepted, len(subs))
	for i, sub := range subs {
		s.note("submit %s %s", sub.Space, sub.Workload)
		all[i].Task = mayfly.Task{ID: "t", Space: sub.Space}
	}
	return all
}

func (s *seenTasks) Get(_ context.Context, space, id string) (mayfly.Task, error) {
	s.note("get %s %s", space, id)
	return mayfly.Task{ID: id, Space: space, State: mayfly.TaskSucceeded}, nil
}

func (s *seenTasks) MaxPayload() int64 { return 1 << 20 }

func (s *seenTasks) PutPayload(_ context.Context, space string, r io.Reader) (string, int64, error) {
	n, err := io.Copy(io.Discard, r)
	s.note("put %s %d", space, n)
	return "ref", n, err
}

func (s *seenTasks) Wait(_ context.Context, space, id string) (mayfly.Task, error) {
	s.note("wait %s %s", space, id)
	return mayfly.Task{ID: id}, nil
}

func (s *seenTasks) Result(_ context.Context, space, id string) ([]byte, error) {
	s.note("result %s %s", space, id)
	return []byte("r"), nil
}

func (s *seenTasks) List(_ context.Context, f queue.Filter) (queue.Page, error) {
	s.note("list %s %s", f.Space, f.Workload)
	return queue.Page{}, nil
}

func (s *seenTasks) Cancel(_ context.Context, space, id string) (mayfly.Task, error) {
	s.note("cancel %s %s", space, id)
	return mayfly.Task{ID: id}, nil
}

func (s *seenTasks) Progress(_ context.Context, space, id string, attempt int, p mayfly.Progress) error {
	s.note("progress %s %s %d %v %s", space, id, attempt, p.Percent, p.Message)
	return nil
}

// serveInside serves what a container of the space blog would reach.
func serveInside(t *testing.T, who mayfly.Identity) (*seenTasks, *httptest.Server) {
	t.Helper()
	seen := &seenTasks{}
	calls := &stub{call: func(w http.ResponseWriter, r *http.Request) {
		seen.note("call %s %s", w.Header().Get("X-Called"), r.RequestURI)
		if r.Header.Get(client.HeaderSpace) != "" {
			t.Error("the function sees the space's header")
		}
	}}
	s, err := api.Open(nil, api.Services{Instances: calls, Workloads: calls, Images: calls, Stacks: calls, Machine: calls, Tasks: seen}, api.Options{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeInside(w, r, who) }))
	t.Cleanup(srv.Close)
	return seen, srv
}

var blog = mayfly.Identity{Node: "n", Space: "blog", Instance: "i", Workload: "w", Release: 2, Run: "task1", Attempt: 3, Deadline: 5, Task: true}

// ask sends a request whose target is taken literally.
func ask(t *testing.T, srv *httptest.Server, method, target, body string, header ...string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s HTTP/1.0\r\n%s\r\nContent-Length: %d\r\n\r\n%s", method, target, strings.Join(append(header, "X-A: b"), "\r\n"), len(body), body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestInsideReachesItsOwnSpace(t *testing.T) {
	for _, c := range []struct {
		method, target, body string
		status               int
		want                 string // what the services were asked
	}{
		{"POST", "/v1/tasks", `{"tasks":[{"workload":"f"}]}`, 201, "submit blog f"},
		{"POST", "/v1/tasks?space=blog", `{"tasks":[{"workload":"f","space":"blog"}]}`, 201, "submit blog f"},
		{"POST", "/v1/payloads", "large", 201, "put blog 5"},
		{"GET", "/v1/tasks?workload=x", "", 200, "list blog x"},
		{"GET", "/v1/tasks/abc?space=blog", "", 200, "get blog abc"},
		{"GET", "/v1/tasks/abc/wait", "", 200, "wait blog abc"},
		{"GET", "/v1/tasks/abc/watch", "", 200, "get blog abc"},
		{"GET", "/v1/tasks/abc/result", "", 200, "result blog abc"},
		{"POST", "/v1/tasks/abc/cancel", "", 200, "cancel blog abc"},
		{"POST", "/v1/workloads/f/call", "x", 200, "call blog/f /"},
		{"GET", "/v1/workloads/f/call/a//../b?space=other&x=1", "", 200, "call blog/f /a//../b?space=other&x=1"},
		{"PUT", "/v1/self/progress", `{"percent":40,"message":"sorting"}`, 204, "progress blog task1 3 40 sorting"},
	} {
		seen, srv := serveInside(t, blog)
		status, text := ask(t, srv, c.method, c.target, c.body)
		if status != c.status || strings.Join(seen.asked, "; ") != c.want {
			t.Errorf("%s %s: %d %s, asked %q", c.method, c.target, status, text, seen.asked)
		}
	}
}

func TestInsideReachesNothingElse(t *testing.T) {
	for _, c := range []struct {
		method, target, body, header string
		kind                         mayfly.Kind
	}{
		{"GET", "/v1/tasks?space=default", "", "", mayfly.Denied},
		{"GET", "/v1/tasks?space=blog&space=default", "", "", mayfly.Denied},
		{"GET", "/v1/tasks?space=", "", "", mayfly.Denied},
		{"GET", "/v1/tasks?%73pace=default", "", "", mayfly.Denied},
		{"GET", "/v1/tasks?space=blog;space=default", "", "", mayfly.Invalid},
		{"GET", "/v1/tasks/abc?space=other", "", "", mayfly.Denied},
		{"GET", "/v1/self?space=other", "", "", mayfly.Denied},
		{"POST", "/v1/tasks", `{"tasks":[{"workload":"f","space":"default"}]}`, "", mayfly.Invalid},
		{"POST", "/v1/workloads/f/call", "", "X-Mayfly-Space: default", mayfly.Denied},
		{"POST", "/v1/workloads/f/call", "", "X-Mayfly-Space: blog\r\nX-Mayfly-Space: default", mayfly.Denied},
		{"POST", "/v1/workloads/f/call", "", "x-mayfly-space: default", mayfly.Denied},

		{"POST", "/v1/instances", "{}", "", mayfly.Denied},
		{"GET", "/v1/instances", "", "", mayfly.Denied},
		{"POST", "/v1/instances/x/attach", "", "", mayfly.Denied},
		{"POST", "/v1/workloads", "{}", "", mayfly.Denied},
		{"GET", "/v1/workloads", "", "", mayfly.Denied},
		{"GET", "/v1/workloads/f", "", "", mayfly.Denied},
		{"DELETE", "/v1/workloads/f", "", "", mayfly.Denied},
		{"DELETE", "/v1/workloads/call", "", "", mayfly.Denied},
		{"POST", "/v1/workloads/f/tasks/webhook", "", "", mayfly.Denied},
		{"POST", "/v1/workloads/f/queue/pause", "", "", mayfly.Denied},
		{"POST", "/v1/code", "", "", mayfly.Denied},
		{"GET", "/v1/images", "", "", mayfly.Denied},
		{"GET", "/v1/runs", "", "", mayfly.Denied},
		{"POST", "/v1/down", "", "", mayfly.Denied},
		{"GET", "/v1/version", "", "", mayfly.Denied},
		{"GET", "/v1/openapi.json", "", "", mayfly.Denied},
		{"GET", "/", "", "", mayfly.Denied},
		{"GET", "//v1/self", "", "", mayfly.Denied},
		{"POST", "/v1/self", "", "", mayfly.Denied},
		{"DELETE", "/v1/tasks/abc", "", "", mayfly.Denied},
		{"POST", "/v1/tasks/abc/retry", "", "", mayfly.Denied},
		{"POST", "/v1/tasks/dead/purge", "{}", "", mayfly.Denied},
		{"GET", "/v1/tasks/abc/payload", "", "", mayfly.Denied},
		{"GET", "/v1/tasks/abc/logs", "", "", mayfly.Denied},
		{"PUT", "/v1/tasks/abc/progress", "{}", "", mayfly.Denied},

		{"GET", "/v1/tasks/..", "", "", mayfly.Denied},
		{"GET", "/v1/tasks/../instances", "", "", mayfly.Denied},
		{"GET", "/v1/tasks/%2e%2e/wait", "", "", mayfly.Denied},
		{"GET", "/v1/tasks/a%2f..%2f..%2finstances", "", "", mayfly.Denied},
		{"GET", "/v1/tasks//wait", "", "", mayfly.Denied},
		{"GET", "/v1/tasks/", "", "", mayfly.Denied},
		{"GET", "/v1/./self", "", "", mayfly.Denied},
		{"GET", "/V1/self", "", "", mayfly.Denied},
		{"POST", "/v1/workloads/../call/../../instances", "", "", mayfly.Denied},
		{"POST", "/v1/workloads//call", "", "", mayfly.Denied},
		{"POST", "/v1/workloads/f%2Fcall/call", "", "", mayfly.Denied},
		{"POST", "/v1/instances?x=/v1/workloads/f/call", "", "", mayfly.Denied},

		{"PUT", "/v1/self/progress", `{"percent":40,"message":"` + strings.Repeat("x", 20<<10) + `"}`, "", mayfly.TooLarge},
		{"PUT", "/v1/self/progress", `{"percent":101}`, "", mayfly.Invalid},
		{"PUT", "/v1/self/progress", `{"percent":-1}`, "", mayfly.Invalid},
		{"PUT", "/v1/self/progress", `{"percent":1,"id":"other"}`, "", mayfly.Invalid},
		{"PUT", "/v1/self/progress", `{"percent":1,"attempt":4}`, "", mayfly.Conflict},
		{"PUT", "/v1/self/progress", ``, "", mayfly.Invalid},
	} {
		seen, srv := serveInside(t, blog)
		header := c.header
		if header == "" {
			header = "X-B: c"
		}
		status, text := ask(t, srv, c.method, c.target, c.body, header)
		var p client.Problem
		if err := json.Unmarshal([]byte(text), &p); err != nil || p.Kind != c.kind || status != c.kind.Status() {
			t.Errorf("%s %s: %d %s", c.method, c.target, status, text)
		}
		if len(seen.asked) > 0 {
			t.Errorf("%s %s asked %q", c.method, c.target, seen.asked)
		}
	}
}

func TestInsideKnowsWhoAsks(t *testing.T) {
	_, srv := serveInside(t, blog)
	status, text := ask(t, srv, "GET", "/v1/self", "")
	var who mayfly.Identity
	if err := json.Unmarshal([]byte(text), &who); err != nil || status != 200 || !reflect.DeepEqual(who, blog) {
		t.Errorf("%d %s", status, text)
	}
	idle := mayfly.Identity{Node: "n", Space: "blog", Instance: "i"}
	seen, srv := serveInside(t, idle)
	if status, text := ask(t, srv, "PUT", "/v1/self/progress", `{"percent":1}`); status != 409 || !strings.Contains(text, "runs no task") || len(seen.asked) > 0 {
		t.Errorf("%d %s", status, text)
	}
}

// A body that does not say how long it is counts as the longest.
func TestInsideBodiesAreBounded(t *testing.T) {
	_, srv := serveInside(t, blog)
	const size = 17 << 20
	for _, said := range []int64{size, -1} {
		req, err := http.NewRequest("POST", srv.URL+"/v1/tasks", io.MultiReader(strings.NewReader(`{"tasks":[{"workload":"f","text":"`), io.LimitReader(digits{}, size)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = said
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			req.Write(conn) // which is cut short: an answer comes before its end
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 413 {
			text, _ := io.ReadAll(resp.Body)
			t.Errorf("%d %s", resp.StatusCode, text)
		}
		conn.Close()
		<-sent
	}
}

// What one container sends and does not finish keeps no other from submitting.
func TestInsideBodiesAreCountedByContainer(t *testing.T) {
	seen, srv := serveInside(t, blog)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", 16<<20)
	if _, err := conn.Read(make([]byte, 1)); err != nil { // it is being read
		t.Fatal(err)
	}
	if status, text := ask(t, srv, "POST", "/v1/tasks", `{"tasks":[{"workload":"f"}]}`); status != 429 {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := ask(t, srv, "GET", "/v1/tasks/abc", ""); status != 200 {
		t.Errorf("other operations answer %d", status)
	}
	conn.Close()
	for status := 0; status != 201; {
		status, _ = ask(t, srv, "POST", "/v1/tasks", `{"tasks":[{"workload":"f"}]}`)
	}
	if got := seen.asked[len(seen.asked)-1]; got != "submit blog f" {
		t.Error(got)
	}
}

type digits struct{}

func (digits) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestDoorBeforeTheServer(t *testing.T) {
	var door api.Door
	w := httptest.NewRecorder()
	door.ServeInside(w, httptest.NewRequest("GET", "/v1/self", nil), blog)
	if w.Code != 503 || w.Header().Get("Content-Type") != client.ContentProblem {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// FuzzInside: whatever is asked for, only what is on the list is reached, and
// only in the container's own space.
func FuzzInside(f *testing.F) {
	for _, target := range []string{
		"/v1/self", "/v1/tasks/a/wait?space=blog", "/v1/tasks/a%2f../x", "/v1/workloads/f/call/../..//x?space=y", "/v1/workloads/f/calls",
		"//v1/tasks", "/v1/tasks?space=other", "/v1/tasks?a;b", "/v1/tasks/a/result/", "*", "/v1/tasks/\x00", "http://x/v1/down",
	} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			f.Add(method, target)
		}
	}
	seen := &seenTasks{}
	calls := &stub{call: func(w http.ResponseWriter, r *http.Request) { seen.note("call %s", w.Header().Get("X-Called")) }}
	s, err := api.Open(nil, api.Services{Instances: calls, Workloads: calls, Tasks: seen}, api.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return
		}
		seen.asked = nil
		w := httptest.NewRecorder()
		s.ServeInside(w, r, blog) // the stub panics at every method that it has not got
		for _, asked := range seen.asked {
			verb, rest, _ := strings.Cut(asked, " ")
			if !strings.HasPrefix(rest, "blog") {
				t.Errorf("%s %s asked %s", method, target, asked)
			}
			if verb == "cancel" && method != "POST" || verb == "submit" && method != "POST" {
				t.Errorf("%s %s asked %s", method, target, asked)
			}
		}
		if len(seen.asked) == 0 && w.Code < 300 && r.URL.Path != "/v1/self" {
			t.Errorf("%s %s answers %d", method, target, w.Code)
		}
	})
}
