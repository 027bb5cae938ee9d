package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	nodes "github.com/mayfly-run/mayfly/node"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// soak is a node under a mixed load whose daemon is killed and restarted.
type soak struct {
	*node
	// upset is odd while the daemon is being ended and started, and counts up
	// with each. What overlaps with that may fail at the connection.
	upset atomic.Int64
	calls, failed,
	containers, deploys atomic.Int64
	release atomic.Int64 // the newest of "web" that a deploy was told of
}

// TestSoak runs for MAYFLY_SOAK (make soak; 10 minutes there) and is skipped
// without. Every call gets its answer unless the daemon was ended meanwhile,
// what was acknowledged is there after each restart, and in the end nothing is
// left.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("MAYFLY_SOAK"))
	if err != nil {
		t.Skip("this takes its time: make soak SOAK=10m")
	}
	address := "127.0.0.1:" + freePort(t) // the same for every daemon
	s := &soak{node: start(t, "--http", address, "--waiting", "4")}
	s.url = "http://" + address
	before, goroutines := s.unladen()
	s.deployAll()
	end := time.Now().Add(length)
	round := 0
	for ; time.Now().Before(end) && !t.Failed(); round++ {
		s.round(round, min(time.Until(end), time.Duration(5+rand.IntN(15))*time.Second))
	}
	t.Logf("%d rounds: %d calls (%d of them ended with the daemon), %d containers, %d deploys",
		round, s.calls.Load(), s.failed.Load(), s.containers.Load(), s.deploys.Load())

	s.deleteAll()
	s.settles(before)
	if n := s.goroutines(); n > goroutines+10 {
		t.Errorf("%d goroutines, %d in the beginning", n, goroutines)
	}
	s.again()
	log, _ := os.ReadFile(s.dir + "/log")
	if bytes.Contains(log, []byte("level=ERROR")) || bytes.Contains(log, []byte("panic:")) {
		t.Errorf("the daemon logged errors:\n%s", log)
	}
}

// unladen says what a daemon at rest has once it has done each thing, and
// starts another.
func (s *soak) unladen() (holdings, int) {
	s.t.Helper()
	fresh := s.holdings()
	s.deployAll()
	for _, f := range s.functions() {
		if status, got, err := s.echo(f, []byte("x")); status != http.StatusOK || err != nil {
			s.t.Fatalf("%s: %d %s, %v", f, status, got, err)
		}
	}
	if err := s.container("first", 1, 0); err != nil {
		s.t.Fatal(err)
	}
	s.deleteAll()
	fresh.files = 1 << 20 // some are opened once and kept
	s.settles(fresh)
	h := s.holdings()
	n := s.goroutines() // which ends the daemon
	s.again()
	return h, n
}

func (s *soak) deleteAll() {
	s.t.Helper()
	for _, f := range s.functions() {
		if err := s.DeleteWorkload(s.t.Context(), f); err != nil {
			s.t.Error(err)
		}
	}
}

// again starts the daemon where the last one served.
func (s *soak) again() {
	s.t.Helper()
	url := s.url
	s.up()
	s.url = url
}

// round has every client at work for a while, ends the daemon at a moment of
// chance, starts it, and goes on.
func (s *soak) round(number int, length time.Duration) {
	ctx, stop := context.WithTimeout(s.t.Context(), length)
	defer stop()
	var clients sync.WaitGroup
	for _, f := range s.functions() {
		clients.Go(func() { s.caller(ctx, f) })
	}
	for i := range 2 {
		clients.Go(func() { s.runner(ctx, fmt.Sprintf("c%d-%d", number, i)) })
	}
	clients.Go(func() { s.deployer(ctx) })

	select {
	case <-time.After(time.Duration(rand.Int64N(int64(length) + 1))):
	case <-ctx.Done():
	}
	s.upset.Add(1)
	how := "killed"
	if rand.IntN(2) == 0 {
		s.kill()
	} else {
		how = "stopped"
		s.node.stop()
	}
	began := time.Now()
	// url is the clients' to read meanwhile, so not the fields but a copy of
	// the node is what up changes.
	n := *s.node
	n.up()
	s.cmd = n.cmd
	s.upset.Add(1)
	took := time.Since(began)
	clients.Wait()
	s.t.Logf("round %d: %s, the daemon was ready again after %v, %d calls so far", number, how, took.Round(time.Millisecond), s.calls.Load())
	s.nothingLost()
}

// calm says whether the daemon was up since upset was asked for.
func (s *soak) calm(since int64) bool { return since%2 == 0 && s.upset.Load() == since }

// functions has one for each protocol, in each isolation that it can have.
func (s *soak) functions() []string {
	return []string{"web", "web-kept", "py", "py-kept", "stdio", "cgi"}
}

func (s *soak) deployAll() {
	s.t.Helper()
	code := func(name, text string) string {
		digest, err := s.PutCode(s.t.Context(), bytes.NewReader(tarOf(s.t, map[string]string{name: text})))
		if err != nil {
			s.t.Fatal(err)
		}
		return digest
	}
	host := func(name, code string, w mayfly.Workload) {
		w.Name, w.Stack, w.Code = name, "host", code
		w.Routes = []mayfly.Route{{Host: name + ".test", Path: "/"}}
		if _, err := s.Deploy(s.t.Context(), w, "", func(client.Progress) {}); err != nil {
			s.t.Fatalf("deploy %s: %v", name, err)
		}
	}
	s.node.deploy(mayfly.Workload{Name: "web"})
	s.node.deploy(mayfly.Workload{Name: "web-kept", Isolation: mayfly.IsolationInstance})
	s.node.deploy(mayfly.Workload{Name: "stdio", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"cat"}}})
	py := "def handle(event, context):\n    return event\n"
	host("py", code("main.py", py), mayfly.Workload{Protocol: mayfly.Handler, Handler: "main.handle"})
	host("py-kept", code("main.py", py), mayfly.Workload{Protocol: mayfly.Handler, Handler: "main.handle", Isolation: mayfly.IsolationInstance})
	sh := "printf 'Content-Type: text/plain\\r\\n\\r\\n'\nexec cat\n"
	host("cgi", code("echo.cgi", sh), mayfly.Workload{Protocol: mayfly.CGI, Process: mayfly.Process{Command: []string{"/bin/sh", "/app/echo.cgi"}}})
}

// caller has a function echo bodies of any length.
func (s *soak) caller(ctx context.Context, function string) {
	for ctx.Err() == nil {
		body := bytes.Repeat([]byte("mayfly "), 1+rand.IntN(1<<rand.IntN(15)))
		since := s.upset.Load()
		status, got, err := s.echo(function, body)
		s.calls.Add(1)
		if status == http.StatusOK && err == nil && bytes.Equal(got, body) {
			continue
		}
		if s.calm(since) { // goes on: how often says much
			s.t.Errorf("%s, %d bytes, after %d restarts: %d %s, %v", function, len(body), since/2, status, got, err)
		}
		s.failed.Add(1)
		time.Sleep(20 * time.Millisecond)                          // leaves the processor to the daemon that starts
		if err == nil && status != http.StatusServiceUnavailable { // an answer must be whole, or say why not
			s.t.Errorf("%s, while the daemon ended: %d %.200s (%d of %d bytes)", function, status, got, len(got), len(body))
		}
	}
}

func (s *soak) echo(function string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	resp, err := s.request(ctx, "POST", function, "/echo", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, got, err
}

// runner makes containers as `mayfly run` and `mayfly rm` do. Whatever was
// acknowledged is so after a restart as well.
func (s *soak) runner(ctx context.Context, name string) {
	for i := 0; ctx.Err() == nil; i++ {
		if err := s.container(fmt.Sprintf("%s-%d", name, i), rand.IntN(8), rand.IntN(100)); err != nil {
			s.t.Error(err)
			return
		}
		s.containers.Add(1)
	}
}

func (s *soak) container(name string, lines, code int) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	script := fmt.Sprintf("for i in $(seq %d); do echo $i; sleep 0.1; done; exit %d", lines, code)
	since := s.upset.Load()
	in, err := s.CreateInstance(ctx, mayfly.InstanceSpec{Name: name, Image: "app", Process: mayfly.Process{Command: []string{"sh", "-c", script}}}, "")
	if err == nil {
		err = s.StartInstance(ctx, in.ID)
	}
	if err != nil {
		if s.calm(since) {
			return fmt.Errorf("start %s: %w", name, err)
		}
		return s.withDaemon(ctx, func() error { return s.gone(ctx, name) })
	}
	err = s.withDaemon(ctx, func() error {
		in, err := s.WaitInstance(ctx, name)
		if err == nil && (in.Exit == nil || in.Exit.Code != code) {
			err = fmt.Errorf("ended with %+v, %d expected", in.Exit, code)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", name, err)
	}
	var want, got strings.Builder
	for i := range lines {
		fmt.Fprintln(&want, i+1)
	}
	err = s.withDaemon(ctx, func() error {
		got.Reset()
		return s.InstanceLogs(ctx, name, mayfly.LogOptions{Tail: -1}, func(e mayfly.LogEntry) error {
			got.Write(e.Data)
			return nil
		})
	})
	if err != nil || got.String() != want.String() {
		return fmt.Errorf("the log of %s is %q, %v; not %q", name, got.String(), err, want.String())
	}
	return s.withDaemon(ctx, func() error { return s.gone(ctx, name) })
}

func (s *soak) gone(ctx context.Context, name string) error {
	err := s.RemoveInstance(ctx, name, true)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil
	}
	return err
}

// withDaemon does something again for as long as the daemon was away.
func (s *soak) withDaemon(ctx context.Context, do func() error) error {
	for {
		since := s.upset.Load()
		err := do()
		if err == nil || s.calm(since) || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// deployer makes new releases of "web". They are numbered, and none that was
// acknowledged is forgotten.
func (s *soak) deployer(ctx context.Context) {
	for ctx.Err() == nil {
		since := s.upset.Load()
		rel, err := s.Deploy(s.t.Context(), mayfly.Workload{
			Name: "web", Image: "app",
			Process: mayfly.Process{Command: []string{"/app"}, Env: map[string]string{"VALUE": strconv.Itoa(rand.Int())}},
			Routes:  []mayfly.Route{{Host: "web.test", Path: "/"}},
		}, "", func(client.Progress) {})
		switch {
		case err == nil && int64(rel.Number) <= s.release.Load():
			s.t.Errorf("release %d of web came after release %d", rel.Number, s.release.Load())
		case err == nil:
			s.deploys.Add(1)
			s.release.Store(int64(rel.Number))
		case s.calm(since):
			s.t.Errorf("deploy: %v", err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// nothingLost looks at the record when no client is at work: every run has an
// end, the functions and the newest release are there, and no container is.
func (s *soak) nothingLost() {
	s.t.Helper()
	for _, f := range s.functions() {
		rel, err := s.GetWorkload(s.t.Context(), f)
		if err != nil || f == "web" && int64(rel.Number) < s.release.Load() {
			s.t.Errorf("%s is at release %d, %v; web was at %d", f, rel.Number, err, s.release.Load())
		}
		s.within(10*time.Second, func() error {
			runs, err := s.ListRuns(s.t.Context(), f, 200)
			for _, r := range runs {
				if r.Exit == nil {
					err = errors.Join(err, fmt.Errorf("run %s of %s has no end", r.ID, f))
				}
			}
			return err
		})
	}
	if left, err := s.ListInstances(s.t.Context(), true); err != nil || len(left) > 0 {
		s.t.Errorf("containers left: %+v, %v", left, err)
	}
}

// within asks until there is no error, for what happens off the path.
func (s *soak) within(limit time.Duration, do func() error) {
	s.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Errorf("after %v: %v", limit, err)
			return
		}
	}
}

// holdings is what a daemon at rest has of the machine.
type holdings struct {
	mounts, cgroups, cables, sandboxes, namespaces, processes, files int
}

func (s *soak) holdings() holdings {
	s.t.Helper()
	token := nodes.Token(s.dir + "/data")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	h := holdings{mounts: strings.Count(string(mounts), s.dir)}
	groups := map[string]bool{}
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "mayfly-"+token+"/") {
			groups[path] = true
		}
		return nil
	})
	count := func(pattern string) int {
		found, _ := filepath.Glob(pattern)
		return len(found)
	}
	pid := strconv.Itoa(s.cmd.Process.Pid)
	h.cgroups = len(groups)
	h.cables = count("/sys/class/net/mf-" + token + "/brif/*")
	h.sandboxes = count(s.dir+"/data/sandboxes/*") + count(s.dir+"/data/volatile/*")
	own := map[string]bool{}
	files, _ := filepath.Glob("/proc/" + pid + "/fd/*")
	for _, f := range files {
		if to, _ := os.Readlink(f); strings.HasPrefix(to, "net:[") || strings.HasPrefix(to, "/proc/") && strings.HasSuffix(to, "/ns/net") {
			own[f] = true
		}
	}
	h.files, h.namespaces = len(files), len(own)
	children, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	h.processes = len(strings.Fields(string(children)))
	return h
}

// settles waits until the daemon has no more than it had.
func (s *soak) settles(before holdings) {
	s.t.Helper()
	http.DefaultClient.CloseIdleConnections()
	s.Close()
	s.within(time.Minute, func() error {
		now := s.holdings()
		if now.mounts > before.mounts || now.cgroups > before.cgroups || now.cables > before.cables || now.sandboxes > before.sandboxes ||
			now.namespaces > before.namespaces || now.processes > before.processes || now.files > before.files+8 {
			return fmt.Errorf("left over: %+v, in the beginning %+v", now, before)
		}
		return nil
	})
	s.t.Logf("in the beginning %+v, in the end %+v", before, s.holdings())
}

// goroutines has the daemon say what each of its goroutines does, which ends
// it, and counts them.
func (s *soak) goroutines() int {
	s.t.Helper()
	http.DefaultClient.CloseIdleConnections()
	s.Close()
	info, err := os.Stat(s.dir + "/log")
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Process.Signal(syscall.SIGQUIT)
	s.cmd.Wait()
	log, err := os.ReadFile(s.dir + "/log")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Truncate(s.dir+"/log", info.Size()); err != nil {
		s.t.Fatal(err)
	}
	return strings.Count(string(log[info.Size():]), "\ngoroutine ")
}
