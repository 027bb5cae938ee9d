// Package e2e tries the whole platform as its users have it: the real binary,
// the real kernel, and kill -9.
package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/network"
	nodes "github.com/mayfly-run/mayfly/node"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// binary and app are built once for all tests.
var binary, app string

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("SKIP: the end-to-end tests need root")
		return
	}
	if binary, app = os.Getenv("MAYFLY_BINARY"), os.Getenv("MAYFLY_APP"); binary != "" && app != "" {
		os.Exit(m.Run()) // built beforehand, where there is no Go
	}
	dir, err := os.MkdirTemp("", "mayfly-e2e-")
	if err != nil {
		panic(err)
	}
	binary, app = dir+"/mayfly", dir+"/app"
	build(dir+"/mayfly-init", "-ldflags", "-s -w -E main.entry", "github.com/mayfly-run/mayfly/cmd/mayfly-init")
	overlay := fmt.Sprintf(`{"Replace":{%q:%q}}`, initPath(), dir+"/mayfly-init")
	if err := os.WriteFile(dir+"/overlay.json", []byte(overlay), 0o600); err != nil {
		panic(err)
	}
	build(binary, "-overlay", dir+"/overlay.json", "github.com/mayfly-run/mayfly/cmd/mayfly")
	build(app, "github.com/mayfly-run/mayfly/e2e/app")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func initPath() string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Join(filepath.Dir(wd), "cmd/mayfly/init/mayfly-init")
}

func build(out string, args ...string) {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", out}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		panic(string(b))
	}
}

// node is a daemon with a data directory of its own.
type node struct {
	*client.Client
	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
	url  string // where it serves functions
}

// start runs a node with the image "app" for the length of a test.
func start(t testing.TB, args ...string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "mf-")
	if err != nil {
		t.Fatal(err)
	}
	return startIn(t, dir, args...)
}

// startIn is start with a directory that is removed in the end.
func startIn(t testing.TB, dir string, args ...string) *node {
	t.Helper()
	n := &node{t: t, dir: dir, args: args}
	n.up()
	var err error
	if n.Client, err = client.New("unix://" + dir + "/api.sock"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.remove)
	if _, err := n.ImportImage(t.Context(), "app", bytes.NewReader(appImage(t)), 0); err != nil {
		t.Fatal(err)
	}
	return n
}

// promised are the ports that freePort has returned and nobody has given back.
var promised sync.Map

// freePort returns a port that nothing listens on. It chooses below those that the
// kernel gives to who asks for any, and by chance: other tests do not take it
// meanwhile.
func freePort(t testing.TB) string {
	t.Helper()
	for {
		port := strconv.Itoa(15000 + rand.IntN(15000))
		if _, taken := promised.LoadOrStore(port, true); taken {
			continue
		}
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
}

// up starts the daemon and waits until it is ready.
func (n *node) up() {
	n.t.Helper()
	port := freePort(n.t)
	address := "127.0.0.1:" + port
	n.url = "http://" + address
	args := append([]string{"up", "--data", n.dir + "/data", "--api", "unix://" + n.dir + "/api.sock", "--http", address, "--log-level", "warn"}, n.args...)
	n.cmd = exec.Command(binary, args...)
	log, err := os.OpenFile(n.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) // not ours: it would keep go test waiting
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.cmd.Stderr = log
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		log, _ := os.ReadFile(n.dir + "/log")
		n.t.Fatalf("the daemon said %q, %v, and logged:\n%s", line, err, log)
	}
	promised.Delete(port) // it is listened on
}

// kill ends the daemon as a crash would.
func (n *node) kill() {
	n.cmd.Process.Signal(syscall.SIGKILL)
	n.cmd.Wait()
}

// stop ends the daemon as an upgrade would.
func (n *node) stop() {
	n.t.Helper()
	n.cmd.Process.Signal(syscall.SIGTERM)
	if err := n.cmd.Wait(); err != nil {
		n.t.Errorf("the daemon ended with %v", err)
	}
}

func (n *node) remove() {
	if n.t.Failed() {
		n.tellNews()
	}
	if n.cmd.ProcessState != nil {
		n.up() // for what it has left running
	}
	err := n.Down(context.Background(), func(client.Progress) {})
	if err != nil {
		n.t.Errorf("down: %v", err)
		n.kill()
	}
	n.cmd.Wait()
	n.Close()
	if err == nil {
		n.nothingLeft()
	}
	if n.t.Failed() {
		log, _ := os.ReadFile(n.dir + "/log")
		n.t.Logf("the daemon logged:\n%s", log)
	}
	if err := network.Destroy(nodes.Token(n.dir + "/data")); err != nil {
		n.t.Error(err)
	}
	os.RemoveAll(n.dir)
}

// tellNews logs what the node decided and why, and how its services are, as far as
// it still answers.
func (n *node) tellNews() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	list, err := n.ListNews(ctx, client.NewsFilter{})
	if err != nil {
		n.t.Logf("the news: %v", err)
	}
	for _, news := range list[max(0, len(list)-50):] {
		n.t.Logf("%s %s %s: %s", news.Time.Format("15:04:05.000"), news.Subject, news.Type, news.Text)
	}
	services, err := n.ListServices(ctx)
	if err != nil {
		n.t.Logf("the services: %v", err)
	}
	for _, s := range services {
		for _, r := range s.Replicas {
			n.t.Logf("%s/%d is %s since %s at %s: %s", r.Workload, r.Number, r.State, r.Since.Format("15:04:05.000"), r.Address, r.Reason)
		}
	}
}

// deploy makes a function of the image "app", unless w says another.
func (n *node) deploy(w mayfly.Workload) mayfly.Release {
	n.t.Helper()
	if w.Image == "" && w.Stack == "" {
		w.Image = "app"
	}
	if w.Command == nil {
		w.Command = []string{"/app"}
	}
	w.Routes = append(w.Routes, mayfly.Route{Host: w.Name + ".test", Path: "/"})
	rel, err := n.Deploy(n.t.Context(), w, "", func(client.Progress) {})
	if err != nil {
		n.t.Fatalf("deploy %s: %v", w.Name, err)
	}
	return rel
}

// request asks a function over HTTP.
func (n *node) request(ctx context.Context, method, function, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.url+path, body)
	if err != nil {
		return nil, err
	}
	req.Host = function + ".test"
	return http.DefaultClient.Do(req)
}

// get asks a function and returns the status, the body and the run.
func (n *node) get(function, path string) (int, string, string) {
	n.t.Helper()
	return n.post(function, path, nil)
}

func (n *node) post(function, path string, body io.Reader) (int, string, string) {
	n.t.Helper()
	method := "GET"
	if body != nil {
		method = "POST"
	}
	resp, err := n.request(n.t.Context(), method, function, path, body)
	if err != nil {
		n.t.Fatalf("ask %s%s: %v", function, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("read the answer of %s%s (%d): %v", function, path, resp.StatusCode, err)
	}
	return resp.StatusCode, string(data), resp.Header.Get("X-Mayfly-Run")
}

// appImage is a root with busybox and the app.
func appImage(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "run"} {
		w.WriteHeader(&tar.Header{Name: d + "/", Mode: 0o755, Typeflag: tar.TypeDir})
	}
	for name, from := range map[string]string{"bin/busybox": "/bin/busybox", "app": app} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatalf("%v; apt-get install busybox-static", err)
		}
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg})
		w.Write(data)
	}
	for a := range strings.FieldsSeq("sh cat echo sleep true seq date hostname wc rm") {
		w.WriteHeader(&tar.Header{Name: "bin/" + a, Linkname: "busybox", Mode: 0o777, Typeflag: tar.TypeSymlink})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// runOf waits until a run is on record and returns it. The record is written
// after the response.
func (n *node) runOf(id string) (r mayfly.Run) {
	n.t.Helper()
	n.until("run "+id+" is on record", func() bool {
		var err error
		if r, err = n.GetRun(n.t.Context(), id); err != nil && mayfly.KindOf(err) != mayfly.NotFound {
			n.t.Fatal(err)
		}
		return err == nil && r.Exit != nil
	})
	return r
}

func (n *node) runLog(id string) string {
	n.t.Helper()
	var b strings.Builder
	err := n.RunLogs(n.t.Context(), id, mayfly.LogOptions{Tail: -1, Follow: true}, func(e mayfly.LogEntry) error {
		b.Write(e.Data)
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return b.String()
}
