package discovery

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is an engine, on which several nodes can be.
type site struct {
	bus   *bus.Bus
	store *store.Store
	close func()
}

func newSite(t testing.TB) *site { return openSite(t, t.TempDir()) }

// openSite opens an engine until its close is called, or the test ends.
func openSite(t testing.TB, dir string) *site {
	t.Helper()
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		b.Close()
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		s.Close()
		b.Close()
	})
	t.Cleanup(end)
	return &site{b, s, end}
}

// node is a Discovery that runs.
type node struct {
	*Discovery
	stop func()
}

// start runs a node until its stop is called, or the test ends. It judges nobody
// by a silence unless the test says so.
func (s *site) start(t testing.TB, opts Options) *node {
	t.Helper()
	opts.Lease = cmp.Or(opts.Lease, longLease)
	d, err := Open(t.Context(), s.bus, s.store, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	stop := sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return &node{d, stop}
}

func endpoint(service, id string) mayfly.Endpoint {
	return mayfly.Endpoint{
		ID: id, Space: "default", Service: service, Name: "http", Protocol: "http", Address: "10.0.0.1", Port: 80,
		Since: time.Now().UTC(),
	}
}

func publish(t testing.TB, d *node, endpoints ...mayfly.Endpoint) {
	t.Helper()
	if err := d.Publish(endpoints...); err != nil {
		t.Fatal(err)
	}
}

func watch(t testing.TB, d *node, c Consumer, r mayfly.Require) *Subscription {
	t.Helper()
	if c.Space == "" {
		c.Space = "default"
	}
	s, err := d.Watch(c, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func ids(list []mayfly.Endpoint) []string {
	got := make([]string, len(list))
	for i, e := range list {
		got[i] = e.ID
	}
	return got
}

// await waits until a subscription gives those endpoints, acknowledges them, and
// returns how long it waited.
func await(t testing.TB, s *Subscription, want ...string) time.Duration {
	t.Helper()
	began := time.Now()
	limit := time.After(patience)
	for {
		select {
		case <-s.C():
		default:
		}
		list, revision := s.Current()
		got := ids(list)
		if len(got) == len(want) && subset(got, want) {
			s.Ack(revision)
			return time.Since(began)
		}
		select {
		case <-s.C():
		case <-limit:
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// acknowledge acknowledges all that comes, from now on.
func acknowledge(t testing.TB, s *Subscription) {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-s.C():
				_, revision := s.Current()
				s.Ack(revision)
			case <-s.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		s.Close()
		running.Wait()
	})
}

func subset(a, b []string) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// quiet fails when a subscription has news.
func quiet(t testing.TB, s *Subscription) {
	t.Helper()
	select {
	case <-s.C():
		list, _ := s.Current()
		t.Fatalf("told of a change; it has %q", ids(list))
	default:
	}
}

var all = mayfly.Require{Name: "web", Service: "web", All: true}

func TestPublishIsSeenAtOnce(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a.example"})
	s := watch(t, d, Consumer{}, all)
	await(t, s)
	publish(t, d, endpoint("web", "i1.http"), endpoint("web", "i2.http"), endpoint("other", "i3.http"))
	list, err := d.Find(Consumer{Space: "default"}, all)
	if err != nil || len(list) != 2 || list[0].ID != "i1.http" || list[0].Node != "a.example" {
		t.Fatalf("got %+v, %v", list, err)
	}
	await(t, s, "i1.http", "i2.http")
	d.Withdraw("i1.http")
	await(t, s, "i2.http")
	if _, ok := d.Get("i1.http"); ok {
		t.Error("it is still there")
	}
}

func TestOtherNodesSee(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b"})
	s := watch(t, b, Consumer{}, all)
	publish(t, a, endpoint("web", "i1.http"))
	t.Log("appeared after", await(t, s, "i1.http"))
	a.Withdraw("i1.http")
	t.Log("withdrawn after", await(t, s))
}

func TestDrainWaitsForThoseWhoHaveSeen(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	publish(t, d, endpoint("web", "i1.http"), endpoint("web", "i2.http"))
	seen := watch(t, d, Consumer{Workload: "seen", Instance: "x"}, all)
	await(t, seen, "i1.http", "i2.http")
	watch(t, d, Consumer{Workload: "unread"}, all)
	passive := watch(t, d, Consumer{Workload: "passive", NoAck: true}, all)
	await(t, passive, "i1.http", "i2.http")
	report := d.Drain(t.Context(), []string{"i1.http"}, time.Millisecond)
	if len(report.Pending) != 1 || report.Pending[0].Workload != "seen" {
		t.Fatalf("got %+v", report)
	}
	acknowledge(t, seen)
	if report = d.Drain(t.Context(), []string{"i1.http"}, time.Minute); len(report.Pending) > 0 {
		t.Fatalf("got %+v", report)
	}
	t.Log("drained after", report.Waited)
}

// Who had an endpoint before a restart is waited for when that is drained without
// having been published again.
func TestDrainWaitsForThoseWhoHadIt(t *testing.T) {
	for name, require := range map[string]mayfly.Require{"all": all, "one": {Service: "web"}} {
		t.Run(name, func(t *testing.T) {
			d := newSite(t).start(t, Options{Node: "a"})
			publish(t, d, endpoint("web", "i2.http"))
			had := watch(t, d, Consumer{Workload: "had", Has: []string{"i1.http", "i2.http"}}, require)
			report := d.Drain(t.Context(), []string{"i1.http"}, time.Millisecond)
			if len(report.Pending) != 1 || report.Pending[0].Workload != "had" {
				t.Fatalf("got %+v", report)
			}
			_, revision := had.Current()
			had.Ack(revision)
			if report = d.Drain(t.Context(), []string{"i1.http"}, time.Minute); len(report.Pending) > 0 {
				t.Fatalf("got %+v", report)
			}
		})
	}
}

// TestDrainWaitsForOtherNodes, and names those that do not answer.
func TestDrainWaitsForOtherNodes(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a", Lease: longLease, Heartbeat: shortBeat}), site.start(t, Options{Node: "b", Heartbeat: shortBeat})
	seen := watch(t, b, Consumer{Workload: "seen"}, all)
	publish(t, a, endpoint("web", "i1.http"), endpoint("web", "i2.http"))
	await(t, seen, "i1.http", "i2.http")
	awaitNode(t, a, "b")
	report := a.Drain(t.Context(), []string{"i1.http"}, time.Millisecond)
	for len(report.Pending) == 1 && report.Pending[0].Workload == "node b" { // which was slow
		report = a.Drain(t.Context(), []string{"i1.http"}, time.Millisecond)
	}
	if len(report.Pending) != 1 || report.Pending[0].Workload != "seen" {
		t.Fatalf("got %+v", report)
	}
	acknowledge(t, seen)
	if report = a.Drain(t.Context(), []string{"i2.http"}, time.Minute); len(report.Pending) > 0 {
		t.Fatalf("got %+v", report)
	}
	t.Log("drained after", report.Waited)
	b.stop()
	if report = a.Drain(t.Context(), []string{"i2.http"}, time.Millisecond); len(report.Pending) != 1 || report.Pending[0].Workload != "node b" {
		t.Fatalf("got %+v", report)
	}
}

// awaitNode waits until one node has heard of another.
func awaitNode(t testing.TB, d *node, name string) {
	t.Helper()
	for limit := time.After(patience); ; {
		if slices.Contains(d.others(), name) {
			return
		}
		select {
		case <-time.After(shortBeat):
		case <-limit:
			t.Fatalf("node %s is not known", name)
		}
	}
}
