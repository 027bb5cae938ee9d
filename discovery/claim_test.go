package discovery

import (
	"net"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// deploy makes a workload be there.
func deploy(t testing.TB, s *store.Store, name string) {
	t.Helper()
	rel, err := s.PutRelease(t.Context(), mayfly.Workload{Space: "default", Name: name, Service: &mayfly.Service{}}, "sha256:0")
	if err == nil {
		_, err = s.SetWorkload(t.Context(), "default", name, rel.Number, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestGuestDoesNotPassForAService: it is refused the name of a workload that is
// there, and loses that of one which is deployed later, for good.
func TestGuestDoesNotPassForAService(t *testing.T) {
	site := newSite(t)
	d := site.start(t, Options{Node: "a"})
	deploy(t, site.store, "payments")
	c := greet(t, lineServer(t, d, Guest{}, LineOptions{}), `{}`)
	c.refused("register", `{"service":"payments","port":1}`, mayfly.Denied)

	s := watch(t, d, Consumer{}, mayfly.Require{Service: "billing", Port: AnyPort, All: true})
	var id lineID
	c.ok("register", `{"service":"billing","port":1,"ttl":"1m"}`, &id)
	await(t, s, id.ID)
	deploy(t, site.store, "billing")
	await(t, s)
	c.refused("register", `{"service":"billing","port":1}`, mayfly.Denied)
	if list, _ := s.Current(); len(list) > 0 {
		t.Errorf("it is back: %+v", list)
	}
}

// TestOwnEndpointsDoNotPassForOthers: a container adds to its own service, and to
// names that nobody has.
func TestOwnEndpointsDoNotPassForOthers(t *testing.T) {
	site := newSite(t)
	d := site.start(t, Options{Node: "a"})
	o, _ := startOutside(t, d)
	ln := listenAt(t, "127.0.0.1:0")
	deploy(t, site.store, "web")
	deploy(t, site.store, "web-1")
	add(t, o, "crm", mayfly.OutsideEndpoint{Endpoint: mayfly.Endpoint{Space: "default", Service: "mysql", Address: "192.0.2.1", Port: 3306}})
	in := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Name: "web-1", Workload: "web", State: mayfly.Running, Address: "127.0.0.1", Replica: 1, Node: "a"}
	if _, err := site.store.PutInstance(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	who := mayfly.Identity{Space: "default", Instance: in.ID, Workload: "web"}
	own := func(name, service string) error {
		e := mayfly.OutsideEndpoint{Endpoint: mayfly.Endpoint{Service: service, Port: uint16(ln.Addr().(*net.TCPAddr).Port)}}
		_, err := o.AddOwn(t.Context(), who, name, e)
		return err
	}
	for _, service := range []string{"web-1", "mysql"} {
		if err := own("x", service); mayfly.KindOf(err) != mayfly.Denied {
			t.Errorf("it passes for %s: %v", service, err)
		}
	}
	s := watch(t, d, Consumer{}, mayfly.Require{Service: "metrics", Port: AnyPort, All: true})
	if err := own("m", "metrics"); err != nil {
		t.Fatal(err)
	}
	await(t, s, in.ID+".m")
	deploy(t, site.store, "metrics")
	await(t, s)
	until(site.store.Outside, func() bool { return len(site.store.Outside.List("")) == 1 })
}

// TestOwnChecksAreFew: a container does not keep the node busy with asking.
func TestOwnChecksAreFew(t *testing.T) {
	tcp := mayfly.Probe{TCP: &mayfly.TCPProbe{}}
	often := tcp
	often.Every = leastEvery
	for want, checks := range map[mayfly.Kind][]mayfly.Probe{
		mayfly.Invalid: {often},
		mayfly.Denied:  {{Exec: []string{"reboot"}}},
	} {
		if err := checkOwn(checks); mayfly.KindOf(err) != want {
			t.Errorf("%+v: %v", checks, err)
		}
	}
	if err := checkOwn([]mayfly.Probe{tcp, tcp, tcp, tcp, tcp}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("five checks: %v", err)
	}
	if err := checkOwn([]mayfly.Probe{tcp}); err != nil {
		t.Error(err)
	}
}
