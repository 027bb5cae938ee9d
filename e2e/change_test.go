package e2e

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Whatever on_change says, a consumer knows in the end: where its command fails or
// hangs, it is started again with what is new.
func TestOnChange(t *testing.T) {
	for _, c := range []struct {
		name   string
		change mayfly.OnChange
		same   bool // the container stays
		news   string
	}{
		{"a command", tellExec, true, "/app ran in"},
		{"a command that fails", mayfly.OnChange{Exec: []string{"sh", "-c", "echo no such table; exit 3"}}, false, "failed with exit code 3: no such table"},
		{"a command that hangs", mayfly.OnChange{Exec: []string{"sleep", "1000"}, Timeout: 300 * time.Millisecond}, false, "did not end within 300ms"},
		{"a command that is not there", mayfly.OnChange{Exec: []string{"/nothing"}}, false, "/nothing failed with exit code 127"},
		{"a signal", mayfly.OnChange{Signal: "URG"}, true, "it was sent URG"},
		{"a restart", mayfly.OnChange{Restart: true}, false, "it is restarted"},
		{"nothing", mayfly.OnChange{}, true, "its files were replaced"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := start(t)
			db := n.provider()
			web := n.consumer("web", c.change)
			n.bid(db, "/exit")
			n.endOf(db)
			n.until("db is back", func() bool { l := n.instancesOf("db"); return len(l) == 1 && l[0].ID != db.ID })
			db = n.one("db")
			n.until("the news says so", func() bool { return strings.Contains(n.newsOf("web"), c.news) })
			n.until("web, the same or another, knows", func() bool {
				l := n.instancesOf("web")
				return len(l) == 1 && (l[0].ID == web.ID) == c.same &&
					strings.Contains(n.inside(l[0], "cat", "/run/mayfly/env"), "DB_ENDPOINTS="+db.Address+":8080")
			})
		})
	}
}

// slowConsumer deploys web, which requires db and is told of it for as long as there
// is a file hold in the directory shared; each time is a line of its file told.
func (n *node) slowConsumer() (web mayfly.Instance, shared string) {
	n.t.Helper()
	shared = n.t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "hold"), nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}},
		Mounts: []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}},
		Requires: []mayfly.Require{{Name: "db", Service: "db", OnChange: mayfly.OnChange{
			Exec: []string{"sh", "-c", "echo told of $DB_ENDPOINTS >>/shared/told; while [ -e /shared/hold ]; do sleep 0.05; done"}, Timeout: time.Hour,
		}}},
	})
	n.until("web runs", func() bool { return n.ready("web") })
	return n.one("web"), shared
}

// Who was not told to the end, for the daemon died meanwhile, is told by the next
// one, and by that alone.
func TestOnChangeOutlivesTheDaemon(t *testing.T) {
	n := start(t)
	db := mayfly.Workload{
		Name: "db", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Provides: []mayfly.Provide{{Name: "db", Port: 8080}},
		Service: &mayfly.Service{Restart: mayfly.Restart{Policy: mayfly.RestartNever}},
	}
	n.serve(db)
	provider := n.one("db")
	web, shared := n.slowConsumer()
	n.bid(provider, "/exit")
	n.until("web is being told", func() bool { return begun(t, shared, "told") == 1 })
	n.kill()
	os.Remove(filepath.Join(shared, "hold"))
	n.up()
	n.until("it was told", func() bool { return strings.Contains(n.newsOf("web"), "sh ran in") })
	if got := begun(t, shared, "told"); got != 2 {
		t.Errorf("on_change ran %d times", got)
	}
	n.awaitOnChange(web)
	n.kill()
	n.up()
	db.Env = map[string]string{"PORT": "8080", "NEW": "1"}
	n.serve(db)
	n.until("web is told of the next one", func() bool {
		data, err := os.ReadFile(filepath.Join(shared, "told"))
		return err == nil && strings.HasSuffix(string(data), ":8080\n")
	})
	if got := begun(t, shared, "told"); got != 3 {
		t.Errorf("on_change ran %d times, where 3 were due", got)
	}
	if n.one("web").ID != web.ID {
		t.Error("web was started again")
	}
}

// A drain outlives the daemon: a provider that was to stop is not provided again,
// and still waits for those that have not turned away.
func TestADrainOutlivesTheDaemon(t *testing.T) {
	n := start(t)
	db := mayfly.Workload{
		Name: "db", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Provides: []mayfly.Provide{{Name: "db", Port: 8080}},
		Service: &mayfly.Service{DrainWait: time.Hour},
	}
	n.serve(db)
	old := n.one("db")
	_, shared := n.slowConsumer()
	db.Env = map[string]string{"PORT": "8080", "NEW": "1"}
	n.serve(db)
	n.until("web is being told", func() bool { return begun(t, shared, "told") == 1 })
	for run := 2; run <= 3; run++ {
		n.kill()
		n.up()
		n.until("web is told again", func() bool { return begun(t, shared, "told") == run })
		if len(n.instancesOf("db")) != 2 {
			t.Fatalf("the old db ended while web had not turned away; its news: %s", n.newsOf("db"))
		}
	}
	os.Remove(filepath.Join(shared, "hold"))
	next := n.one("db")
	if next.ID == old.ID {
		t.Error("the new db has ended")
	}
	if data, err := os.ReadFile(filepath.Join(shared, "told")); err != nil || string(data) != strings.Repeat("told of "+next.Address+":8080\n", 3) {
		t.Errorf("web was told %q, %v; db is at %s", data, err, next.Address)
	}
}

// So it does where the service is deleted and nothing else is known of it.
func TestADrainOfADeletedServiceOutlivesTheDaemon(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "db", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Provides: []mayfly.Provide{{Name: "db", Port: 8080}},
		Service: &mayfly.Service{DrainWait: time.Hour},
	})
	old := n.one("db")
	_, shared := n.slowConsumer()
	if err := n.DeleteWorkload(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	n.until("web is being told", func() bool { return begun(t, shared, "told") == 1 })
	for run := 2; run <= 3; run++ {
		n.kill()
		n.up()
		n.until("web is told again", func() bool { return begun(t, shared, "told") == run })
		if l := n.instancesOf("db"); len(l) != 1 || l[0].ID != old.ID {
			t.Fatalf("db ended while web had not turned away; its news: %s", n.newsOf("db"))
		}
	}
	os.Remove(filepath.Join(shared, "hold"))
	n.until("db is gone", func() bool { return len(n.instancesOf("db")) == 0 })
	if text := n.newsOf("db"); !strings.Contains(text, "its consumers have turned away") {
		t.Errorf("the news says %s", text)
	}
	n.until("its replica is forgotten", func() bool {
		l, err := n.ListServices(t.Context())
		return err == nil && !slices.ContainsFunc(l, func(s mayfly.Supervised) bool { return s.Name == "db" })
	})
}

// inside runs a command in a container and returns what it wrote; nothing where
// the container has just ended.
func (n *node) inside(in mayfly.Instance, argv ...string) string {
	n.t.Helper()
	x, err := n.Exec(n.t.Context(), in.ID, mayfly.ExecSpec{Command: argv})
	if err != nil {
		return ""
	}
	defer x.Close()
	var out strings.Builder
	x.Stream(n.t.Context(), nil, &out, io.Discard)
	return out.String()
}

// A provider that is stopped waits for its consumers, and not for ever: that they
// were late is on record.
func TestADrainThatRunsOutIsRecorded(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "db", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Provides: []mayfly.Provide{{Name: "db", Port: 8080}},
		Service: &mayfly.Service{DrainWait: 300 * time.Millisecond},
	})
	n.one("db")
	web := n.consumer("web", mayfly.OnChange{Exec: []string{"sleep", "1000"}, Timeout: time.Hour})
	n.until("web knows", func() bool { return strings.Contains(n.inside(web, "cat", "/run/mayfly/env"), "DB_HOST") })
	if err := n.DeleteWorkload(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	n.until("db is gone", func() bool { return len(n.instancesOf("db")) == 0 })
	n.until("it says what web lacks", func() bool {
		s, err := n.GetService(t.Context(), "web")
		return err == nil && len(s.Replicas) == 1 && s.Replicas[0].State == mayfly.ReplicaReady && strings.Contains(s.Replicas[0].Reason, "service db, which is not deployed")
	})
	if text := n.newsOf("db"); !strings.Contains(text, "1 consumers have not turned away within 300ms: web") {
		t.Errorf("the news says %s", text)
	}
}

// A program that cannot be executed is never said to be ready.
func TestWhatCannotBeExecutedIsNeverReady(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{Name: "typo", Process: mayfly.Process{Command: []string{"/ap"}}})
	n.until("it waits before it is tried again", func() bool {
		s, err := n.GetService(t.Context(), "typo")
		return err == nil && len(s.Replicas) == 1 && s.Replicas[0].Failures > 3
	})
	if text := n.newsOf("typo"); strings.Contains(text, "service.ready") || !strings.Contains(text, "cannot execute /ap") {
		t.Errorf("the news says %s", text)
	}
}

// A container knows who and where it is, by file and by the API.
func TestContainersKnowThemselves(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "db", App: "shop", Labels: map[string]string{"tier": "data"}, Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}},
		Service: &mayfly.Service{Ports: []mayfly.Port{{Container: 8080}}},
	})
	in := n.one("db")
	var file, asked mayfly.Identity
	var id struct{ ID string }
	text := n.inside(in, "cat", "/run/mayfly/self.json")
	if err := json.Unmarshal([]byte(text), &file); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	json.Unmarshal([]byte(text), &id)
	answer := n.ask(in, 8080, "/ask?method=GET&path=/v1/self")
	_, answer, _ = strings.Cut(answer, " ")
	if err := json.NewDecoder(strings.NewReader(answer)).Decode(&asked); err != nil {
		t.Fatalf("%q: %v", answer, err)
	}
	if id.ID != in.ID || asked.Instance != in.ID {
		t.Errorf("it takes itself for %q and %q, and is %s", id.ID, asked.Instance, in.ID)
	}
	for _, self := range []mayfly.Identity{file, asked} {
		if self.Node == "" || self.App != "shop" || self.Workload != "db" || self.Replica != 1 || self.Release != 1 || self.Labels["tier"] != "data" ||
			self.Address != in.Address || self.External == "" || len(self.Ports) != 1 || self.Ports[0].Host != in.Ports[0].Host || self.Ports[0].Host == 0 {
			t.Errorf("it knows %+v, and is %+v", self, in)
		}
	}
}
