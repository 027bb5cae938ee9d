package e2e

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// stopWithin is stop of a daemon that might not end.
func (n *node) stopWithin(limit time.Duration) {
	n.t.Helper()
	late := time.AfterFunc(limit, func() { n.cmd.Process.Signal(syscall.SIGKILL) })
	defer late.Stop()
	n.stop()
}

// replica is the only one of a service, as its node says it is.
func (n *node) replica(service string) mayfly.ReplicaStatus {
	n.t.Helper()
	s, err := n.GetService(n.t.Context(), service)
	if err != nil {
		n.t.Fatal(err)
	}
	if len(s.Replicas) != 1 {
		return mayfly.ReplicaStatus{}
	}
	return s.Replicas[0]
}

// A daemon that is ended while a service stops does not wait for what nobody says
// any more, and the next one goes on.
func TestADaemonEndsWhileAServiceStops(t *testing.T) {
	n, dir := start(t), t.TempDir()
	n.serve(mayfly.Workload{
		Name: "stubborn", Process: mayfly.Process{Command: []string{"sh", "-c", "trap 'echo >>/host/asked' TERM; echo >/host/begun; until [ -e /host/go ]; do sleep 0.1; done"}},
		Mounts:  []mayfly.Mount{{Type: "bind", Source: dir, Target: "/host"}},
		Service: &mayfly.Service{StopGrace: time.Hour},
	})
	n.until("it runs", func() bool { return begun(t, dir, "begun") == 1 && n.ready("stubborn") })
	none := 0
	if _, err := n.ScaleService(t.Context(), "stubborn", &none); err != nil {
		t.Fatal(err)
	}
	n.until("it is stopping", func() bool {
		return n.replica("stubborn").State == mayfly.ReplicaStopping && begun(t, dir, "asked") == 1
	})
	n.stopWithin(patience)
	n.up()
	n.until("it is asked again", func() bool { return begun(t, dir, "asked") == 2 })
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.until("it has stopped", func() bool { return len(n.instancesOf("stubborn")) == 0 && n.replica("stubborn").Assignment == "" })
}

// What ends while there is no daemon has ended: a job is not run twice.
func TestAJobEndsWhileThereIsNoDaemon(t *testing.T) {
	n, dir := start(t), t.TempDir()
	n.serve(mayfly.Workload{
		Name: "job", Process: mayfly.Process{Command: []string{"sh", "-c", "until [ -e /host/go ]; do sleep 1; done"}},
		Mounts:  []mayfly.Mount{{Type: "bind", Source: dir, Target: "/host"}},
		Service: &mayfly.Service{Restart: mayfly.Restart{Policy: mayfly.RestartNever}},
	})
	job := n.one("job")
	n.until("it is ready", func() bool { return n.replica("job").State == mayfly.ReplicaReady })
	n.kill()
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.until("the job has ended", func() bool { return n.programs(job.ID) == 0 })
	n.up()
	n.until("it is over", func() bool { return n.replica("job").State != mayfly.ReplicaReady })
	if r := n.replica("job"); r.State != mayfly.ReplicaCompleted || r.Instance != job.ID {
		t.Errorf("it is %s (%s) in %s, not completed in %s", r.State, r.Reason, r.Instance, job.ID)
	}
}

// programs counts the processes of a container.
func (n *node) programs(id string) int {
	n.t.Helper()
	count := 0
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if group, err := os.ReadFile("/proc/" + e.Name() + "/cgroup"); err == nil && strings.Contains(string(group), id) {
			count++
		}
	}
	return count
}

// A daemon that is killed before it started a container's program leaves a
// container without one: the next daemon makes another.
func TestADaemonIsKilledBetweenASidecarAndItsService(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "late", Process: mayfly.Process{Command: []string{"sh", "-c", "echo begun; while true; do sleep 1; done"}},
		Service: &mayfly.Service{Sidecars: []mayfly.Sidecar{{
			Name: "side", Image: "app", Process: mayfly.Process{Entrypoint: []string{"/app"}, Env: map[string]string{"PORT": "9090"}},
			Ready: &mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: "/ill", Port: 9090}, Grace: time.Hour},
		}}},
	})
	n.until("the sidecar runs", func() bool { return len(n.instancesOf("late")) == 1 })
	before := n.instancesOf("late")[0].Beside
	n.kill()
	n.up()
	n.until("it begins anew", func() bool {
		list := n.instancesOf("late")
		return len(list) == 1 && list[0].Beside != before
	})
	if r := n.replica("late"); r.State == mayfly.ReplicaReady {
		t.Error("it is ready without a program")
	}
	n.stopWithin(patience)
	n.up()
	n.until("it begins anew", func() bool { return len(n.instancesOf("late")) == 1 })
}

// One that waits for a port that something else has waits quietly, and is given up
// when its time is over.
func TestAReleaseWhosePortIsTakenIsGivenUp(t *testing.T) {
	n := start(t)
	for _, name := range []string{"one", "two"} {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		n.serve(mayfly.Workload{Name: name, Service: &mayfly.Service{
			Ports: []mayfly.Port{{Host: port, Container: 8080}}, Update: mayfly.Update{Timeout: 8 * time.Second},
		}})
	}
	var began [2]time.Time
	for i, name := range []string{"one", "two"} {
		n.until(name+" waits", func() bool {
			r := n.replica(name)
			began[i] = r.Since
			return r.State == mayfly.ReplicaWaiting
		})
	}
	for i, name := range []string{"one", "two"} {
		n.until(name+" is given up", func() bool {
			s, err := n.GetService(t.Context(), name)
			return err == nil && s.Rollout.State == mayfly.RolloutFailed
		})
		if r := n.replica(name); i == 1 && !r.Since.Equal(began[i]) {
			t.Errorf("%s has waited since %s, and then since %s", name, began[i], r.Since)
		}
	}
}
