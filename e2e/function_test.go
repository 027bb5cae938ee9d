package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func TestFunctions(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "web", Resources: mayfly.Resources{Memory: 64 << 20}, Timeout: patience})
	n.deploy(mayfly.Workload{Name: "cat", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"cat"}}, MaxBody: 1 << 20})

	t.Run("EveryCallHasAContainerOfItsOwn", func(t *testing.T) {
		seen := map[string]bool{}
		for range 5 {
			_, body, _ := n.get("web", "/touch")
			count, host, _ := strings.Cut(body, " ")
			if count != "1" || seen[host] {
				t.Errorf("got %q after %v", body, seen)
			}
			seen[host] = true
		}
	})
	t.Run("AnInstanceServesManyCallsWhereAsked", func(t *testing.T) {
		n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance})
		calls := map[string]int{}
		for range 8 {
			_, body, _ := n.get("kept", "/touch")
			count, host, _ := strings.Cut(body, " ")
			calls[host]++
			if count != fmt.Sprint(calls[host]) {
				t.Errorf("%q after %v", body, calls)
			}
		}
		if len(calls) != 1 {
			t.Errorf("eight calls in turn had %d containers", len(calls))
		}
		if kept := n.waitingFor("kept"); kept != 1 {
			t.Errorf("%d containers are kept for calls in turn", kept)
		}
	})
	t.Run("BodiesStreamBothWays", func(t *testing.T) { n.with(t).streams("web") })
	t.Run("AnotherProtocolPassesThrough", func(t *testing.T) { n.with(t).upgrades("web") })
	t.Run("AClientThatLeavesEndsTheRun", func(t *testing.T) { n.with(t).leaves("web") })
	t.Run("StdioGivesBackWhatItRead", func(t *testing.T) {
		body := strings.Repeat("0123456789abcdef", 60_000)
		if status, got, _ := n.post("cat", "/", strings.NewReader(body)); status != 200 || got != body {
			t.Errorf("status %d, %d bytes of %d", status, len(got), len(body))
		}
	})
	t.Run("HeadersOfTheClientsOwnAreNotTrusted", func(t *testing.T) {
		req, _ := http.NewRequest("GET", n.url+"/headers", nil)
		req.Host = "web.test"
		req.Header.Set("X-Mayfly-Space", "other")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		for _, want := range []string{"X-Mayfly-Space: default", "X-Mayfly-Run: " + resp.Header.Get("X-Mayfly-Run"), "X-Forwarded-For: 127.0.0.1"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%q is missing in\n%s", want, b)
			}
		}
		if st := resp.Header.Get("Server-Timing"); !strings.Contains(st, "sandbox;dur=") {
			t.Errorf("Server-Timing: %q", st)
		}
	})
	t.Run("EveryEndHasAReason", func(t *testing.T) { n.with(t).reasons() })
	t.Run("ADeployThatCannotListenSaysWhy", func(t *testing.T) {
		_, err := n.Deploy(t.Context(), mayfly.Workload{
			Name: "web", Image: "app", Process: mayfly.Process{Command: []string{"/app", "never-listens"}},
		}, "", func(client.Progress) {})
		if mayfly.KindOf(err) != mayfly.Failed || !strings.Contains(err.Error(), "I will not listen") || !strings.Contains(err.Error(), "exit code 3") {
			t.Errorf("got %v", err)
		}
		if status, _, _ := n.get("web", "/touch"); status != 200 {
			t.Errorf("the release before answers %d", status)
		}
	})
}

// waitingFor counts the containers of a function, by what they are told about
// themselves.
func (n *node) waitingFor(function string) int {
	n.t.Helper()
	told, err := filepath.Glob(n.dir + "/data/volatile/*/run/self.json")
	if err != nil {
		n.t.Fatal(err)
	}
	count := 0
	for _, path := range told {
		if text, _ := os.ReadFile(path); strings.Contains(string(text), fmt.Sprintf(`"workload":%q`, function)) {
			count++
		}
	}
	return count
}

func TestNoneWaitsWhereNoneShall(t *testing.T) {
	n := start(t, "--waiting", "-1")
	n.deploy(mayfly.Workload{Name: "web"})
	n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance})
	none := func() {
		t.Helper()
		n.until("none waits", func() bool { return n.waitingFor("web")+n.waitingFor("kept") == 0 }) // they are taken down off the path
	}
	none()
	for _, f := range []string{"web", "kept"} {
		if status, body, _ := n.get(f, "/touch"); status != 200 {
			t.Errorf("%d %s", status, body)
		}
	}
	none()
}

// with lets a subtest fail in its own name.
func (n *node) with(t *testing.T) *node {
	c := *n
	c.t = t
	return &c
}

func (n *node) streams(function string) {
	pr, pw := io.Pipe()
	resp, err := n.request(n.t.Context(), "POST", function, "/echo", pr)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 5)
	for _, word := range []string{"hello", "again", "there"} {
		io.WriteString(pw, word)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != word {
			n.t.Fatalf("sent %q, got %q, %v", word, buf, err)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		n.t.Errorf("then %q, %v", rest, err)
	}
}

func (n *node) upgrades(function string) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /upgrade HTTP/1.1\r\nHost: %s.test\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n", function)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		n.t.Fatalf("got %v, %v", resp, err)
	}
	fmt.Fprintln(conn, "one")
	if line, err := br.ReadString('\n'); line != "> one\n" {
		n.t.Errorf("got %q, %v", line, err)
	}
}

func (n *node) leaves(function string) {
	ctx, cancel := context.WithCancel(n.t.Context())
	resp, err := n.request(ctx, "GET", function, "/ticks", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	br := bufio.NewReader(resp.Body)
	for range 6 {
		if _, err := br.ReadString('\n'); err != nil {
			n.t.Fatal(err)
		}
	}
	cancel()
	resp.Body.Close()
	if r := n.runOf(resp.Header.Get("X-Mayfly-Run")); r.Exit.Reason != mayfly.Cancelled || r.Exit.Detail != "the client left" || r.Status != 200 {
		n.t.Errorf("the run ended with status %d as %+v", r.Status, r.Exit)
	}
}

func (n *node) reasons() {
	n.deploy(mayfly.Workload{Name: "quick", Timeout: 300 * time.Millisecond})
	n.deploy(mayfly.Workload{Name: "patient", Timeout: 300 * time.Millisecond, Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"cat"}}})
	n.deploy(mayfly.Workload{Name: "fails", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"sh", "-c", "echo why >&2; echo half; exit 5"}}})
	n.deploy(mayfly.Workload{Name: "early", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"echo", "early"}}, MaxBody: 1 << 20})
	n.deploy(mayfly.Workload{Name: "nowhere", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"no-such-program"}}})
	n.deploy(mayfly.Workload{Name: "count", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"wc", "-c"}}, MaxBody: 1 << 20})
	none := func() io.Reader { return nil }
	stalled := func() io.Reader {
		r, w := io.Pipe()
		n.t.Cleanup(func() { w.Close() })
		return r
	}
	large := strings.Repeat("x", 2<<20)
	announced := func() io.Reader { return strings.NewReader(large) }
	chunked := func() io.Reader { return io.MultiReader(announced()) }
	for _, tt := range []struct {
		function, path string
		body           func() io.Reader
		status         int
		text           string
		reason         mayfly.Reason
		detail         string // on record
		log            string
	}{
		{"web", "/touch", none, 200, "", mayfly.Succeeded, "", ""},
		{"web", "/status?code=404", none, 404, "", mayfly.ExitedNonZero, "status 404", ""},
		{"web", "/exit", none, 502, "exit code 7", mayfly.ExitedNonZero, "", "leaving"},
		{"web", "/exit?code=0", none, 502, "ended before it had answered", mayfly.ExitedNonZero, "before it had answered", ""},
		{"web", "/eat", none, 502, "ran out of memory", mayfly.OutOfMemory, "memory limit", ""},
		{"quick", "/sleep?for=1m", none, 504, "timeout of 300ms", mayfly.DeadlinePassed, "timeout of 300ms", ""},
		{"quick", "/count", stalled, 504, "timeout of 300ms", mayfly.DeadlinePassed, "timeout of 300ms", ""},
		{"patient", "/", stalled, 504, "timeout of 300ms", mayfly.DeadlinePassed, "timeout of 300ms", ""},
		{"fails", "/", none, 502, "exit code 5", mayfly.ExitedNonZero, "", "why"},
		{"nowhere", "/", none, 502, "cannot execute no-such-program", mayfly.ExitedNonZero, "cannot execute no-such-program", ""},
		{"early", "/", chunked, 200, "early", mayfly.Succeeded, "", ""},
		{"cat", "/", announced, 413, "takes 1048576 at most", mayfly.Rejected, "takes 1048576 at most", ""},
		{"count", "/", chunked, 413, "1048576 bytes", mayfly.Rejected, "1048576 bytes", ""},
	} {
		var status int
		var body, id string
		n.until(tt.function+" has a sandbox in time", func() bool {
			status, body, id = n.post(tt.function, tt.path, tt.body())
			return status != http.StatusTooManyRequests
		})
		if status != tt.status || !strings.Contains(body, tt.text) {
			n.t.Errorf("%s%s: %d %s", tt.function, tt.path, status, body)
		}
		if r := n.runOf(id); r.Exit.Reason != tt.reason || r.Status != tt.status || !strings.Contains(r.Exit.Detail, tt.detail) {
			n.t.Errorf("%s%s ended with status %d as %+v", tt.function, tt.path, r.Status, r.Exit)
		}
		if log := n.runLog(id); !strings.Contains(log, tt.log) {
			n.t.Errorf("%s%s logged %q", tt.function, tt.path, log)
		}
	}
	n.until("a run that came to write before its time ran out has its log", func() bool {
		status, _, id := n.get("quick", "/sleep?for=1m")
		n.runOf(id) // else its log may not be known yet
		return status == http.StatusGatewayTimeout && strings.Contains(n.runLog(id), "sleeping")
	})
	if status, body, _ := n.get("unknown", "/"); status != 404 || !strings.Contains(body, "no route") {
		n.t.Errorf("an unknown host: %d %s", status, body)
	}
}

func TestConcurrencyIsNeverExceeded(t *testing.T) {
	n := start(t)
	shared, mounts := n.shared()
	n.shell("few", `mkdir /shared/running.$MAYFLY_RUN; ls -d /shared/running.* | wc -l >/shared/seen.$MAYFLY_RUN; cat >/dev/null; rmdir /shared/running.$MAYFLY_RUN`,
		func(w *mayfly.Workload) { w.Concurrency, w.Timeout, w.Mounts = 3, patience, mounts })
	var all sync.WaitGroup
	var bodies []*io.PipeWriter
	for range 12 {
		r, w := io.Pipe()
		bodies = append(bodies, w)
		all.Go(func() {
			if status, body, _ := n.post("few", "/", r); status != 200 { // answered when the body has ended
				t.Errorf("%d %s", status, body)
			}
		})
	}
	files := func(kind string) []string {
		list, err := filepath.Glob(filepath.Join(shared, kind+".*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	n.until("three run at once", func() bool { return len(files("running")) == 3 })
	for _, w := range bodies {
		w.Close()
	}
	all.Wait()
	most := 0
	for _, f := range files("seen") {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var count int
		fmt.Sscan(string(text), &count)
		most = max(most, count)
	}
	if seen := len(files("seen")); most != 3 || seen != 12 {
		t.Errorf("%d at once, not 3, in %d runs", most, seen)
	}
}

// TestFiveHundredAtOnce: each gets its answer or is told when to come again.
func TestFiveHundredAtOnce(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "cat", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"cat"}}, Timeout: 10 * time.Minute})
	var ok, busy atomic.Int32
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			word := fmt.Sprint("call ", i)
			resp, err := n.request(t.Context(), "POST", "cat", "/", strings.NewReader(word))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			switch {
			case err != nil:
				t.Error(err)
			case resp.StatusCode == 200 && string(body) == word:
				ok.Add(1)
			case resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "":
				busy.Add(1)
			default:
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	all.Wait()
	if ok.Load()+busy.Load() != 500 || ok.Load() == 0 {
		t.Errorf("%d answered, %d refused", ok.Load(), busy.Load())
	}
	t.Logf("%d answered, %d told to come again", ok.Load(), busy.Load())
}
