package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// witness sees every state of a service: what is promised of an update holds in
// all of them.
type witness struct {
	n      *node
	name   string
	cancel context.CancelFunc
	done   chan struct{}

	list []mayfly.Supervised
}

// watch begins when the service is as it shall be.
func (n *node) watch(name string) *witness {
	ctx, cancel := context.WithCancel(n.t.Context())
	w := &witness{n: n, name: name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for ctx.Err() == nil { // a daemon that is killed comes back
			_ = n.WatchService(ctx, name, func(s mayfly.Supervised) error {
				w.list = append(w.list, s)
				return nil
			})
		}
	}()
	return w
}

// end returns what was seen: the fewest that were ready and the most that were
// there at one time.
func (w *witness) end() (fewest, most int) {
	w.cancel()
	<-w.done
	fewest = 1 << 30
	for _, s := range w.list {
		fewest = min(fewest, s.Ready)
		most = max(most, len(s.Replicas))
	}
	return fewest, most
}

var errSeen = errors.New("seen")

// settled waits until a service is in a state, and all its replicas are of a
// release and not about to go.
func (n *node) settled(name, state string, release, count int) mayfly.Supervised {
	n.t.Helper()
	var last mayfly.Supervised
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	err := n.WatchService(ctx, name, func(s mayfly.Supervised) error {
		last = s
		ok := s.State == state && len(s.Replicas) == count && !slices.ContainsFunc(s.Replicas, func(r mayfly.ReplicaStatus) bool {
			return r.Stop || r.Release != release || !r.State.Healthy()
		})
		if ok {
			return errSeen
		}
		return nil
	})
	if !errors.Is(err, errSeen) {
		n.t.Fatalf("%s is not %s with %d of release %d: %v: %+v", name, state, count, release, err, last)
	}
	return last
}

// web is a service that answers over HTTP when it is told to be well.
func web(count int, update mayfly.Update, command ...string) mayfly.Workload {
	return mayfly.Workload{
		Name: "web", Process: mayfly.Process{Command: append([]string{"/app"}, command...)},
		Provides: []mayfly.Provide{{Name: "http", Protocol: "http"}},
		Scale:    mayfly.Scale{Min: count},
		Service:  &mayfly.Service{Update: update},
	}
}

func containers(s mayfly.Supervised) (ids []string) {
	for _, r := range s.Replicas {
		ids = append(ids, r.Instance)
	}
	return ids
}

// restarted restarts a service, and waits until it runs in other containers.
func (n *node) restarted(before mayfly.Supervised) {
	n.t.Helper()
	if _, err := n.RestartService(n.t.Context(), before.Name); err != nil {
		n.t.Fatal(err)
	}
	n.until("the restart is over", func() bool {
		s, err := n.GetService(n.t.Context(), before.Name)
		if err != nil {
			n.t.Fatal(err)
		}
		return s.State == mayfly.ServiceRunning && len(s.Replicas) == len(before.Replicas) && !slices.ContainsFunc(containers(s), func(id string) bool {
			return id == "" || slices.Contains(containers(before), id)
		})
	})
}

// An update, a restart and a release that fails never leave fewer ready than
// there shall be, nor make more than the surge allows.
func TestAServiceIsUpdatedRestartedAndRolledBackWithoutAGap(t *testing.T) {
	n := start(t)
	n.serve(web(3, mayfly.Update{}))
	first := n.settled("web", mayfly.ServiceRunning, 1, 3)
	w := n.watch("web")

	begun := time.Now()
	changed := web(3, mayfly.Update{})
	changed.Env = map[string]string{"V": "2"}
	n.serve(changed)
	second := n.settled("web", mayfly.ServiceRunning, 2, 3)
	t.Logf("3 replicas are updated after %s", time.Since(begun).Round(time.Millisecond))
	for _, id := range containers(second) {
		if slices.Contains(containers(first), id) {
			t.Errorf("container %s outlived its release", id)
		}
	}
	n.restarted(second)
	third := n.settled("web", mayfly.ServiceRunning, 2, 3)

	begun = time.Now()
	n.serve(web(3, mayfly.Update{}, "never-listens"))
	back := n.settled("web", mayfly.ServiceRolledBack, 2, 3)
	t.Logf("a release that crashes is given up after %s", time.Since(begun).Round(time.Millisecond))
	if !slices.Equal(containers(back), containers(third)) {
		t.Errorf("healthy replicas of the release before were replaced: %v, and then %v", containers(third), containers(back))
	}
	if want := "failed 3 times in a row: it ended with exit code 3"; !strings.Contains(back.Reason, want) {
		t.Errorf("the reason is %q, want %q in it", back.Reason, want)
	}
	if fewest, most := w.end(); fewest < 3 || most > 4 {
		t.Errorf("there were %d ready and %d in all at one time, with 3 wanted and a surge of 1", fewest, most)
	}
}

// The daemon is killed in the middle of an update: the next one goes on with it.
func TestAnUpdateSurvivesTheDaemon(t *testing.T) {
	n := start(t)
	n.serve(web(3, mayfly.Update{}))
	n.settled("web", mayfly.ServiceRunning, 1, 3)
	changed := web(3, mayfly.Update{})
	changed.Env = map[string]string{"V": "2"}
	n.serve(changed)
	n.until("the update has begun", func() bool {
		s, err := n.GetService(t.Context(), "web")
		return err == nil && slices.ContainsFunc(s.Replicas, func(r mayfly.ReplicaStatus) bool { return r.Release == 2 })
	})
	n.kill()
	n.up()
	n.settled("web", mayfly.ServiceRunning, 2, 3)
	if running := n.instancesOf("web"); len(running) != 3 {
		t.Errorf("%d containers run, want 3", len(running))
	}
}

// A release that is never well is given up when its time has run out.
func TestAReleaseThatIsNeverReadyIsGivenUp(t *testing.T) {
	n := start(t)
	n.serve(web(2, mayfly.Update{}))
	before := n.settled("web", mayfly.ServiceRunning, 1, 2)
	ill := web(2, mayfly.Update{Timeout: 2 * time.Second})
	ill.Service.Ready = &mayfly.Probe{Exec: []string{"/bin/sh", "-c", "exit 1"}, Every: 100 * time.Millisecond}
	n.serve(ill)
	back := n.settled("web", mayfly.ServiceRolledBack, 1, 2)
	if !slices.Equal(containers(back), containers(before)) {
		t.Errorf("healthy replicas were replaced: %v, and then %v", containers(before), containers(back))
	}
	if !strings.Contains(back.Reason, "replica 1 was not ready within 2s: ") {
		t.Errorf("the reason is %q", back.Reason)
	}
	stays := ill
	stays.Service = &mayfly.Service{Update: mayfly.Update{Timeout: time.Second, NoRollback: true}, Ready: ill.Service.Ready}
	n.serve(stays)
	n.until("it has failed, and stays", func() bool {
		s, err := n.GetService(t.Context(), "web")
		return err == nil && s.State == mayfly.ServiceFailed && s.Ready == 2 && len(s.Replicas) == 3
	})
	if _, err := n.RollbackService(t.Context(), "web", 0); err != nil {
		t.Fatal(err)
	}
	n.settled("web", mayfly.ServiceRunning, 1, 2)
}

func TestAServiceIsScaledUpAndDown(t *testing.T) {
	n := start(t)
	n.serve(web(1, mayfly.Update{}))
	one := n.settled("web", mayfly.ServiceRunning, 1, 1)
	for _, count := range []int{4, 2, 1} {
		if _, err := n.ScaleService(t.Context(), "web", &count); err != nil {
			t.Fatal(err)
		}
		s := n.settled("web", mayfly.ServiceRunning, 1, count)
		for i, r := range s.Replicas {
			if r.Number != i+1 {
				t.Errorf("of %d there is replica %d", count, r.Number)
			}
		}
		if s.Replicas[0].Instance != one.Replicas[0].Instance {
			t.Error("replica 1 was replaced")
		}
	}
	zero := 0
	if _, err := n.ScaleService(t.Context(), "web", &zero); err != nil {
		t.Fatal(err)
	}
	n.settled("web", mayfly.ServiceStopped, 1, 0)
	if running := n.instancesOf("web"); len(running) != 0 {
		t.Errorf("%d containers run, want none", len(running))
	}
}

// What has one host port is stopped before the next starts.
func TestAServiceWithAHostPortIsReplacedStopFirst(t *testing.T) {
	n := start(t)
	w := web(1, mayfly.Update{Surge: 3})
	w.Service.Ports = []mayfly.Port{{Container: 8000, Host: unusedPort(t), HostIP: "127.0.0.1"}}
	n.serve(w)
	n.settled("web", mayfly.ServiceRunning, 1, 1)
	seen := n.watch("web")
	w.Env = map[string]string{"V": "2"}
	n.serve(w)
	n.settled("web", mayfly.ServiceRunning, 2, 1)
	if _, most := seen.end(); most > 1 {
		t.Errorf("there were %d at one time, and there is one port", most)
	}
	var types []string
	n.until("the news say that it is done", func() bool {
		news, err := n.ListNews(t.Context(), client.NewsFilter{Subject: "web", Type: "rollout"})
		if err != nil {
			t.Fatal(err)
		}
		types = nil
		for _, e := range news {
			types = append(types, e.Type)
		}
		return len(types) >= 4
	})
	if got := fmt.Sprint(types); got != "[rollout.began rollout.done rollout.began rollout.done]" {
		t.Errorf("told %s", got)
	}
}

func unusedPort(t *testing.T) uint16 {
	t.Helper()
	port, err := strconv.ParseUint(freePort(t), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// Two that want one host port: the second is refused, and the error names both.
// What comes to it by another way waits, and says why.
func TestTwoServicesWantOneHostPort(t *testing.T) {
	n := start(t)
	port := mayfly.Port{Container: 8000, Host: unusedPort(t), HostIP: "127.0.0.1"}
	first := web(1, mayfly.Update{})
	first.Service.Ports = []mayfly.Port{port}
	n.serve(first)
	n.settled("web", mayfly.ServiceRunning, 1, 1)

	second := first
	second.Name, second.Image = "shop", "app"
	_, err := n.Deploy(t.Context(), second, "", func(client.Progress) {})
	if want := fmt.Sprintf("host port %d is wanted by shop and taken by web", port.Host); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), want) {
		t.Errorf("the second: %v", err)
	}
	two := 2
	if _, err := n.ScaleService(t.Context(), "web", &two); err != nil {
		t.Fatal(err)
	}
	n.until("the second replica says why it waits", func() bool {
		s, err := n.GetService(t.Context(), "web")
		return err == nil && strings.Contains(s.Reason, fmt.Sprintf("host port %d is wanted by web replica 2 and taken by web replica 1", port.Host))
	})
}
