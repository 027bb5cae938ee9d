package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// A program that reads an address once keeps it: it leads to whoever provides
// now, also while the daemon is away, and the program is neither told nor started
// again.
func TestAddressStaysWhileProvidersChange(t *testing.T) {
	n := start(t)
	db := n.provider()
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}},
		Requires: []mayfly.Require{{Name: "db", Service: "db", Proxy: true}},
		Provides: []mayfly.Provide{{Name: "http", Port: 8080}},
	})
	web := n.one("web")
	n.until("web is ready", func() bool { return n.ready("web") })
	fetch := func() string { return n.ask(web, 8080, "/fetch?path=/hostname") }
	const want = "db-1 <nil>"
	if got := fetch(); got != want {
		t.Fatalf("web was answered %q", got)
	}
	n.kill()
	if got := fetch(); got != want {
		t.Errorf("while the daemon is away, web was answered %q", got)
	}
	n.up()
	if err := n.KillInstance(t.Context(), db.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := fetch(); got != want && !strings.HasPrefix(got, "error: ") {
		t.Errorf("while db is away, web was answered %q", got)
	}
	n.until("web reaches the next db", func() bool { return fetch() == want })
	if now := n.one("db"); now.ID == db.ID || now.Address == db.Address {
		t.Errorf("db was %s at %s and is %s at %s", db.ID, db.Address, now.ID, now.Address)
	}
	if n.one("web").ID != web.ID {
		t.Error("web was started again")
	}
}

// Services that share no network do not reach each other's addresses, and those
// that share one do; what is required is reached all the same.
func TestServicesOfOtherNetworksAreOutOfReach(t *testing.T) {
	n := start(t)
	serve := func(name string, reqs []mayfly.Require, networks ...string) mayfly.Instance {
		n.serve(mayfly.Workload{
			Name: name, App: "shop", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}},
			Provides: []mayfly.Provide{{Name: "http", Port: 8080, Protocol: "http"}}, Requires: reqs,
			Service: &mayfly.Service{Networks: networks},
		})
		n.until(name+" is ready", func() bool { return n.ready(name) })
		return n.one(name)
	}
	db := serve("db", nil, "back")
	same := serve("same", []mayfly.Require{{Name: "db", Service: "db"}}, "back", "front")
	other := serve("other", []mayfly.Require{{Name: "db", Service: "db"}}, "front")
	for _, in := range []mayfly.Instance{same, other} {
		if got := n.ask(in, 8080, "/fetch?path=/hostname"); got != "db-1 <nil>" {
			t.Errorf("%s was answered %q by what it requires", in.Name, got)
		}
	}
	n.until("it is reached from the same network", func() bool { return n.ask(same, 8080, "/reach?to="+db.Address+":8080") == "reached" })
	if got := n.ask(other, 8080, "/reach?to="+db.Address+":8080"); !strings.Contains(got, "timeout") {
		t.Errorf("of another network: %s", got)
	}
	n.kill()
	n.up()
	if got := n.ask(other, 8080, "/reach?to="+db.Address+":8080"); !strings.Contains(got, "timeout") {
		t.Errorf("of another network, after the daemon was killed: %s", got)
	}
}

// ready reports whether all replicas of a service are ready.
func (n *node) ready(service string) bool {
	n.t.Helper()
	all, err := n.ListServices(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == service {
			return len(s.Replicas) > 0 && !slices.ContainsFunc(s.Replicas, func(r mayfly.ReplicaStatus) bool { return r.State != mayfly.ReplicaReady })
		}
	}
	return false
}
