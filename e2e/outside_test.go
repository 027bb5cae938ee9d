package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// A service waits for what Mayfly does not run, is told when that is gone and when
// it is back, and does not notice that the daemon was killed.
func TestServicesUseWhatIsOutside(t *testing.T) {
	n := start(t)
	listen := func(address string) net.Listener {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	crm := listen("127.0.0.1:" + freePort(t)) // which nothing takes while it is closed
	address := crm.Addr().(*net.TCPAddr)
	script := `while true; do now=$(cat /run/mayfly/endpoints.json); test "$now" = "$last" || echo "told of $now"; last=$now; sleep 0.02; done`
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: []string{"sh", "-c", "echo started with $CRM_URL; " + script}},
		Requires: []mayfly.Require{{Name: "crm", Service: "crm"}},
	})
	if _, err := n.AddEndpoint(t.Context(), client.EndpointRequest{
		Name: "crm", Address: "127.0.0.1", Port: uint16(address.Port), Protocol: "mysql",
		Checks: []mayfly.Probe{{TCP: &mayfly.TCPProbe{}, Every: 200 * time.Millisecond, Timeout: time.Minute, Failures: 1}},
	}); err != nil {
		t.Fatal(err)
	}
	n.until("web runs", func() bool { return len(n.instancesOf("web")) == 1 })
	web := n.instancesOf("web")[0]
	n.until("web knows it", func() bool { return strings.Contains(n.execLog(web), "started with mysql://"+address.String()) })
	told := func(times int) func() bool {
		return func() bool { return strings.Count(n.execLog(web), "told of {") == times }
	}

	n.until("web has said so", told(1))
	n.kill()
	n.up()
	n.until("the endpoint is there", func() bool {
		e, err := n.GetEndpoint(t.Context(), "crm")
		return err == nil && e.Ready
	})
	if log := n.execLog(web); strings.Count(log, "told of") != 1 {
		t.Errorf("it was told of a restart: %s", log)
	}
	began := time.Now()
	crm.Close()
	n.until("web is told that it is gone", told(2))
	t.Log("told that it is gone after", time.Since(began), "(asked every 200ms)")
	began = time.Now()
	listen(address.String())
	n.until("web is told that it is back", told(3))
	t.Log("told that it is back after", time.Since(began))
	said := strings.Split(n.execLog(web), "told of {")
	if url := "mysql://" + address.String(); len(said) != 4 || strings.Contains(said[2], url) || !strings.Contains(said[3], url) {
		t.Errorf("it said %q", said)
	}
}

// A container adds an endpoint of its own at its socket, which goes with it.
func TestContainersAddEndpoints(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "web", Provides: []mayfly.Provide{{Name: "http", Port: 8080}}, Process: mayfly.Process{
			Env: map[string]string{"PORT": "8080"}, Command: []string{"sh", "-c", `/app ask POST /v1/self/endpoints '{"name":"admin","port":8080,"role":"console"}'; exec /app`},
		},
	})
	own := func() []mayfly.EndpointStatus {
		list, err := n.ListEndpoints(t.Context(), client.EndpointFilter{Role: "console"})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	n.until("it is there", func() bool { l := own(); return len(l) == 1 && l[0].Ready })
	web := n.instancesOf("web")[0]
	if e := own()[0]; e.ID != web.ID+".admin" || e.Address != web.Address || e.Service != "web" {
		t.Errorf("it is %+v", e)
	}
	if err := n.KillInstance(t.Context(), web.ID, 9); err != nil {
		t.Fatal(err)
	}
	n.until("it is the next container's", func() bool { l := own(); return len(l) == 1 && l[0].Ready && l[0].Instance != web.ID })
}
