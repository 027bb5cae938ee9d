package discovery

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Short leases for tests in which one runs out, and long ones for those in which
// none may.
const (
	shortBeat  = 10 * time.Millisecond
	shortLease = 200 * time.Millisecond
	longLease  = time.Hour
)

// patience is for a machine that does much else at the same time.
const patience = 2 * time.Minute

func requires(service string) mayfly.Require {
	return mayfly.Require{Name: service, Service: service, All: true}
}

func TestSilentNodeIsLost(t *testing.T) {
	site := newSite(t)
	a := site.start(t, Options{Node: "a", Heartbeat: shortBeat})
	b := site.start(t, Options{Node: "b", Heartbeat: shortBeat, Lease: shortLease})
	s := watch(t, b, Consumer{}, all)
	publish(t, a, endpoint("web", "i1.http"))
	publish(t, b, endpoint("web", "i2.http"))
	await(t, s, "i1.http", "i2.http")
	a.stop()
	t.Logf("with a lease of %v, told after %v", shortLease, await(t, s, "i2.http"))

	// Back too late, before it has published anything.
	site.start(t, Options{Node: "a", Heartbeat: shortBeat})
	t.Logf("back, told after %v", await(t, s, "i1.http", "i2.http"))
}

func TestNodeBackInTimeChangesNothing(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b", Lease: longLease})
	kept, left, other := watch(t, b, Consumer{}, requires("kept")), watch(t, b, Consumer{}, requires("left")), watch(t, b, Consumer{}, requires("other"))
	publish(t, a, endpoint("kept", "i1.http"), endpoint("left", "i2.http"))
	await(t, kept, "i1.http")
	await(t, left, "i2.http")
	a.stop()

	a = site.start(t, Options{Node: "a", Grace: longLease})
	own := watch(t, a, Consumer{}, requires("kept"))
	await(t, own, "i1.http") // before it is published again
	publish(t, a, endpoint("kept", "i1.http"), endpoint("other", "i3.http"))
	await(t, other, "i3.http")
	quiet(t, left)
	a.Settle()
	<-a.Settled()
	t.Log("what was not published again is gone after", await(t, left))
	quiet(t, kept)
	quiet(t, own)

	// A later start finds it as this one left it.
	a.stop()
	a = site.start(t, Options{Node: "a", Grace: longLease})
	await(t, watch(t, a, Consumer{}, requires("kept")), "i1.http")
	await(t, watch(t, a, Consumer{}, requires("left")))
}

func TestGraceEnds(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a"}), site.start(t, Options{Node: "b", Lease: longLease})
	s := watch(t, b, Consumer{}, all)
	publish(t, a, endpoint("web", "i1.http"))
	await(t, s, "i1.http")
	a.stop()
	a = site.start(t, Options{Node: "a", Grace: time.Millisecond})
	<-a.Settled()
	await(t, s)
}

// TestEngineOpenedAnew: the stream is gone with what was in it, as after the disk
// had been full, and the connection was lost.
func TestEngineOpenedAnew(t *testing.T) {
	site := newSite(t)
	a, b := site.start(t, Options{Node: "a", Heartbeat: shortBeat}), site.start(t, Options{Node: "b", Heartbeat: shortBeat, Lease: shortLease * 10})
	gone := site.start(t, Options{Node: "gone", Heartbeat: shortBeat})
	s, lost := watch(t, b, Consumer{}, all), watch(t, b, Consumer{}, requires("lost"))
	publish(t, a, endpoint("web", "i1.http"))
	publish(t, gone, endpoint("lost", "i9.http"))
	await(t, s, "i1.http")
	await(t, lost, "i9.http")
	gone.stop()

	js := site.bus.JetStream()
	if err := js.DeleteStream(t.Context(), bus.EndpointsStream); err != nil {
		t.Fatal(err)
	}
	connected := js.Conn().StatusChanged(nats.CONNECTED)
	defer js.Conn().RemoveStatusListener(connected)
	if err := js.Conn().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	<-connected
	// Nodes that join now see it, and those that were there saw no change.
	c := site.start(t, Options{Node: "c"})
	await(t, watch(t, c, Consumer{}, all), "i1.http")
	publish(t, a, endpoint("later", "i2.http"))
	await(t, watch(t, b, Consumer{}, requires("later")), "i2.http")
	await(t, lost)
	quiet(t, s)
}

// TestLeases goes through what the clock and heartbeats can do to a view.
func TestLeases(t *testing.T) {
	start := time.Unix(1e9, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	e := func(node string, epoch uint64) *vouched {
		end := endpoint("web", "x")
		end.Node = node
		return &vouched{Endpoint: end, epoch: epoch}
	}
	for _, test := range []struct {
		name string
		do   func(n *nodes)
		want string // the node by which x is vouched for
	}{
		{"a new node has a lease", func(n *nodes) { n.put("b", "x", e("b", 1), at(0)); n.expire(at(4)) }, "b"},
		{"it runs out", func(n *nodes) { n.put("b", "x", e("b", 1), at(0)); n.expire(at(5)) }, ""},
		{"it is renewed", func(n *nodes) { n.put("b", "x", e("b", 1), at(0)); n.heard("b", 1, at(3)); n.expire(at(7)) }, "b"},
		{"a former self does not renew it", func(n *nodes) {
			n.heard("b", 2, at(0))
			n.put("b", "x", e("b", 2), at(0))
			n.heard("b", 1, at(3))
			n.expire(at(7))
		}, ""},
		{"back late", func(n *nodes) { n.put("b", "x", e("b", 1), at(0)); n.expire(at(9)); n.heard("b", 1, at(10)) }, "b"},
		{"back late, and withdrawn meanwhile", func(n *nodes) {
			n.put("b", "x", e("b", 1), at(0))
			n.expire(at(9))
			n.put("b", "x", nil, at(9))
			n.heard("b", 1, at(10))
		}, ""},
		{"a former self's word comes late", func(n *nodes) { n.put("b", "x", e("b", 2), at(0)); n.put("b", "x", e("c", 1), at(0)) }, "b"},
		{"this node is not judged", func(n *nodes) { n.put("a", "x", e("a", 1), at(0)); n.expire(at(99)) }, "a"},
		{"this node's word counts", func(n *nodes) { n.put("a", "x", e("a", 1), at(0)); n.put("b", "x", e("b", 1), at(0)) }, "a"},
		{"else that of whoever is alive", func(n *nodes) {
			n.put("b", "x", e("b", 1), at(0))
			n.put("c", "x", e("c", 1), at(3))
			n.expire(at(5))
		}, "c"},
		{"one of two withdraws", func(n *nodes) {
			n.put("b", "x", e("b", 1), at(0))
			n.put("c", "x", e("c", 1), at(0))
			n.put("b", "x", nil, at(0))
		}, "c"},
		{"nobody could be heard", func(n *nodes) { n.put("b", "x", e("b", 1), at(0)); n.excuse(at(20)); n.expire(at(24)) }, "b"},
		{"read anew, and there", func(n *nodes) {
			n.put("b", "x", e("b", 1), at(0))
			n.sweep(at(0))
			n.heard("b", 1, at(3))
			n.put("b", "x", e("b", 1), at(3))
			n.expire(at(6))
		}, "b"},
		{"read anew, and not there", func(n *nodes) {
			n.put("b", "x", e("b", 1), at(0))
			n.sweep(at(0))
			n.heard("b", 1, at(3))
			n.expire(at(6))
		}, ""},
	} {
		n := newNodes("a", 5*time.Second)
		test.do(n)
		var got string
		if x := n.entries["x"]; x != nil {
			got = x.Node
		}
		if got != test.want {
			t.Errorf("%s: vouched for by %q, want %q", test.name, got, test.want)
		}
	}
}
