package discovery

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// startOutside runs an Outside until its stop is called, or the test ends.
func startOutside(t testing.TB, n *node) (o *Outside, stop func()) {
	t.Helper()
	o = n.OpenOutside(OutsideOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { o.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return o, stop
}

func outsideAt(ln net.Listener, checks ...mayfly.Probe) mayfly.OutsideEndpoint {
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	for i := range checks {
		checks[i].Every, checks[i].Failures = 200*time.Millisecond, 1
		checks[i].Timeout = mostTimeout // what is slow is not away
	}
	return mayfly.OutsideEndpoint{Endpoint: mayfly.Endpoint{Space: "default", Address: ln.Addr().(*net.TCPAddr).IP.String(), Port: port}, Checks: checks}
}

func listenAt(t testing.TB, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func add(t testing.TB, o *Outside, name string, e mayfly.OutsideEndpoint) {
	t.Helper()
	if _, err := o.Add(t.Context(), name, e, false); err != nil {
		t.Fatal(err)
	}
}

// until waits for changes of a table.
func until[T any](table *store.Table[T], done func() bool) {
	for {
		changed := table.Changed()
		if done() {
			return
		}
		<-changed
	}
}

var crm = mayfly.Require{Service: "crm", All: true}

// TestOutsideChecks has what is outside fail and come back, for each kind of
// check, and measures how long consumers wait for the news.
func TestOutsideChecks(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	o, _ := startOutside(t, d)
	flag := filepath.Join(t.TempDir(), "well")
	cases := map[string]struct {
		check    mayfly.Probe
		up, down func(ln net.Listener) net.Listener
	}{
		"tcp": {check: mayfly.Probe{TCP: &mayfly.TCPProbe{}}},
		"http": {
			check: mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: "/health"}},
			up: func(ln net.Listener) net.Listener {
				go func() {
					for {
						conn, err := ln.Accept()
						if err != nil {
							return
						}
						conn.Read(make([]byte, 4096))
						conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
						conn.Close()
					}
				}()
				return ln
			},
		},
		"grpc": {
			check: mayfly.Probe{GRPC: &mayfly.GRPCProbe{}},
			up: func(ln net.Listener) net.Listener {
				srv := grpc.NewServer()
				grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
				go srv.Serve(ln)
				t.Cleanup(srv.Stop)
				return ln
			},
		},
		"exec": {
			check: mayfly.Probe{Exec: []string{"sh", "-c", "test $ENDPOINT_ADDRESS = 127.9.8.7 && test -e " + flag}},
			up: func(ln net.Listener) net.Listener {
				os.WriteFile(flag, nil, 0o600)
				return ln
			},
			down: func(ln net.Listener) net.Listener {
				os.Remove(flag)
				return ln
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ln := listenAt(t, "127.9.8.7:0") // where nobody else takes the port meanwhile
			address := ln.Addr().String()
			ln.Close()
			s := watch(t, d, Consumer{}, mayfly.Require{Service: name, All: true})
			add(t, o, name, outsideAt(ln, c.check))
			await(t, s) // it is not there
			up := func() net.Listener {
				ln := listenAt(t, address)
				if c.up != nil {
					return c.up(ln)
				}
				return ln
			}
			ln = up()
			t.Log("told that it is there after", await(t, s, "outside.default."+name))
			if ln.Close(); c.down != nil {
				c.down(ln)
			}
			t.Log("told that it is gone after", await(t, s), "(asked every 200ms)")
			e, err := o.Get("default", name)
			if err != nil || e.Ready || e.Reason == "" {
				t.Errorf("it is %+v, %v", e, err)
			}
			up()
			t.Log("told that it is back after", await(t, s, "outside.default."+name))
			if err := o.Remove(t.Context(), "default", name); err != nil {
				t.Fatal(err)
			}
			t.Log("told that it was removed after", await(t, s))
		})
	}
	const last = "; endpoint.withdrawn: it was removed"
	text := ""
	for !strings.HasSuffix(text, last) { // written in the background
		news, next := d.store.News(store.NewsFilter{Type: "endpoint", Subject: "tcp"}, 0)
		text = ""
		for _, n := range news {
			text += "; " + n.Type + ": " + n.Text
		}
		if !strings.HasSuffix(text, last) {
			d.store.FollowNews(t.Context(), store.NewsFilter{}, next, func(mayfly.News) error { return context.Canceled })
		}
	}
	if !strings.HasPrefix(text, "; endpoint.added: it is well; endpoint.withdrawn: tcp port ") {
		t.Errorf("news: %s", text)
	}
}

// TestOutsideHeartbeats: what has a TTL goes when it is not heard of, stays away
// over a restart, and comes back when it is heard of.
func TestOutsideHeartbeats(t *testing.T) {
	site := newSite(t)
	d := site.start(t, Options{Node: "a"})
	o, stop := startOutside(t, d)
	ln := listenAt(t, "127.0.0.1:0")
	e := outsideAt(ln)
	e.TTL = time.Second
	s := watch(t, d, Consumer{}, crm)
	add(t, o, "crm", e)
	heartbeat := func() {
		if err := o.Heartbeat(t.Context(), "default", "crm"); err != nil {
			t.Fatal(err)
		}
	}
	keep(t, s, heartbeat)
	t.Log("told that it was not heard of after", await(t, s), "(TTL 1s)")
	got, err := o.Get("default", "crm")
	if err != nil || !strings.Contains(got.Reason, "not heard of") {
		t.Errorf("it is %+v, %v", got, err)
	}
	until(site.store.Outside, func() bool { // it is about to be written down
		rec, _ := site.store.Outside.Find("default", "crm")
		return rec.Value.Missed
	})
	stop()
	o, _ = startOutside(t, d)
	<-o.Checked()
	await(t, s)
	keep(t, s, heartbeat)
	if err := o.Heartbeat(t.Context(), "default", "nobody"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("of nobody: %v", err)
	}
}

// TestOutsideOverARestart: consumers notice nothing of what was well before and
// after it.
func TestOutsideOverARestart(t *testing.T) {
	site := newSite(t)
	first := site.start(t, Options{Node: "a", Epoch: 1})
	o, stop := startOutside(t, first)
	ln := listenAt(t, "127.0.0.1:0")
	s := watch(t, first, Consumer{}, crm)
	add(t, o, "crm", outsideAt(ln, mayfly.Probe{TCP: &mayfly.TCPProbe{}}))
	await(t, s, "outside.default.crm")
	other := site.start(t, Options{Node: "b"})
	await(t, watch(t, other, Consumer{}, crm), "outside.default.crm") // so it is written
	stop()
	first.stop()

	second := site.start(t, Options{Node: "a", Epoch: 2, Grace: time.Hour})
	s = watch(t, second, Consumer{}, crm)
	o, _ = startOutside(t, second)
	<-o.Checked()
	second.Settle()
	await(t, s, "outside.default.crm")
	if news, _ := site.store.News(store.NewsFilter{Type: "endpoint"}, 0); len(news) > 1 {
		t.Errorf("news: %+v", news)
	}
}

// TestOutsideGoneOverARestart: what is not well any more when the next daemon asks
// is withdrawn, and that is on record.
func TestOutsideGoneOverARestart(t *testing.T) {
	site := newSite(t)
	first := site.start(t, Options{Node: "a", Epoch: 1})
	o, stop := startOutside(t, first)
	ln := listenAt(t, "127.0.0.1:0")
	add(t, o, "crm", outsideAt(ln, mayfly.Probe{TCP: &mayfly.TCPProbe{}}))
	other := site.start(t, Options{Node: "b"})
	s := watch(t, other, Consumer{}, crm)
	await(t, s, "outside.default.crm")
	stop()
	first.stop()
	ln.Close()

	second := site.start(t, Options{Node: "a", Epoch: 2, Grace: time.Hour})
	o, _ = startOutside(t, second)
	<-o.Checked()
	second.Settle()
	await(t, s)
	news := func() []mayfly.News {
		list, _ := site.store.News(store.NewsFilter{Type: "endpoint.withdrawn"}, 0)
		return list
	}
	for end := time.Now().Add(20 * time.Second); len(news()) == 0; time.Sleep(time.Millisecond) { // written in the background
		if time.Now().After(end) {
			t.Fatal("it is not on record")
		}
	}
	if list := news(); len(list) != 1 || !strings.Contains(list[0].Text, "refused") {
		t.Errorf("news: %+v", list)
	}
}

// TestOwnEndpoints: a container adds one, which goes with its end.
func TestOwnEndpoints(t *testing.T) {
	site := newSite(t)
	d := site.start(t, Options{Node: "a"})
	o, _ := startOutside(t, d)
	ln := listenAt(t, "127.0.0.1:0")
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	in := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Name: "web-1", Workload: "web", App: "blog", State: mayfly.Running, Address: "127.0.0.1", Replica: 1, Node: "a"}
	rev, err := site.store.PutInstance(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	who := mayfly.Identity{Space: "default", Instance: in.ID, Workload: "web"}
	s := watch(t, d, Consumer{}, mayfly.Require{Service: "web", Port: "admin", All: true})
	own := mayfly.OutsideEndpoint{Endpoint: mayfly.Endpoint{Address: "10.1.2.3", Port: port, Space: "other"}}
	if _, err := o.AddOwn(t.Context(), who, "admin", own); err != nil {
		t.Fatal(err)
	}
	await(t, s, in.ID+".admin")
	list, _ := s.Current()
	if e := list[0]; e.Address != "127.0.0.1" || e.Outside || e.Instance != in.ID || e.App != "blog" || e.Space != "default" {
		t.Errorf("got %+v", e)
	}
	bad := own
	bad.Checks = []mayfly.Probe{{Exec: []string{"reboot"}}}
	if _, err := o.AddOwn(t.Context(), who, "x", bad); mayfly.KindOf(err) != mayfly.Denied {
		t.Errorf("a command on the node: %v", err)
	}
	if _, err := o.AddOwn(t.Context(), mayfly.Identity{Space: "default", Instance: "nobody"}, "x", own); mayfly.KindOf(err) != mayfly.Denied {
		t.Errorf("of a sandbox: %v", err)
	}
	in.State = mayfly.Exited
	if _, err := site.store.UpdateInstance(t.Context(), in, rev); err != nil {
		t.Fatal(err)
	}
	t.Log("told of the container's end after", await(t, s))
	until(site.store.Outside, func() bool { return len(site.store.Outside.List("")) == 0 })
}

func TestAddRefuses(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	o, _ := startOutside(t, d)
	good := mayfly.OutsideEndpoint{Endpoint: mayfly.Endpoint{Space: "default", Address: "db.example", Port: 3306}}
	add(t, o, "crm", good)
	for want, change := range map[string]func(*mayfly.OutsideEndpoint){
		"neither an IP address":   func(e *mayfly.OutsideEndpoint) { e.Address = "a b" },
		"0.0.0.0 is not one":      func(e *mayfly.OutsideEndpoint) { e.Address = "0.0.0.0" },
		"not one that can be":     func(e *mayfly.OutsideEndpoint) { e.Address = "fe80::1%eth0" },
		"has no port":             func(e *mayfly.OutsideEndpoint) { e.Port = 0 },
		"beginning of a URL":      func(e *mayfly.OutsideEndpoint) { e.Protocol = "a b" },
		"not between 1s":          func(e *mayfly.OutsideEndpoint) { e.TTL = 1 },
		"one of http":             func(e *mayfly.OutsideEndpoint) { e.Checks = []mayfly.Probe{{}} },
		"not begin with /":        func(e *mayfly.OutsideEndpoint) { e.Checks = []mayfly.Probe{{HTTP: &mayfly.HTTPProbe{Path: "x"}}} },
		"which is not between":    func(e *mayfly.OutsideEndpoint) { e.Checks = []mayfly.Probe{{TCP: &mayfly.TCPProbe{}, Every: 1}} },
		"more than 16":            func(e *mayfly.OutsideEndpoint) { e.Checks = make([]mayfly.Probe, 17) },
		`role "a b" is not`:       func(e *mayfly.OutsideEndpoint) { e.Role = "a b" },
		`an endpoint "crm" alrea`: func(e *mayfly.OutsideEndpoint) {},
	} {
		e := good
		change(&e)
		if _, err := o.Add(t.Context(), "crm", e, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := o.Add(t.Context(), "crm", good, true); err != nil {
		t.Errorf("replaced: %v", err)
	}
}
