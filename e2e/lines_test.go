package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// A program that Mayfly does not run registers over the line protocol. A service
// that requires it starts then, and is told when the connection is reset.
func TestLineProtocol(t *testing.T) {
	address := "127.0.0.1:" + freePort(t)
	n := start(t, "--lines", address)
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: []string{"sh", "-c", `echo "started with $CRM_URL" > /tmp/told; exec tail -f /tmp/told`}},
		Requires: []mayfly.Require{{Name: "crm", Service: "crm", OnChange: mayfly.OnChange{Exec: []string{"sh", "-c", `echo "told of $CRM_URL." >> /tmp/told`}}}},
	})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(conn, "1 hello {\"name\": \"crm\", \"timeout\": \"1h\"}\n2 register {\"service\": \"crm\", \"protocol\": \"http\", \"address\": \"192.0.2.7\", \"port\": 80}\n")
	answers := bufio.NewReader(conn)
	for _, want := range []string{"1 ok ", "2 ok "} {
		if line, err := answers.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
			t.Fatalf("answered %q, %v", line, err)
		}
	}
	n.until("web runs", func() bool { return len(n.instancesOf("web")) == 1 })
	web := n.instancesOf("web")[0]
	n.until("web knows it", func() bool { return strings.Contains(n.execLog(web), "started with http://192.0.2.7:80") })
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	n.until("web is told", func() bool { return strings.Contains(n.execLog(web), "told of .") })
}
