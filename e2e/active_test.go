package e2e

import (
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// Of a service with one active replica only that one has endpoints. It stays
// active when the daemon is killed, and another takes over when it ends.
func TestOneReplicaIsActive(t *testing.T) {
	n := start(t)
	n.serveGated(mayfly.Workload{
		Name: "db", Provides: []mayfly.Provide{{Name: "db", Port: 0, Protocol: "mysql"}},
		Scale: mayfly.Scale{Min: 2, Active: 1}, Service: &mayfly.Service{},
	})
	n.until("one is active, the other stands by", func() bool { ready, standby, _ := n.activity("db"); return ready != nil && standby != nil })
	both := n.instancesOf("db")
	if len(both) != 2 {
		t.Fatalf("there are %+v", both)
	}
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: []string{"sh", "-c", `echo "started with $DB_ENDPOINTS" > /tmp/told; exec tail -f /tmp/told`}},
		Requires: []mayfly.Require{{Name: "db", Service: "db", All: true, OnChange: mayfly.OnChange{Exec: []string{"sh", "-c", `echo "told of $DB_ENDPOINTS." >> /tmp/told`}}}},
	})
	n.until("web runs", func() bool { return n.ready("web") })
	web := n.one("web")
	n.until("web says what it knows", func() bool { return strings.Contains(n.execLog(web), "started with ") })
	knows := func() string {
		lines := strings.Split(strings.TrimSpace(n.execLog(web)), "\n")
		return lines[len(lines)-1]
	}
	isActive := func(in mayfly.Instance) bool { return strings.Contains(knows(), in.Address+":") }
	active, other := both[0], both[1]
	if isActive(other) {
		active, other = other, active
	}
	if !isActive(active) || isActive(other) {
		t.Fatalf("of %s and %s web knows %q", active.Address, other.Address, knows())
	}
	before := n.execLog(web)

	n.kill()
	n.up()
	n.mayStart(false)
	if err := n.KillInstance(t.Context(), active.ID, 9); err != nil {
		t.Fatal(err)
	}
	n.until("the other takes over", func() bool { return isActive(other) })
	told := strings.TrimPrefix(n.execLog(web), before)
	t.Logf("web knew %q, and then %q", before, told)
	if strings.Contains(told, active.Address+":") {
		t.Error("the daemon's restart was a change")
	}
}

// activity finds a replica of a service in each of these states.
func (n *node) activity(service string) (ready, standby, unready *mayfly.ReplicaStatus) {
	n.t.Helper()
	s, err := n.GetService(n.t.Context(), service)
	if err != nil {
		n.t.Fatal(err)
	}
	for i, r := range s.Replicas {
		switch r.State {
		case mayfly.ReplicaReady:
			ready = &s.Replicas[i]
		case mayfly.ReplicaStandby:
			standby = &s.Replicas[i]
		case mayfly.ReplicaUnready:
			unready = &s.Replicas[i]
		}
	}
	return ready, standby, unready
}

// The active replica stays it while it runs, also when it is not ready: what it
// does might go on. The other one takes over when it has ended.
func TestAnActiveReplicaThatIsNotReadyIsNotReplaced(t *testing.T) {
	n := start(t)
	n.serveGated(mayfly.Workload{
		Name: "db", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}},
		Provides: []mayfly.Provide{{Name: "db", Port: 8080, Protocol: "http", Ready: often("/well")}},
		Scale:    mayfly.Scale{Min: 2, Active: 1}, Service: &mayfly.Service{},
	})
	var was, other *mayfly.ReplicaStatus
	n.until("one is active", func() bool { was, other, _ = n.activity("db"); return was != nil && other != nil })
	active, err := n.GetInstance(t.Context(), was.Instance)
	if err != nil {
		t.Fatal(err)
	}
	web := n.consumer("web", tellExec)
	wants := func(nth int, address string) {
		t.Helper()
		if _, endpoints := n.told(web, nth); endpoints != address {
			t.Fatalf("web is told of %q, want %q", endpoints, address)
		}
	}
	n.ask(active, 8080, "/well?ok=false")
	wants(0, "")
	n.until("it is not ready", func() bool { _, _, unready := n.activity("db"); return unready != nil })
	n.awaitOnChange(web)
	n.kill() // and the next daemon knows it
	n.up()
	n.until("one stands by again", func() bool { _, standby, _ := n.activity("db"); return standby != nil })
	if ready, _, _ := n.activity("db"); ready != nil {
		t.Fatalf("replica %d is active beside one that runs", ready.Number)
	}
	n.ask(active, 8080, "/well?ok=true")
	wants(1, active.Address+":8080")
	n.ask(active, 8080, "/well?ok=false")
	wants(2, "")
	n.mayStart(false)
	if err := n.KillInstance(t.Context(), active.ID, 9); err != nil {
		t.Fatal(err)
	}
	wants(3, other.Address+":8080")
}
