package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// A sidecar shares those volumes of the container it is beside that it names, to
// write or only to read; nobody else may write to them.
func TestSidecarsShareChosenVolumes(t *testing.T) {
	n := start(t)
	for _, name := range []string{"data", "own"} {
		if _, err := n.CreateVolume(t.Context(), mayfly.Volume{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: []string{"sh", "-c", "echo of main >/data/m; mv /data/m /data/main; while true; do sleep 0.1; done"}},
		Volumes: []mayfly.VolumeMount{{Volume: "data", Target: "/data"}, {Volume: "own", Target: "/own"}},
		Service: &mayfly.Service{Sidecars: []mayfly.Sidecar{
			{
				Name: "writer", Image: "app", Volumes: []mayfly.VolumeMount{{Volume: "data", Target: "/shared"}},
				Process: mayfly.Process{Command: []string{"sh", "-c", "ls / >/shared/sees; echo of writer >/shared/w; mv /shared/w /shared/writer; while true; do sleep 0.1; done"}},
			}, {
				Name: "reader", Image: "app", Volumes: []mayfly.VolumeMount{{Volume: "data", Target: "/shared", ReadOnly: true}},
				Process: mayfly.Process{Command: []string{"sh", "-c", "until [ -e /shared/main -a -e /shared/writer ]; do sleep 0.05; done; cat /shared/main /shared/writer; echo x 2>/dev/null >/shared/no || echo may not write; while true; do sleep 0.1; done"}},
			},
		}},
	})
	beside := func() map[string]mayfly.Instance {
		t.Helper()
		all := map[string]mayfly.Instance{}
		n.until("three containers", func() bool {
			clear(all)
			for _, in := range n.instancesOf("web") {
				all[in.Sidecar] = in
			}
			return len(all) == 3
		})
		return all
	}
	before := beside()
	const want = "of main\nof writer\nmay not write\n"
	n.until("the reader has read what both wrote", func() bool { return n.execLog(before["reader"]) == want })
	saw := n.output("web/1", "cat", "/data/sees")
	if strings.Contains(saw, "own\n") || !strings.Contains(saw, "shared\n") {
		t.Errorf("the writer has:\n%s", saw)
	}

	n.kill()
	n.up()
	if now := beside(); now["writer"].ID != before["writer"].ID {
		t.Fatal("a container was made again with the daemon")
	}
	if err := n.KillInstance(t.Context(), before["writer"].ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.until("all three are made again", func() bool {
		now := beside()
		for name, in := range before {
			if now[name].ID == in.ID {
				return false
			}
		}
		return n.execLog(now["reader"]) == want
	})
}

// output is what a program in a container writes.
func (n *node) output(ref string, command ...string) string {
	n.t.Helper()
	e, err := n.Exec(n.t.Context(), ref, mayfly.ExecSpec{Command: command})
	if err != nil {
		n.t.Fatal(err)
	}
	var out strings.Builder
	exit, err := e.Stream(n.t.Context(), nil, &out, &out)
	if err != nil || exit.Code != 0 {
		n.t.Fatalf("%q in %s: %+v, %v: %s", command, ref, exit, err, out.String())
	}
	return out.String()
}

// What writes to a volume that one may write to is stopped before its next release
// starts, and who wants it besides waits and says for whom.
func TestAVolumeHasOneWriter(t *testing.T) {
	n := start(t)
	if _, err := n.CreateVolume(t.Context(), mayfly.Volume{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	w := web(1, mayfly.Update{Surge: 3})
	w.Volumes = []mayfly.VolumeMount{{Volume: "data", Target: "/data"}}
	n.serve(w)
	n.settled("web", mayfly.ServiceRunning, 1, 1)
	other := w
	other.Name = "other"
	n.serve(other)
	n.until("the other one names the holder", func() bool {
		s, err := n.GetService(t.Context(), "other")
		return err == nil && s.State == mayfly.ServiceWaiting && strings.Contains(s.Reason, "volume data is written by web/1")
	})
	x, err := n.Why(t.Context(), "other")
	if err != nil || !strings.Contains(strings.Join(x.Why, "\n"), "volume data is written by web/1") {
		t.Errorf("why: %+v, %v", x, err)
	}
	n.until("the news say so", func() bool { return strings.Contains(n.newsOf("other"), "volume data is written by web/1") })

	if err := n.DeleteWorkload(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	n.until("the other one is gone", func() bool {
		_, err := n.GetService(t.Context(), "other")
		return mayfly.KindOf(err) == mayfly.NotFound
	})
	seen := n.watch("web")
	w.Env = map[string]string{"V": "2"}
	n.serve(w)
	n.settled("web", mayfly.ServiceRunning, 2, 1)
	if _, most := seen.end(); most > 1 {
		t.Errorf("%d wrote to it at one time", most)
	}

	rel := n.serve(other)
	n.until("the other one waits", func() bool {
		s, err := n.GetService(t.Context(), "other")
		return err == nil && s.State == mayfly.ServiceWaiting
	})
	if err := n.DeleteWorkload(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	n.settled("other", mayfly.ServiceRunning, rel.Number, 1)
}
