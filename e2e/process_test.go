package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// begun is how often a program has started that notes it in a shared directory.
func begun(t *testing.T, shared, name string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(shared, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

// untilEnded has the program of a name end, and waits until it has said so.
func (n *node) untilEnded(shared, name string) {
	n.t.Helper()
	said := filepath.Join(shared, "ended-"+name)
	if err := os.WriteFile(filepath.Join(shared, "end-"+name), nil, 0o644); err != nil {
		n.t.Fatal(err)
	}
	n.until(name+" ends", func() bool { _, err := os.Stat(said); return err == nil })
	os.Remove(said)
}

// noting notes its starts, says a line, and ends with 4 when it is told to, for
// which it takes the flag away: what is started after it, maybe before anybody
// looks, is not to find it.
func noting(name string) mayfly.Process {
	return mayfly.Process{Command: []string{"sh", "-c", "echo $$ >>/shared/" + name + "; echo " + name + " in $PWD as $(id -u); " +
		"until rm /shared/end-" + name + " 2>/dev/null; do sleep 0.05; done; echo >/shared/ended-" + name + "; exit 4"}}
}

func (n *node) logOf(in mayfly.Instance) map[string]string {
	n.t.Helper()
	got := map[string]string{}
	err := n.InstanceLogs(n.t.Context(), in.ID, mayfly.LogOptions{Tail: -1}, func(e mayfly.LogEntry) error {
		got[e.Process] += string(e.Data)
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

// TestProcessesOfOneContainer: each has its restart rule and its log, and none
// notices that the daemon is killed; what ends meanwhile is started by the next
// one.
func TestProcessesOfOneContainer(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	cron := noting("cron")
	cron.User, cron.WorkDir = "12:34", "/"
	n.serve(mayfly.Workload{
		Name: "multi", Process: mayfly.Process{WorkDir: "/srv"}, Mounts: []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}},
		Service: &mayfly.Service{Processes: []mayfly.NamedProcess{
			{Name: "web", Process: noting("web")},
			{Name: "cron", Process: cron, Restart: mayfly.Restart{Policy: mayfly.RestartNever}},
		}},
	})
	in := n.one("multi")
	starts := func(name string, want int) {
		t.Helper()
		n.until(name+" has started", func() bool { return begun(t, shared, name) >= want })
		if got := begun(t, shared, name); got != want {
			t.Fatalf("%s has started %d times, want %d", name, got, want)
		}
	}
	starts("web", 1)
	starts("cron", 1)
	n.until("both have said something", func() bool {
		log := n.logOf(in)
		return log["web"] == "web in /srv as 0\n" && log["cron"] == "cron in / as 12\n"
	})
	n.untilEnded(shared, "web")
	starts("web", 2)

	n.kill()
	n.up()
	if now := n.one("multi"); now.ID != in.ID {
		t.Fatal("the container was made again with the daemon")
	}
	n.kill()
	n.untilEnded(shared, "web") // nobody is there to see it
	n.up()
	starts("web", 3)
	starts("cron", 1)
	if now := n.one("multi"); now.ID != in.ID {
		t.Fatal("the container was made again because a process ended")
	}
	n.until("all starts are in one log", func() bool { return n.logOf(in)["web"] == strings.Repeat("web in /srv as 0\n", 3) })

	n.untilEnded(shared, "cron") // which is not to be started again, so the container is
	starts("cron", 2)
	n.until("another container", func() bool { now := n.one("multi"); return now.ID != in.ID })
	in = n.one("multi")
	if err := n.KillInstance(t.Context(), in.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	starts("cron", 3)
	in = n.one("multi")
	if err := n.StopInstance(t.Context(), in.ID, 0); err != nil {
		t.Fatal(err)
	}
}

// TestSidecars: they share the network of what they are beside, go on and end with
// it, and are adopted with it.
func TestSidecars(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Provides: []mayfly.Provide{{Name: "http", Port: 8080}},
		Service: &mayfly.Service{Sidecars: []mayfly.Sidecar{{
			Name: "side", Image: "app", Process: mayfly.Process{Command: []string{"/app"}, Env: map[string]string{"PORT": "8081"}},
			Ready: &mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: "/well", Port: 8081}},
		}}},
	})
	both := func() (main, side mayfly.Instance) {
		t.Helper()
		n.until("two containers", func() bool {
			list := n.instancesOf("web")
			if len(list) != 2 {
				return false
			}
			main, side = list[0], list[1]
			if main.Sidecar != "" {
				main, side = side, main
			}
			return main.Sidecar == "" && side.Sidecar == "side" && side.Beside == main.ID
		})
		return main, side
	}
	main, side := both()
	n.until("the main one answers", func() bool { return n.ready("web") })
	if n.ask(main, 8080, "/hostname") == n.ask(main, 8081, "/hostname") {
		t.Error("the sidecar does not answer at the main container's address")
	}
	n.kill()
	n.up()
	if m, s := both(); m.ID != main.ID || s.ID != side.ID {
		t.Fatal("a container was made again with the daemon")
	}
	if err := n.KillInstance(t.Context(), side.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.until("both are made again", func() bool { m, s := both(); return m.ID != main.ID && s.ID != side.ID })
	main, side = both()
	n.until("the main one answers", func() bool { return n.ready("web") })

	n.kill()
	n.bid(main, "/exit") // while nobody is there to see it
	n.up()
	n.until("both are made again", func() bool { m, s := both(); return m.ID != main.ID && s.ID != side.ID })
}

// TestExecEndsWithTheDaemon: a program that was run for a client has nobody left
// when the daemon is killed, and the next one ends it; the container goes on.
func TestExecEndsWithTheDaemon(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	in, err := n.CreateInstance(t.Context(), mayfly.InstanceSpec{
		Name: "on", Image: "app", Mounts: []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}},
		Process: mayfly.Process{Command: []string{"sh", "-c", "while true; do sleep 1; done"}},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.StartInstance(t.Context(), in.ID); err != nil {
		t.Fatal(err)
	}
	e, err := n.Exec(t.Context(), "on", mayfly.ExecSpec{Command: []string{"sh", "-c", "exec 2>/dev/null; trap 'echo >/shared/hup; exit' HUP; echo >/shared/begun; while true; do sleep 0.05; done"}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	n.until("it runs", func() bool { return begun(t, shared, "begun") == 1 })
	n.kill()
	n.up()
	n.until("it is ended", func() bool { return begun(t, shared, "hup") == 1 })
	if now, err := n.GetInstance(t.Context(), "on"); err != nil || now.State != mayfly.Running {
		t.Errorf("%+v, %v", now, err)
	}
}
