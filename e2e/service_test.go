package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// serve deploys a service of the image "app".
func (n *node) serve(w mayfly.Workload) mayfly.Release {
	n.t.Helper()
	if w.Image == "" {
		w.Image = "app"
	}
	if w.Command == nil && len(w.Entrypoint) == 0 {
		w.Command = []string{"/app"}
	}
	if w.Service == nil {
		w.Service = &mayfly.Service{}
	}
	rel, err := n.Deploy(n.t.Context(), w, "", func(client.Progress) {})
	if err != nil {
		n.t.Fatalf("deploy %s: %v", w.Name, err)
	}
	return rel
}

// instancesOf lists the running containers of a service, oldest first.
func (n *node) instancesOf(service string) []mayfly.Instance {
	n.t.Helper()
	all, err := n.ListInstances(n.t.Context(), false)
	if err != nil {
		n.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(in mayfly.Instance) bool { return in.Workload != service || in.State != mayfly.Running })
}

// patience is how long a test waits for what has to come: other tests run beside it.
const patience = 2 * time.Minute

// until polls for something that has no event of its own.
func (n *node) until(what string, done func() bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func (n *node) execLog(in mayfly.Instance) string {
	n.t.Helper()
	var b strings.Builder
	if err := n.InstanceLogs(n.t.Context(), in.ID, mayfly.LogOptions{Tail: -1}, func(e mayfly.LogEntry) error {
		b.Write(e.Data)
		return nil
	}); err != nil {
		n.t.Fatal(err)
	}
	return b.String()
}

// ask asks a program in a container at its own address.
func (n *node) ask(in mayfly.Instance, port int, path string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s:%d%s", in.Address, port, path), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	var resp *http.Response
	n.until(in.Name+" listens", func() bool {
		resp, err = http.DefaultClient.Do(req)
		return !errors.Is(err, syscall.ECONNREFUSED)
	})
	if err != nil {
		n.t.Fatalf("ask %s %s: %v", in.Name, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("ask %s %s: %v", in.Name, path, err)
	}
	return strings.TrimSpace(string(text))
}

// told is the nth news that a consumer had: when, and which endpoints there were.
func (n *node) told(consumer mayfly.Instance, nth int) (at time.Time, endpoints string) {
	n.t.Helper()
	text, endpoints, _ := strings.Cut(n.ask(consumer, 8080, fmt.Sprintf("/told?n=%d", nth)), " ")
	if text == "" { // not by on_change
		return time.Time{}, ""
	}
	return nano(n.t, text), endpoints
}

// one waits until a service has one running container, and returns it.
func (n *node) one(service string) mayfly.Instance {
	n.t.Helper()
	var list []mayfly.Instance
	n.until(service+" runs once", func() bool { list = n.instancesOf(service); return len(list) == 1 })
	return list[0]
}

var tellExec = mayfly.OnChange{Exec: []string{"/app", "tell"}}

// consumer deploys one that requires db and says what it is told of it, which it
// can from when it listens.
func (n *node) consumer(name string, change mayfly.OnChange) mayfly.Instance {
	n.t.Helper()
	n.serve(mayfly.Workload{
		Name: name, Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}},
		Requires: []mayfly.Require{{Name: "db", Service: "db", OnChange: change}},
		Provides: []mayfly.Provide{{Name: "http", Port: 8080}},
	})
	n.until(name+" listens", func() bool { return n.ready(name) })
	return n.one(name)
}

// often is a probe that notices at once what a program says, and on a busy machine
// does not take an answer that is late for one.
func often(path string) *mayfly.Probe {
	return &mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: path}, Every: 50 * time.Millisecond, Timeout: patience, Failures: 1}
}

// provider deploys a db that is asked for its health often, and returns when it is on
// record as ready.
func (n *node) provider() mayfly.Instance {
	n.t.Helper()
	startup := often("/well")
	startup.Grace = time.Hour
	n.serveGated(mayfly.Workload{
		Name: "db", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Resources: mayfly.Resources{Memory: 64 << 20},
		Provides: []mayfly.Provide{{Name: "db", Port: 8080, Protocol: "http", Ready: often("/well")}},
		Service:  &mayfly.Service{Startup: startup, Live: often("/alive")},
	})
	n.until("db is ready", func() bool { return n.ready("db") })
	return n.one("db")
}

// serveGated deploys a service whose containers listen only when they may, which they
// do at first. Who forbids it before the end of one knows that all else that follows
// from the end comes before there is the next one.
func (n *node) serveGated(w mayfly.Workload) {
	n.t.Helper()
	n.mayStart(true)
	w.Command = []string{"sh", "-c", "until [ -e /gate/open ]; do sleep 0.02; done; exec /app"}
	w.Mounts = []mayfly.Mount{{Type: "bind", Source: n.gate(), Target: "/gate"}}
	n.serve(w)
}

func (n *node) gate() string { return filepath.Join(n.dir, "gate") }

// mayStart says whether what serveGated has deployed may listen from now on.
func (n *node) mayStart(may bool) {
	n.t.Helper()
	err := os.MkdirAll(n.gate(), 0o755)
	if open := filepath.Join(n.gate(), "open"); err == nil && may {
		err = os.WriteFile(open, nil, 0o600)
	} else if err == nil {
		err = os.Remove(open)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// shared is a directory that containers have as /shared.
func (n *node) shared() (dir string, mounts []mayfly.Mount) {
	n.t.Helper()
	dir = n.t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		n.t.Fatal(err)
	}
	return dir, []mayfly.Mount{{Type: "bind", Source: dir, Target: "/shared"}}
}

// touch makes an empty file.
func (n *node) touch(path ...string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(path...), nil, 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// A consumer starts when its provider is ready, and neither notices a daemon that
// is killed.
func TestServicesFindEachOther(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: []string{"sh", "-c", `echo started with $DB_URL; while true; do sleep 1; done`}},
		Requires: []mayfly.Require{{Name: "db", Service: "db", OnChange: mayfly.OnChange{Restart: true}}},
	})
	n.serve(mayfly.Workload{Name: "db", Provides: []mayfly.Provide{{Name: "db", Protocol: "mysql"}}})
	web, db := n.one("web"), n.one("db")
	n.until("web says what it knows", func() bool { return strings.Contains(n.execLog(web), "started with mysql://"+db.Address) })
	n.until("both are on record as ready", func() bool { return n.ready("web") && n.ready("db") })

	n.kill()
	n.up()
	if n.one("web").ID != web.ID || n.one("db").ID != db.ID {
		t.Fatal("a service was started again with the daemon")
	}
	if err := n.KillInstance(t.Context(), db.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.until("db is back", func() bool { return n.one("db").ID != db.ID })
	db = n.one("db")
	n.until("web is back, and says what it knows", func() bool {
		now := n.one("web")
		return now.ID != web.ID && strings.Contains(n.execLog(now), "started with mysql://"+db.Address)
	})
}

// However a provider goes, its consumers are told at once, and again when it is
// back; a daemon that comes back in time changes nothing for them.
func TestConsumersAreToldOfEveryDeath(t *testing.T) {
	for _, death := range []struct {
		name string
		of   func(n *node, db mayfly.Instance) time.Time // returns when it died
	}{
		{"it exits", func(n *node, db mayfly.Instance) time.Time { n.bid(db, "/exit?code=0"); return n.endOf(db) }},
		{"it fails", func(n *node, db mayfly.Instance) time.Time { n.bid(db, "/exit"); return n.endOf(db) }},
		{"it is killed", func(n *node, db mayfly.Instance) time.Time {
			if err := n.KillInstance(n.t.Context(), db.ID, syscall.SIGKILL); err != nil {
				n.t.Fatal(err)
			}
			return n.endOf(db)
		}},
		{"it eats all its memory", func(n *node, db mayfly.Instance) time.Time { n.bid(db, "/eat"); return n.endOf(db) }},
		{"it is not ready", func(n *node, db mayfly.Instance) time.Time { return nano(n.t, n.ask(db, 8080, "/well?ok=false")) }},
		{"it is not alive", func(n *node, db mayfly.Instance) time.Time { return nano(n.t, n.ask(db, 8080, "/alive?ok=false")) }},
		{"it is stopped", func(n *node, db mayfly.Instance) time.Time {
			at := time.Now()
			if err := n.StopInstance(n.t.Context(), db.ID, 10*time.Second); err != nil {
				n.t.Fatal(err)
			}
			return at
		}},
	} {
		t.Run(death.name, func(t *testing.T) {
			n := start(t)
			db := n.provider()
			web := n.consumer("web", tellExec)
			n.kill()
			n.up()
			n.mayStart(false)
			died := death.of(n, db)
			at, endpoints := n.told(web, 0)
			if endpoints != "" {
				t.Fatalf("web is told of %q", endpoints)
			}
			t.Logf("told after %s", at.Sub(died))
			n.mayStart(true)
			if death.name == "it is not ready" {
				n.ask(db, 8080, "/well?ok=true")
			}
			_, endpoints = n.told(web, 1)
			if db = n.one("db"); endpoints != db.Address+":8080" {
				t.Fatalf("web is told of %q, and db is at %s", endpoints, db.Address)
			}
			n.awaitOnChange(web)
			n.until("db is on record as ready", func() bool { return n.ready("db") })
			n.stop()
			n.up()
			if n.one("web").ID != web.ID {
				t.Error("the consumer was not the same all the time")
			}
			n.bid(web, "/tell")
			if at, endpoints := n.told(web, 2); !at.IsZero() {
				t.Errorf("a daemon that came back told it of %q", endpoints)
			}
			if n.one("db").ID != db.ID {
				t.Error("db was started again with the daemon")
			}
		})
	}
}

// awaitOnChange waits until no on_change is owed to a consumer: what a daemon does
// not come to the next one does.
func (n *node) awaitOnChange(consumer mayfly.Instance) {
	n.t.Helper()
	files := filepath.Join(n.dir, "data", "volatile", ".run", consumer.ID)
	if _, err := os.Stat(filepath.Join(files, "endpoints.json")); err != nil {
		n.t.Fatal(err)
	}
	n.until("on_change has ended", func() bool {
		_, err := os.Stat(filepath.Join(files, ".endpoints.json"))
		return os.IsNotExist(err)
	})
}

// bid asks for something that ends the program, and so has no answer: once, for at
// the same address there may be the next one.
func (n *node) bid(in mayfly.Instance, path string) {
	fresh := http.Transport{DisableKeepAlives: true} // a connection that was used before is tried again
	c := http.Client{Transport: &fresh}
	if resp, err := c.Get(fmt.Sprintf("http://%s:8080%s", in.Address, path)); err == nil {
		resp.Body.Close()
	}
}

// endOf waits for the end of an instance and says when it was.
func (n *node) endOf(in mayfly.Instance) time.Time {
	n.t.Helper()
	in, err := n.WaitInstance(n.t.Context(), in.ID)
	if err != nil {
		n.t.Fatal(err)
	}
	return in.Exit.Time
}

func nano(t testing.TB, text string) time.Time {
	t.Helper()
	ns, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%q is no time", text)
	}
	return time.Unix(0, ns)
}

// A function's containers know what it requires as it is when a run begins, and a
// call waits for it.
func TestFunctionsRequireServices(t *testing.T) {
	n := start(t)
	deployed := make(chan struct{})
	go func() { // waits until there is a db
		defer close(deployed)
		_, err := n.Deploy(t.Context(), mayfly.Workload{
			Name: "f", Image: "app", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"sh", "-c", "echo $DB_ENDPOINTS"}},
			Requires: []mayfly.Require{{Name: "db", Service: "db"}},
		}, "", func(client.Progress) {})
		if err != nil {
			t.Error(err)
		}
	}()
	db := n.provider()
	<-deployed
	for range 3 {
		resp, err := n.Call(t.Context(), "f", client.Call{})
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := strings.TrimSpace(string(text)); got != db.Address+":8080" {
			t.Fatalf("the function knows of %q, and db is at %s", got, db.Address)
		}
		if err := n.KillInstance(t.Context(), db.ID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.endOf(db)
		db = n.one("db")
	}
	resp, err := n.Call(t.Context(), "db", client.Call{})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a call of a service was answered with %s", resp.Status)
	}
}
