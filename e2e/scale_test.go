package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// loadIs waits until the load of a workload is as is asks.
func (n *node) loadIs(workload, what string, is func(mayfly.Load) bool) {
	n.t.Helper()
	n.until(what, func() bool {
		l, err := n.Load(n.t.Context(), workload)
		if err != nil {
			n.t.Fatal(err)
		}
		return is(l)
	})
}

// several asks a workload so often at once, and calls each with what came of it.
func (n *node) several(all *sync.WaitGroup, count int, workload, path string, each func(status int, after string, err error)) {
	n.t.Cleanup(all.Wait) // where the test has failed before it did
	for range count {
		all.Go(func() {
			resp, err := n.request(n.t.Context(), "GET", workload, path, nil)
			if err != nil {
				each(0, "", err)
				return
			}
			resp.Body.Close()
			each(resp.StatusCode, resp.Header.Get("Retry-After"), nil)
		})
	}
}

// wellAnswered fails the test for what is not answered with 200.
func (n *node) wellAnswered(status int, _ string, err error) {
	if status != http.StatusOK || err != nil {
		n.t.Errorf("%d, %v", status, err)
	}
}

// holder has requests wait until they are let go.
type holder struct {
	*node
	dir    string
	mounts []mayfly.Mount // of the workloads that are asked
}

func (n *node) holder() holder {
	n.t.Helper()
	dir, mounts := n.shared()
	return holder{n, dir, mounts}
}

// held is a path whose requests are answered when name is let go.
func held(name string) string { return "/await?file=/shared/" + name }

func (h holder) with(t *testing.T) holder { return holder{h.node.with(t), h.dir, h.mounts} }

func (h holder) letGo(name string) {
	h.t.Helper()
	h.touch(h.dir, name)
}

func TestAFunctionIsScaled(t *testing.T) {
	n := start(t)
	h := n.holder()
	kept := func(name string, s mayfly.Scale) {
		n.deploy(mayfly.Workload{
			Name: name, Isolation: mayfly.IsolationInstance, Scale: s, Resources: mayfly.Resources{Memory: 64 << 20}, Mounts: h.mounts, Timeout: 10 * time.Minute,
		})
	}
	none := func(l mayfly.Load) bool { return l.Instances == 0 && l.InFlight == 0 && l.Starting == 0 }
	t.Run("FromZeroToTenAndBack", func(t *testing.T) {
		n := n.with(t)
		kept("step", mayfly.Scale{Max: 10, Concurrency: 2, Idle: 500 * time.Millisecond})
		n.loadIs("step", "to zero after its deploy", none)
		var all sync.WaitGroup
		n.several(&all, 40, "step", held("step"), n.wellAnswered) // 20 at a time
		n.loadIs("step", "as many as may be", func(l mayfly.Load) bool { return l.Instances == 10 && l.InFlight == 20 })
		h.letGo("step")
		all.Wait()
		n.loadIs("step", "to zero", none)
		n.until("they are taken down, off the path", func() bool { return n.waitingFor("step") == 0 })
	})
	t.Run("AHundredFirstRequestsWakeOneInstance", func(t *testing.T) {
		n := n.with(t)
		kept("crowd", mayfly.Scale{Max: 10, Concurrency: 100, Idle: 500 * time.Millisecond})
		n.loadIs("crowd", "to zero after its deploy", none)
		var all sync.WaitGroup
		n.several(&all, 100, "crowd", held("crowd"), n.wellAnswered)
		n.loadIs("crowd", "all in one", func(l mayfly.Load) bool {
			if l.Instances > 1 {
				t.Fatalf("%d instances", l.Instances)
			}
			return l.InFlight == 100
		})
		h.letGo("crowd")
		all.Wait()
	})
	t.Run("WhatIsTooMuchWaitsAndThenIsToldToComeAgain", func(t *testing.T) {
		n := n.with(t)
		kept("narrow", mayfly.Scale{Max: 1, Concurrency: 2, Queue: 3})
		n.loadIs("narrow", "ready", func(l mayfly.Load) bool { return l.Instances == 1 && l.Starting == 0 })
		var all, sixth sync.WaitGroup
		n.several(&all, 5, "narrow", held("narrow"), n.wellAnswered)
		n.loadIs("narrow", "full", func(l mayfly.Load) bool { return l.InFlight == 2 && l.Waiting == 3 && l.Capacity == 2 })
		n.several(&sixth, 1, "narrow", held("narrow"), func(status int, after string, err error) {
			if seconds, _ := strconv.Atoi(after); status != http.StatusTooManyRequests || seconds < 1 {
				t.Errorf("the sixth: %d, Retry-After %q, %v", status, after, err)
			}
		})
		sixth.Wait()
		h.letGo("narrow")
		all.Wait()
	})
	t.Run("NothingInFlightEndsBecauseItShrinks", func(t *testing.T) {
		n := n.with(t)
		kept("long", mayfly.Scale{Max: 3, Idle: 200 * time.Millisecond})
		var all, short sync.WaitGroup
		n.several(&all, 1, "long", held("long"), n.wellAnswered)
		n.several(&short, 2, "long", held("short"), n.wellAnswered)
		n.loadIs("long", "three at once", func(l mayfly.Load) bool { return l.InFlight == 3 })
		h.letGo("short")
		short.Wait()
		n.loadIs("long", "one is left", func(l mayfly.Load) bool { return l.Instances == 1 && l.InFlight == 1 })
		h.letGo("long")
		all.Wait()
	})
	t.Run("InstancesWaitThoughNobodyAsks", func(t *testing.T) {
		n := n.with(t)
		kept("kept", mayfly.Scale{Min: 2, Idle: 100 * time.Millisecond})
		n.deploy(mayfly.Workload{Name: "fresh", Scale: mayfly.Scale{Min: 3, Idle: 100 * time.Millisecond}})
		two := func(l mayfly.Load) bool { return l.Instances == 2 && l.Starting == 0 }
		three := func(l mayfly.Load) bool { return l.Instances == 3 && l.Starting == 0 && l.InFlight == 0 }
		n.loadIs("kept", "after its deploy", two)
		n.loadIs("fresh", "after its deploy", three)
		n.get("fresh", "/touch")
		n.loadIs("fresh", "after a call", three)
	})
	t.Run("InstancesAreThereBeforeTheirTasks", func(t *testing.T) { h.with(t).isReadyForTasks(kept, none) })
	t.Run("ItsLoadIsReadFromInside", func(t *testing.T) { n.with(t).loadFromInside() })
	t.Run("WhoIsInAnInstanceThatEndsHasAReason", func(t *testing.T) { h.with(t).endsTogether(kept) })
	n.kill()
	n.up()
	n.loadIs("kept", "after the daemon was killed", func(l mayfly.Load) bool { return l.Instances == 2 })
	if status, _, _ := n.get("step", "/touch"); status != 200 {
		t.Errorf("%d after the daemon was killed", status)
	}
}

// isReadyForTasks has all places of the node taken, so that the tasks of others
// wait in the queue.
func (n holder) isReadyForTasks(deploy func(string, mayfly.Scale), none func(mayfly.Load) bool) {
	places := max(16, 8*runtime.NumCPU())
	deploy("hog", mayfly.Scale{Max: 1, Concurrency: places})
	n.deploy(mayfly.Workload{
		Name: "slow", Isolation: mayfly.IsolationInstance, Scale: mayfly.Scale{Max: 5, Concurrency: 2, Idle: time.Second},
		Process: mayfly.Process{Command: []string{"sh", "-c", "sleep 1; exec /app"}}, Mounts: n.mounts,
	})
	n.deploy(mayfly.Workload{Name: "once", Scale: mayfly.Scale{Max: 3, Idle: time.Second}})
	submit := func(workload string, count int, path string) (tasks []mayfly.Task) {
		for range count {
			tasks = append(tasks, n.submit(mayfly.Submission{Workload: workload, Request: &mayfly.Request{Target: path}}))
		}
		return tasks
	}
	hogs := submit("hog", places, "/sleep?for=1h")
	n.loadIs("hog", "all places are taken", func(l mayfly.Load) bool { return l.InFlight == places })
	n.loadIs("slow", "to zero after its deploy", none)
	n.loadIs("once", "to zero after its deploy", none)

	tasks := append(submit("slow", 20, held("slow")), submit("once", 6, "/touch")...)
	n.loadIs("slow", "as many as may be, before the first task comes", func(l mayfly.Load) bool {
		return l.Instances == 5 && l.Wanted == 5 && l.Starting == 0 && l.InFlight == 0 && l.Queued == 20 && l.QueueAge > 0
	})
	n.loadIs("once", "the same where each serves one", func(l mayfly.Load) bool {
		return l.Instances == 3 && l.Wanted == 3 && l.InFlight == 0 && l.Queued == 6
	})
	for _, task := range hogs {
		if _, err := n.CancelTask(n.t.Context(), task.ID); err != nil {
			n.t.Fatal(err)
		}
	}
	n.loadIs("slow", "as many at once as they serve", func(l mayfly.Load) bool {
		if l.Instances > 5 || l.InFlight > 10 {
			n.t.Fatalf("%+v", l)
		}
		return l.InFlight == 10
	})
	n.letGo("slow")
	for _, task := range tasks {
		if got := n.waitTask(task.ID); got.State != mayfly.TaskSucceeded || got.Attempt != 1 {
			n.t.Errorf("a task of %s is %s, attempt %d", got.Workload, got.State, got.Attempt)
		}
	}
	n.loadIs("slow", "to zero", none)
	n.loadIs("once", "to zero", none)
}

// loadFromInside has a function run, calls wait for its concurrency, and tasks for
// their turn; and a program read that.
func (n *node) loadFromInside() {
	n.deploy(mayfly.Workload{
		Name: "counted", Isolation: mayfly.IsolationInstance, Concurrency: 1, Scale: mayfly.Scale{Min: 1, Max: 2, Concurrency: 3}, Timeout: 10 * time.Minute,
	})
	submit := func(path string) mayfly.Task {
		return n.submit(mayfly.Submission{Workload: "counted", Request: &mayfly.Request{Target: path}})
	}
	first := submit("/sleep?for=1h")
	n.loadIs("counted", "one runs", func(l mayfly.Load) bool { return l.InFlight == 1 })
	last := []mayfly.Task{submit("/touch"), submit("/touch")}
	var all sync.WaitGroup
	n.several(&all, 2, "counted", "/touch", n.wellAnswered)
	n.until("its load is read from inside", func() bool {
		text := n.insideAsk("step", "GET", "/v1/workloads/counted/load", "")
		var l mayfly.Load
		if err := json.NewDecoder(strings.NewReader(strings.TrimPrefix(text, "200 "))).Decode(&l); err != nil {
			n.t.Errorf("%s: %v", text, err)
			return true
		}
		ages := l.Oldest > 0 && l.QueueAge > 0
		l.Oldest, l.QueueAge = 0, 0
		return ages && l == (mayfly.Load{InFlight: 1, Waiting: 2, Instances: 1, Wanted: 1, Capacity: 3, Max: 2, Queued: 2})
	})
	if _, err := n.CancelTask(n.t.Context(), first.ID); err != nil {
		n.t.Fatal(err)
	}
	all.Wait()
	for _, task := range last {
		if got := n.waitTask(task.ID); got.State != mayfly.TaskSucceeded {
			n.t.Errorf("%+v", got)
		}
	}
}

// endsTogether has instances end in which several tasks are. The others than the
// one that is to blame lose no attempt.
func (n holder) endsTogether(deploy func(string, mayfly.Scale)) {
	deploy("shared", mayfly.Scale{Max: 1, Concurrency: 4})
	task := func(target string, timeout time.Duration) mayfly.Task {
		return n.submit(mayfly.Submission{Workload: "shared", Request: &mayfly.Request{Target: target}, Timeout: timeout, Retries: mayfly.Retries{Max: -1}})
	}
	inside := func(count int) {
		n.loadIs("shared", "all are in it", func(l mayfly.Load) bool { return l.InFlight == count && l.Instances == 1 })
	}
	check := func(what string, culprit mayfly.Task, reason mayfly.TaskState, others ...mayfly.Task) {
		if got := n.waitTask(culprit.ID); got.State != reason {
			n.t.Errorf("%s: the culprit's task is %s", what, got.State)
		}
		n.letGo(string(reason))
		for _, o := range others {
			got := n.waitTask(o.ID)
			if got.State != mayfly.TaskSucceeded || got.Attempt != 2 || got.Retried != 0 || got.Attempts[0].Exit.Reason != mayfly.Lost {
				n.t.Errorf("%s: another's task is %s, attempt %d, %d retries: %+v", what, got.State, got.Attempt, got.Retried, got.Attempts)
			}
		}
	}
	for _, culprit := range []struct {
		path    string
		timeout time.Duration
		reason  mayfly.TaskState
	}{{"/sleep?for=1h", time.Second, mayfly.TaskTimedOut}, {"/eat", 0, mayfly.TaskOutOfMemory}} {
		until := held(string(culprit.reason))
		a, b := task(until, 0), task(until, 0)
		inside(2)
		check(string(culprit.reason), task(culprit.path, culprit.timeout), culprit.reason, a, b)
	}

	var failed atomic.Int32
	var all sync.WaitGroup
	ask := func(path string) {
		if status, _, _ := n.post("shared", path, http.NoBody); status == http.StatusBadGateway { // it may not be sent twice
			failed.Add(1)
		}
	}
	for range 3 {
		all.Go(func() { ask("/sleep?for=1h") })
	}
	inside(3)
	ask("/exit")
	all.Wait()
	if failed.Load() != 4 {
		n.t.Errorf("%d of 4 calls were told that their program ended", failed.Load())
	}
}

// serveScaled deploys a service that is reached by its name, and is there as soon
// as it listens.
func (n *node) serveScaled(name string, s mayfly.Scale, mounts ...mayfly.Mount) {
	n.serve(mayfly.Workload{
		Name: name, Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Scale: s, Mounts: mounts,
		Provides: []mayfly.Provide{{Name: "http", Port: 8080, Protocol: "http"}},
		Routes:   []mayfly.Route{{Host: name + ".test", Path: "/"}},
	})
}

func (n *node) serviceIs(name, state string, wanted int) {
	n.t.Helper()
	n.until(name+" is "+state, func() bool {
		s, err := n.GetService(n.t.Context(), name)
		return err == nil && s.State == state && s.Wanted == wanted
	})
}

func TestAServiceIsScaled(t *testing.T) {
	n := start(t)
	h := n.holder()
	t.Run("AHundredFirstRequestsWakeItOnce", func(t *testing.T) {
		n := n.with(t)
		n.serveScaled("sleeper", mayfly.Scale{None: true, Max: 3, Concurrency: 200, Idle: time.Second}, h.mounts...)
		n.serviceIs("sleeper", mayfly.ServiceAsleep, 0)
		n.loadIs("sleeper", "nothing of it runs", func(l mayfly.Load) bool { return l.Instances == 0 && l.Max == 3 })
		n.until("its container is gone", func() bool { return len(n.instancesOf("sleeper")) == 0 })
		var all sync.WaitGroup
		n.several(&all, 100, "sleeper", held("sleeper"), n.wellAnswered)
		n.serviceIs("sleeper", mayfly.ServiceRunning, 1)
		h.letGo("sleeper")
		all.Wait()
		n.serviceIs("sleeper", mayfly.ServiceAsleep, 0)
		n.until("the news say why", func() bool {
			news := n.newsOf("sleeper")
			return strings.Contains(news, "scaled from 0 to 1: ") && strings.Contains(news, "scaled from 1 to 0: nobody has asked for it for 1s")
		})
	})
	t.Run("FromOneToFiveAndBackWithoutAnError", func(t *testing.T) {
		n := n.with(t)
		n.serveScaled("step", mayfly.Scale{Max: 5, Concurrency: 2, Idle: time.Second}, h.mounts...)
		var all sync.WaitGroup
		n.several(&all, 1, "step", held("long"), n.wellAnswered) // it outlasts those around it
		n.loadIs("step", "it has begun", func(l mayfly.Load) bool { return l.InFlight == 1 })
		n.several(&all, 30, "step", held("short"), n.wellAnswered)
		n.loadIs("step", "as many as may be", func(l mayfly.Load) bool { return l.Instances == 5 && l.Capacity == 10 })
		h.letGo("short")
		n.loadIs("step", "fewer again", func(l mayfly.Load) bool { return l.Wanted == 1 })
		h.letGo("long")
		all.Wait()
		n.until("one container is left", func() bool { return len(n.instancesOf("step")) == 1 })
	})
	t.Run("WhatIsTooMuchWaitsAndThenIsToldToComeAgain", func(t *testing.T) {
		n := n.with(t)
		n.serveScaled("narrow", mayfly.Scale{Concurrency: 1, Queue: 2}, h.mounts...)
		n.loadIs("narrow", "ready", func(l mayfly.Load) bool { return l.Instances == 1 })
		n.get("narrow", "/touch")
		var all, fourth sync.WaitGroup
		n.several(&all, 3, "narrow", held("narrow"), n.wellAnswered)
		n.loadIs("narrow", "full", func(l mayfly.Load) bool { return l.InFlight == 1 && l.Waiting == 2 })
		n.several(&fourth, 1, "narrow", "/", func(status int, after string, err error) {
			if seconds, _ := strconv.Atoi(after); status != http.StatusTooManyRequests || seconds < 1 {
				t.Errorf("the fourth: %d, Retry-After %q, %v", status, after, err)
			}
		})
		fourth.Wait()
		h.letGo("narrow")
		all.Wait()
	})
	t.Run("AKilledDaemonFindsItAsItWas", func(t *testing.T) {
		whole, n := n, n.with(t)
		n.serveScaled("held", mayfly.Scale{Max: 3, Concurrency: 1, Idle: 20 * time.Second}, h.mounts...) // for the daemon to be killed and back
		var all sync.WaitGroup
		n.several(&all, 3, "held", held("held"), n.wellAnswered)
		n.loadIs("held", "three at once", func(l mayfly.Load) bool { return l.InFlight == 3 })
		h.letGo("held")
		all.Wait()
		before := n.instancesOf("held")
		whole.kill()
		whole.up()
		n = whole.with(t)
		n.serviceIs("held", mayfly.ServiceRunning, 3)
		if after := n.instancesOf("held"); len(before) != 3 || len(after) != 3 {
			t.Errorf("%d before, %d after", len(before), len(after))
		}
		n.serviceIs("sleeper", mayfly.ServiceAsleep, 0)
		var woken sync.WaitGroup
		n.several(&woken, 20, "sleeper", "/touch", n.wellAnswered)
		woken.Wait()
	})
	t.Run("AProgramScalesItsOwn", func(t *testing.T) { n.with(t).scalesItself() })
	t.Run("AfterTheKillTooWhatIsNotNeededGoes", func(t *testing.T) { n.with(t).serviceIs("held", mayfly.ServiceRunning, 1) })
}

// scalesItself has programs ask for the scale of services from inside.
func (n *node) scalesItself() {
	n.serveScaled("own", mayfly.Scale{Max: 3})
	n.serveScaled("other", mayfly.Scale{Max: 3, By: "own"})
	n.serviceIs("own", mayfly.ServiceRunning, 1)
	n.serviceIs("other", mayfly.ServiceRunning, 1)
	asks := func(who, method, path, body, want string) {
		n.t.Helper()
		if got := n.insideAsk(who, method, path, body); !strings.Contains(got, want) {
			n.t.Errorf("%s asks %s %s: %s", who, method, path, got)
		}
	}
	asks("own", "GET", "/v1/workloads/other/load", "", `200 {"inFlight":0`)
	asks("own", "PUT", "/v1/services/own/scale", `{"count":2}`, `200 `)
	asks("own", "PUT", "/v1/services/other/scale", `{"count":3}`, `200 `)
	asks("own", "PUT", "/v1/services/other/scale", `{"count":4}`, `400 `)
	asks("other", "PUT", "/v1/services/own/scale", `{"count":1}`, `403 `)
	n.serviceIs("own", mayfly.ServiceRunning, 2)
	n.serviceIs("other", mayfly.ServiceRunning, 3)
	asks("own", "PUT", "/v1/services/other/scale", `{"count":null}`, `200 `)
	two := 2
	if _, err := n.ScaleService(n.t.Context(), "other", &two); err != nil {
		n.t.Fatal(err)
	}
	asks("own", "PUT", "/v1/services/other/scale", `{"count":1}`, `409 `)
	n.serviceIs("other", mayfly.ServiceRunning, 2)
}

// TestFrontEnd: examples/front-end scales its backends with the load, and back.
func TestFrontEnd(t *testing.T) {
	n := start(t)
	cmd := exec.Command(binary, "deploy", "-f", "../examples/front-end")
	cmd.Env = append(os.Environ(), "MAYFLY_HOST=unix://"+n.dir+"/api.sock")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n.until("both are ready", func() bool { return n.ready("front") && n.ready("back") })
	var answered sync.Map
	var all sync.WaitGroup
	var over atomic.Bool
	t.Cleanup(all.Wait)
	t.Cleanup(func() { over.Store(true) })
	for range 8 {
		all.Go(func() {
			for !over.Load() {
				status, body, _ := n.post("front", "/front-end", nil)
				if status != http.StatusOK {
					t.Errorf("%d %s", status, body)
				}
				answered.Store(body, true)
			}
		})
	}
	n.until("there are four backends", func() bool {
		s, err := n.GetService(t.Context(), "back")
		return err == nil && s.Ready == 4 && s.Scaled
	})
	n.until("several have answered", func() bool {
		several := 0
		for range answered.Range {
			several++
		}
		return several > 1
	})
	over.Store(true)
	all.Wait()
	n.until("one backend is enough", func() bool { return len(n.instancesOf("back")) == 1 })
}
