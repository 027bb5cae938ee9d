package e2e

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// A secret reaches its service as a file, and in the environment on request, a
// daemon that is killed changes nothing, a change reaches it, and its value is
// found nowhere: not on the disk, in the log, an answer or a command line.
func TestSecretsAreNowhere(t *testing.T) {
	n := start(t)
	const marker = "marker-7c1f0a-secret"
	n.serve(mayfly.Workload{
		Name: "db", Process: mayfly.Process{Command: []string{"sh", "-c", `cat /run/secrets/password | wc -c; echo of $(echo -n $PASSWORD | wc -c); while true; do sleep 1; done`}},
		Secrets: []mayfly.SecretMount{{Secret: "password"}, {Secret: "password", Env: "PASSWORD"}},
	})
	n.until("it waits", func() bool { return strings.Contains(n.newsOf("db"), "it needs secret password, which was not set") })
	if _, err := n.PutSecret(t.Context(), "password", nil); mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty secret: %v", err)
	}
	if _, err := n.PutSecret(t.Context(), "password", []byte(marker)); err != nil {
		t.Fatal(err)
	}
	db := n.one("db")
	n.until("it has read it", func() bool { return strings.Contains(n.execLog(db), "20\nof 20") })
	n.nowhere(marker)
	n.kill()
	n.up()
	if n.one("db").ID != db.ID {
		t.Fatal("it was started again with the daemon")
	}
	if _, err := n.PutSecret(t.Context(), "password", []byte(marker)); err != nil { // the same
		t.Fatal(err)
	}
	if _, err := n.PutSecret(t.Context(), "password", []byte(marker+"-second")); err != nil {
		t.Fatal(err)
	}
	n.until("it is restarted", func() bool { return n.one("db").ID != db.ID })
	db = n.one("db")
	n.until("it has read the new one", func() bool { return strings.Contains(n.execLog(db), "27\nof 27") })
	n.nowhere(marker)
	if err := n.RemoveSecret(t.Context(), "password", false); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "named by workload db") {
		t.Errorf("a secret that is used: %v", err)
	}
}

// newsOf is the news of a workload, as text.
func (n *node) newsOf(subject string) string {
	n.t.Helper()
	list, err := n.ListNews(n.t.Context(), client.NewsFilter{Subject: subject})
	if err != nil {
		n.t.Fatal(err)
	}
	text, _ := json.Marshal(list)
	return string(text)
}

// nowhere looks for a text wherever it could be but in memory.
func (n *node) nowhere(text string) {
	n.t.Helper()
	look := func(where string, data []byte) {
		if bytes.Contains(data, []byte(text)) {
			n.t.Errorf("the value is in %s", where)
		}
	}
	err := filepath.WalkDir(n.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && inMemory(p) {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			data, _ := os.ReadFile(p)
			look(p, data)
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		data, _ := os.ReadFile(p)
		look(p, data)
	}
	ctx := n.t.Context()
	secrets, _ := n.ListSecrets(ctx)
	services, _ := n.ListServices(ctx)
	workloads, _ := n.ListWorkloads(ctx)
	instances, _ := n.ListInstances(ctx, true)
	news, _ := n.ListNews(ctx, client.NewsFilter{})
	for what, v := range map[string]any{"secrets": secrets, "services": services, "workloads": workloads, "instances": instances, "news": news} {
		data, err := json.Marshal(v)
		if err != nil || len(data) < 10 {
			n.t.Errorf("there is no answer with %s: %s, %v", what, data, err)
		}
		look("the answer with "+what, data)
	}
}

// inMemory reports whether a directory is a tmpfs, which no disk ever sees.
func inMemory(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC
}

// A config's change replaces its file and has done what was asked for.
func TestConfigsReachTheirUsers(t *testing.T) {
	n := start(t)
	if _, err := n.PutConfig(t.Context(), "motd", []byte("one")); err != nil {
		t.Fatal(err)
	}
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: []string{"sh", "-c", `while true; do sleep 1; done`}},
		Configs: []mayfly.ConfigMount{{Config: "motd", OnChange: mayfly.OnChange{Exec: []string{"sh", "-c", `cat /run/mayfly/config/motd >/told`}}}, {Config: "motd", Target: "/etc/motd"}},
	})
	web := n.one("web")
	if _, err := n.PutConfig(t.Context(), "motd", []byte("two, longer")); err != nil {
		t.Fatal(err)
	}
	n.until("it was told", func() bool { return strings.Contains(n.newsOf("web"), "config motd changed; its file was replaced") })
	if n.one("web").ID != web.ID {
		t.Error("it was restarted")
	}
	for _, name := range []string{"/told", "/run/mayfly/config/motd", "/etc/motd"} {
		r, err := n.ReadFiles(t.Context(), web.ID, name)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		b.ReadFrom(r)
		r.Close()
		if !strings.Contains(b.String(), "two, longer") {
			t.Errorf("%s does not have the new value: %q", name, b.String())
		}
	}
}

// What a killed daemon did not come to when a config changed is done by the next.
func TestConfigsOutliveTheDaemon(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	hold := filepath.Join(shared, "hold")
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	set := func(value string) {
		t.Helper()
		if _, err := n.PutConfig(t.Context(), "motd", []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	set("one")
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: []string{"sh", "-c", `while true; do sleep 1; done`}},
		Mounts: []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}},
		Configs: []mayfly.ConfigMount{{Config: "motd", OnChange: mayfly.OnChange{
			Exec: []string{"sh", "-c", `cat /run/mayfly/config/motd >>/shared/told; echo >>/shared/told; while [ -e /shared/hold ]; do sleep 0.05; done`}, Timeout: time.Hour,
		}}},
	})
	n.until("web runs", func() bool { return n.ready("web") })
	set("two")
	n.until("web is being told", func() bool { return begun(t, shared, "told") == 1 })
	n.kill()
	os.Remove(hold)
	n.up()
	n.until("it was told", func() bool { return strings.Contains(n.newsOf("web"), "config motd changed; its file was replaced") })
	set("three")
	n.until("web is told of the next one", func() bool { return begun(t, shared, "told") == 3 })
	if data, err := os.ReadFile(filepath.Join(shared, "told")); err != nil || string(data) != "two\ntwo\nthree\n" {
		t.Errorf("web was told %q, %v", data, err)
	}
}
