package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/discovery"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// serveEndpoints serves a real view of endpoints.
func serveEndpoints(t *testing.T) (*server, *discovery.Discovery, *store.Store) {
	t.Helper()
	b, err := bus.Open(t.Context(), t.TempDir(), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	d, err := discovery.Open(t.Context(), b, s, discovery.Options{Node: "a"})
	if err != nil {
		t.Fatal(err)
	}
	outside := d.OpenOutside(discovery.OutsideOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	running.Go(func() { outside.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return serveAll(t, api.Services{Endpoints: outside}, api.Options{}), d, s
}

func inside(service string, port uint16) mayfly.Endpoint {
	return mayfly.Endpoint{ID: service + "-1.http", Space: "default", Service: service, Name: "http", Protocol: "http", Address: "127.0.0.1", Port: port, Tags: map[string]string{"tier": "1"}}
}

func TestEndpointsOverHTTP(t *testing.T) {
	up, d, _ := serveEndpoints(t)
	ctx, c := t.Context(), up.client
	if err := d.Publish(inside("web", 80)); err != nil {
		t.Fatal(err)
	}
	made, err := c.AddEndpoint(ctx, client.EndpointRequest{Name: "crm", Address: "192.0.2.1", Port: 3306, Protocol: "mysql", Role: "primary", Tags: map[string]string{"tier": "2"}, TTL: time.Hour})
	if err != nil || made.Service != "crm" || made.Registered != "crm" || !made.Outside {
		t.Fatalf("added %+v, %v", made, err)
	}
	if _, err := c.AddEndpoint(ctx, client.EndpointRequest{Name: "crm", Address: "192.0.2.1", Port: 1}); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("added twice: %v", err)
	}
	if _, err := c.AddEndpoint(ctx, client.EndpointRequest{Name: "x", Address: "a b", Port: 1}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("nonsense: %v", err)
	}
	list := func(f client.EndpointFilter) string {
		all, err := c.ListEndpoints(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range all {
			names = append(names, e.Service)
		}
		return strings.Join(names, " ")
	}
	for want, f := range map[string]client.EndpointFilter{
		"crm web": {},
		"crm":     {Role: "primary"},
		"web":     {Service: "web", Tags: map[string]mayfly.Match{"tier": {In: []string{"1", "3"}}}},
		"":        {Tags: map[string]mayfly.Match{"tier": {Pattern: "[3-9]"}}},
	} {
		if got := list(f); got != want {
			t.Errorf("%+v lists %q, want %q", f, got, want)
		}
	}
	if e, err := c.GetEndpoint(ctx, "web-1.http"); err != nil || e.Port != 80 || !e.Ready {
		t.Errorf("by its id: %+v, %v", e, err)
	}
	if _, err := c.PutEndpoint(ctx, client.EndpointRequest{Name: "crm", Address: "192.0.2.2", Port: 3306, TTL: time.Hour}); err != nil {
		t.Errorf("replaced: %v", err)
	}
	if e, err := c.GetEndpoint(ctx, "crm"); err != nil || e.Address != "192.0.2.2" {
		t.Errorf("replaced: %+v, %v", e, err)
	}
	if err := c.Heartbeat(ctx, "crm"); err != nil {
		t.Errorf("heartbeat: %v", err)
	}
	if err := c.RemoveEndpoint(ctx, "crm"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := c.GetEndpoint(ctx, "crm"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("what was removed: %v", err)
	}
	if _, err := c.AddOwnEndpoint(ctx, client.EndpointRequest{}); mayfly.KindOf(err) != mayfly.Denied {
		t.Errorf("its own, from outside: %v", err)
	}
}

func TestWatchOverHTTP(t *testing.T) {
	up, d, _ := serveEndpoints(t)
	c := up.client
	web := client.EndpointFilter{Service: "web"}
	none, err := c.PollEndpoints(t.Context(), web, "", 0)
	if err != nil || len(none.Endpoints) != 0 || none.Revision == "" {
		t.Fatalf("polled %+v, %v", none, err)
	}
	if again, err := c.PollEndpoints(t.Context(), web, none.Revision, time.Millisecond); err != nil || again.Revision != none.Revision {
		t.Fatalf("polled again %+v, %v", again, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	sets := make(chan client.EndpointSet)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		c.WatchEndpoints(ctx, web, func(set client.EndpointSet) error {
			select {
			case sets <- set:
			case <-ctx.Done():
			}
			return ctx.Err()
		})
	})
	if first := <-sets; first.Revision != none.Revision {
		t.Errorf("first event %+v", first)
	}
	polled := make(chan client.EndpointSet, 1)
	watching.Go(func() {
		set, err := c.PollEndpoints(ctx, web, none.Revision, time.Minute)
		if err != nil {
			t.Error(err)
		}
		polled <- set
	})
	began := time.Now()
	d.Publish(inside("other", 80), inside("web", 80))
	one := <-sets
	t.Log("a stream is told after", time.Since(began))
	if len(one.Endpoints) != 1 || one.Endpoints[0].Port != 80 {
		t.Errorf("second event %+v", one)
	}
	if set := <-polled; set.Revision != one.Revision {
		t.Errorf("the poll gave %+v", set)
	}
	d.Withdraw("other-1.http", "web-1.http")
	if last := <-sets; last.Revision != none.Revision {
		t.Errorf("third event %+v", last)
	}
	for _, query := range []string{"", "?service=web&x=1", "?service=web&wait=soon", "?service=web&tag=a", "?service=web&service=b", "?role=a&space=B"} {
		resp, err := http.Get(up.tcp + "/v1/watch" + query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("watch%s is answered %d", query, resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestForwardOverHTTP: each connection leads to the endpoint of the moment, and
// either side may end its half first.
func TestForwardOverHTTP(t *testing.T) {
	up, d, _ := serveEndpoints(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				data, _ := io.ReadAll(conn) // until the other's half ends
				conn.Write([]byte(strings.ToUpper(string(data))))
			}()
		}
	}()
	db := client.EndpointFilter{Service: "db"}
	if _, _, err := up.client.Forward(t.Context(), db); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("to nobody: %v", err)
	}
	d.Publish(inside("db", uint16(ln.Addr().(*net.TCPAddr).Port)))
	conn, where, err := up.client.Forward(t.Context(), db)
	if err != nil || where != ln.Addr().String() {
		t.Fatalf("to %s, %v", where, err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		t.Fatal("its half cannot be ended")
	}
	if got, err := io.ReadAll(conn); string(got) != "HELLO" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	resp, err := http.Post(up.tcp+"/v1/forward?service=db", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != 400 {
		t.Errorf("without an upgrade: %d", resp.StatusCode)
	}
}

// TestEndpointsFromInside: a container sees its own space, and adds only what is
// its own.
func TestEndpointsFromInside(t *testing.T) {
	up, d, s := serveEndpoints(t)
	in := mayfly.Instance{ID: mayfly.NewID(), Space: "other", Name: "web-1", Workload: "web", State: mayfly.Running, Address: "127.0.0.1", Node: "a"}
	if _, err := s.PutInstance(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	d.Publish(inside("web", 80))
	who := mayfly.Identity{Space: "other", Instance: in.ID, Workload: "web"}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { up.ServeInside(w, r, who) }))
	defer srv.Close()
	defer http.DefaultClient.CloseIdleConnections()
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		req, _ := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/endpoints", "", 200, `"items":[]`}, // the other space's is not seen
		{"GET", "/v1/watch?service=web", "", 200, `"endpoints":[]`},
		{"GET", "/v1/watch?service=web&space=default", "", 403, "may not ask in the space"},
		{"POST", "/v1/endpoints", `{"name":"x","address":"192.0.2.1","port":1}`, 403, "may not ask for"},
		{"POST", "/v1/forward?service=web", "", 403, "may not ask for"},
		{"POST", "/v1/self/endpoints", `{"name":"admin","port":9000,"ttl":60000000000}`, 201, `"address":"127.0.0.1"`},
		{"POST", "/v1/self/endpoints", `{"name":"x","port":9000,"address":"192.0.2.1"}`, 400, "container's address"},
		{"POST", "/v1/self/endpoints", `{"name":"x","port":9000,"checks":[{"exec":["reboot"]}]}`, 403, "on the node"},
		{"POST", "/v1/self/endpoints", `{"nme":"x"}`, 400, "cannot be read"},
		{"POST", "/v1/self/endpoints/admin/heartbeat", "", 204, ""},
		{"GET", "/v1/endpoints?service=web", "", 200, in.ID + ".admin"},
		{"DELETE", "/v1/self/endpoints/admin", "", 204, ""},
		{"DELETE", "/v1/self/endpoints/admin", "", 404, ""},
	} {
		if status, text := ask(c.method, c.path, c.body); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, text)
		}
	} // The checks of what was added by hand are the node's own.
	e := mayfly.OutsideEndpoint{
		Endpoint: mayfly.Endpoint{ID: "outside.other.crm", Space: "other", Service: "crm", Name: "http", Protocol: "http", Address: "127.0.0.9", Port: 1, Outside: true},
		Checks:   []mayfly.Probe{{HTTP: &mayfly.HTTPProbe{Path: "/", Headers: map[string]string{"Authorization": "hush"}}}},
	}
	if _, err := s.Outside.Update(t.Context(), "other", "crm", func(mayfly.OutsideEndpoint, bool) (mayfly.OutsideEndpoint, bool, error) { return e, true, nil }); err != nil {
		t.Fatal(err)
	}
	if status, text := ask("GET", "/v1/endpoints?service=crm", ""); status != 200 || !strings.Contains(text, "127.0.0.9") || strings.Contains(text, "hush") {
		t.Errorf("%d %s", status, text)
	}
}
