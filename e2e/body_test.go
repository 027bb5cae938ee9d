package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// TestABodyThatNobodyReads: a function may answer before it has read what it is
// sent, and whatever it leaves, its client sees the answer, the next request on
// the connection comes through, and the node lives.
func TestABodyThatNobodyReads(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "deaf", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"echo", "hello"}}})
	n.deploy(mayfly.Workload{Name: "web", Process: mayfly.Process{Command: []string{"/app", "http"}}})
	n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance, Process: mayfly.Process{Command: []string{"/app", "http"}}})
	for _, function := range []string{"deaf", "web", "kept"} {
		for _, size := range []int{10, 100_000, 300_000, 3_000_000} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/%v", function, size, chunked), func(t *testing.T) {
					n.with(t).deaf(function, size, chunked)
				})
			}
		}
		t.Run(function+"/a client that stalls", func(t *testing.T) { n.with(t).stalls(function) })
	}
}

// deaf sends bodies over one connection, if it is left open, to a function that
// does not read them.
func (n *node) deaf(function string, size int, chunked bool) {
	transport := &http.Transport{MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	for range 4 {
		var body io.Reader = bytes.NewReader(make([]byte, size))
		if chunked {
			body = io.MultiReader(body) // of no known length
		}
		req, err := http.NewRequestWithContext(n.t.Context(), "POST", n.url+"/touch", body)
		if err != nil {
			n.t.Fatal(err)
		}
		req.Host = function + ".test"
		resp, err := transport.RoundTrip(req)
		if err != nil {
			n.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			n.t.Errorf("status %d, %v", resp.StatusCode, err)
		}
		resp.Body.Close()
	}
}

// stalls announces a body, sends a part of it, and waits for the answer.
func (n *node) stalls(function string) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /touch HTTP/1.1\r\nHost: %s.test\r\nContent-Length: 1000000\r\n\r\nonly this", function)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		n.t.Errorf("status %d, %v", resp.StatusCode, err)
	}
	// What comes now is the rest of the body, and no request.
	fmt.Fprint(conn, "GET /touch HTTP/1.1\r\nHost: web.test\r\n\r\n")
	if resp, err := http.ReadResponse(br, nil); err == nil {
		n.t.Errorf("a part of a body was answered with status %d", resp.StatusCode)
	}
}

// TestAProgramThatHangsUp: an instance that closes its idle connections, as many
// servers do, serves the next request and the next task all the same.
func TestAProgramThatHangsUp(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	n.deploy(mayfly.Workload{
		Name: "kept", Isolation: mayfly.IsolationInstance, Process: mayfly.Process{Env: map[string]string{"HANG_UP": "20ms"}},
		Mounts: []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}},
	})
	answered := 0
	hungUp := func() { // else it may hang up on what comes at that moment, which nobody may send twice
		t.Helper()
		answered++
		n.until("it has hung up", func() bool {
			data, err := os.ReadFile(filepath.Join(shared, "connections"))
			return err == nil && strings.Count(string(data), "idle\n") == answered && strings.Count(string(data), "closed\n") == answered
		})
	}
	for i := range 6 {
		if status, body, _ := n.post("kept", "/echo", strings.NewReader("x")); status != http.StatusOK || body != "x" {
			t.Errorf("request %d: %d %s", i, status, body)
		}
		hungUp()
		if task := n.waitTask(n.submit(mayfly.Submission{Workload: "kept", Payload: []byte("x")}).ID); task.State != mayfly.TaskSucceeded {
			t.Errorf("task %d: %+v", i, task)
		}
		hungUp()
	}
}
