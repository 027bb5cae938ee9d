package queue

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

func TestMain(m *testing.M) {
	// Each run of the model opens a bus several times. -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const home = mayfly.DefaultSpace

// patience is for a machine that does much else at the same time.
const patience = 2 * time.Minute

func openBus(t testing.TB, dir string) *bus.Bus {
	t.Helper()
	b, err := bus.Open(context.Background(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// node is a bus with a queue on it, which can be run and stopped.
type node struct {
	*Queue
	t     testing.TB
	bus   *bus.Bus
	store *store.Store
	dir   string
	ended chan error // nil before start
}

func newNode(t testing.TB, opts Options) *node {
	t.Helper()
	return openNode(t, t.TempDir(), opts)
}

func openNode(t testing.TB, dir string, opts Options) *node {
	t.Helper()
	b := openBus(t, dir)
	s, err := store.Open(context.Background(), b, store.Options{})
	if err != nil {
		b.Close()
		t.Fatal(err)
	}
	if opts.Images == nil {
		opts.Images = images{"busybox": "sha256:b"}
	}
	q, err := Open(context.Background(), b, s, opts)
	if err != nil {
		s.Close()
		b.Close()
		t.Fatal(err)
	}
	n := &node{Queue: q, t: t, bus: b, store: s, dir: dir}
	t.Cleanup(n.stop)
	return n
}

func startNode(t testing.TB) *node {
	n := newNode(t, Options{})
	n.start()
	return n
}

func (n *node) start() {
	n.ended = make(chan error, 1)
	go func() { n.ended <- n.Run(context.Background()) }()
	n.mu.Lock()
	for !n.running { // Run has nothing to tell
		n.mu.Unlock()
		time.Sleep(time.Millisecond)
		n.mu.Lock()
	}
	n.mu.Unlock()
}

func (n *node) stop() {
	if n.bus == nil {
		return
	}
	n.Close()
	if n.ended != nil {
		<-n.ended
	}
	n.store.Close()
	if err := n.bus.Close(); err != nil {
		n.t.Error(err)
	}
	n.bus = nil
}

// images are names and their digests.
type images map[string]string

func (i images) Resolve(_ context.Context, name string) (string, error) {
	if digest := i[name]; digest != "" {
		return digest, nil
	}
	return "", mayfly.Errorf(mayfly.NotFound, "no image %q", name)
}

// deploy makes a workload, or its next release.
func (n *node) deploy(w mayfly.Workload) mayfly.Release {
	n.t.Helper()
	if w.Space == "" {
		w.Space = home
	}
	ctx := context.Background()
	rel, err := n.store.PutRelease(ctx, w, "sha256:w")
	if err == nil {
		old, _ := n.store.Workload(w.Space, w.Name)
		_, err = n.store.SetWorkload(ctx, w.Space, w.Name, rel.Number, old.Revision)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return rel
}

// Submit submits to workloads that are there, or are made.
func (n *node) Submit(ctx context.Context, subs []mayfly.Submission) []Accepted {
	n.t.Helper()
	for _, sub := range subs {
		space := cmp.Or(sub.Space, home)
		if _, err := n.store.Workload(space, sub.Workload); err != nil && mayfly.CheckName("workload", sub.Workload) == nil {
			n.deploy(mayfly.Workload{Space: space, Name: sub.Workload})
		}
	}
	return n.Queue.Submit(ctx, subs)
}

// crash returns a node on what a kill at this moment leaves on the disk: a copy
// during which nothing was written.
func (n *node) crash(opts Options) *node {
	n.t.Helper()
	dir := filepath.Join(n.t.TempDir(), "data")
	for {
		before := n.disk()
		os.RemoveAll(dir)
		for path, info := range before {
			if err := copyFile(filepath.Join(dir, strings.TrimPrefix(path, n.dir)), path, info); err != nil {
				n.t.Fatal(err)
			}
		}
		if maps.EqualFunc(before, n.disk(), unchanged) {
			break
		}
	}
	n.stop()
	return openNode(n.t, dir, opts)
}

// disk is what is on the node's disk.
func (n *node) disk() map[string]fs.FileInfo {
	n.t.Helper()
	all := map[string]fs.FileInfo{}
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if err == nil {
			all[path] = info
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

func unchanged(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}

// copyFile copies a file or makes a directory. What is gone is no error: the
// copy is not used then.
func copyFile(to, from string, info fs.FileInfo) error {
	if info.IsDir() {
		return os.MkdirAll(to, 0o700)
	}
	data, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

func (n *node) submit(subs ...mayfly.Submission) []mayfly.Task {
	n.t.Helper()
	var tasks []mayfly.Task
	for i, a := range n.Submit(context.Background(), subs) {
		if a.Err != nil {
			n.t.Fatalf("submission %d: %v", i, a.Err)
		}
		tasks = append(tasks, a.Task)
	}
	return tasks
}

func (n *node) next() *Grant {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g, err := n.Next(ctx, "n1")
	if err != nil {
		n.t.Fatalf("next: %v", err)
	}
	return g
}

func (n *node) done(g *Grant, reason mayfly.Reason) mayfly.Task {
	n.t.Helper()
	task, err := n.Done(context.Background(), g, result(reason))
	if err != nil {
		n.t.Fatalf("done: %v", err)
	}
	return task
}

func (n *node) state(id string) mayfly.TaskState {
	n.t.Helper()
	task, err := n.Get(context.Background(), home, id)
	if err != nil {
		n.t.Fatalf("get: %v", err)
	}
	return task.State
}

// idle fails when a task can be granted now.
func (n *node) idle() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.spaces) > 0 {
		n.t.Fatal("a task can be granted")
	}
}

func result(reason mayfly.Reason) mayfly.Result {
	exit := mayfly.Exit{Reason: reason}
	if reason != mayfly.Succeeded {
		exit.Code = 1
	}
	return mayfly.Result{Exit: exit, Output: []byte("out")}
}

func work(name string) mayfly.Submission {
	return mayfly.Submission{Workload: name, Payload: []byte("in " + name)}
}

func want(t testing.TB, err error, kind mayfly.Kind) {
	t.Helper()
	if mayfly.KindOf(err) != kind {
		t.Errorf("got error %v, want kind %q", err, kind)
	}
}

func TestFromSubmitToOutcome(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.Labels = map[string]string{"customer": "Zoë\r\n"}
	task := n.submit(sub)[0]
	if got := n.state(task.ID); got != mayfly.TaskQueued {
		t.Errorf("state %s before anybody asks", got)
	}
	g := n.next()
	if g.Task.ID != task.ID || string(g.Payload) != "in w" || g.Attempt.Number != 1 || g.Task.Labels["customer"] != "Zoë\r\n" {
		t.Errorf("granted %+v", g)
	}
	if got := n.state(task.ID); got != mayfly.TaskStarting {
		t.Errorf("state %s when granted", got)
	}
	n.Started(g, "i1")
	if got, err := n.Get(t.Context(), home, task.ID); err != nil || got.State != mayfly.TaskRunning || got.Attempts[0].Instance != "i1" {
		t.Errorf("when it runs: %+v, %v", got, err)
	}
	n.done(g, mayfly.Succeeded)
	ended, err := n.Wait(t.Context(), home, task.ID)
	if err != nil || ended.State != mayfly.TaskSucceeded || len(ended.Attempts) != 1 {
		t.Fatalf("ended as %+v, %v", ended, err)
	}
	a := ended.Attempts[0]
	if a.Node != "n1" || a.Instance != "i1" || a.Granted.IsZero() || a.Started.IsZero() || a.Ended.IsZero() || a.Exit.Reason != mayfly.Succeeded {
		t.Errorf("attempt %+v", a)
	}
	if out, err := n.Result(t.Context(), home, task.ID); string(out) != "out" || err != nil {
		t.Errorf("result %q, %v", out, err)
	}
	_, err = n.Done(t.Context(), g, result(mayfly.ExitedNonZero))
	want(t, err, mayfly.Conflict)
	_, err = n.Cancel(t.Context(), home, task.ID)
	want(t, err, mayfly.Conflict)
}

func TestLargestPayload(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.Payload = make([]byte, MaxInline)
	n.submit(sub)
	g := n.next()
	if len(g.Payload) != MaxInline {
		t.Errorf("%d bytes came", len(g.Payload))
	}
	if _, err := n.Done(t.Context(), g, mayfly.Result{Exit: mayfly.Exit{Reason: mayfly.Succeeded}, Output: make([]byte, 4<<20)}); err != nil {
		t.Fatal(err)
	}
	task, err := n.Get(t.Context(), home, g.Task.ID)
	if err != nil || !task.Cut {
		t.Errorf("a result that is too long: %+v, %v", task, err)
	}
}

func TestFullQueueRefuses(t *testing.T) {
	n := newNode(t, Options{MaxTasks: 3})
	n.submit(work("w"), work("w"), work("w"))
	a := n.Submit(t.Context(), []mayfly.Submission{work("w")})[0]
	want(t, a.Err, mayfly.Busy)
	n.start()
	n.done(n.next(), mayfly.Succeeded)
	n.submit(work("w"))
}

func TestKey(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.Key = "order 7"
	first := n.Submit(t.Context(), []mayfly.Submission{sub})[0]
	same := func(when string) {
		t.Helper()
		again := sub
		again.Priority = 4
		a := n.Submit(t.Context(), []mayfly.Submission{again})[0]
		if a.Err != nil || a.New || a.Task.ID != first.Task.ID || a.Task.Priority != 0 {
			t.Errorf("submitted again when %s: %+v", when, a)
		}
		again.Payload = []byte("other")
		want(t, n.Submit(t.Context(), []mayfly.Submission{again})[0].Err, mayfly.Conflict)
	}
	if first.Err != nil || !first.New {
		t.Fatalf("%+v", first)
	}
	same("queued")
	g := n.next()
	same("granted")
	n.done(g, mayfly.Succeeded)
	same("ended")
	other := sub
	other.Workload = "v"
	if a := n.Submit(t.Context(), []mayfly.Submission{other})[0]; a.Err != nil || !a.New {
		t.Errorf("the key of another workload: %+v", a)
	}
	late := sub
	late.Key, late.NotBefore = "order 8", time.Now().Add(time.Hour)
	a := n.Submit(t.Context(), []mayfly.Submission{late, late})
	if a[0].Err != nil || !a[0].New || a[1].Err != nil || a[1].New || a[0].Task.ID != a[1].Task.ID {
		t.Errorf("a key for later: %+v", a)
	}
}

func TestManyWithOneKey(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.Key = "once"
	n.deploy(mayfly.Workload{Name: "w"})
	answers := make(chan Accepted)
	for range 32 {
		go func() { answers <- n.Submit(context.Background(), []mayfly.Submission{sub})[0] }()
	}
	fresh := 0
	for range 32 {
		a := <-answers
		want(t, a.Err, "")
		if a.New {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d tasks of one key", fresh)
	}
	n.done(n.next(), mayfly.Succeeded)
	n.idle()
}

func TestRetriesThenBuried(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.Retries = mayfly.Retries{Max: 2, Delays: []time.Duration{time.Millisecond}}
	id := n.submit(sub)[0].ID
	for attempt := 1; attempt <= 3; attempt++ {
		g := n.next()
		if g.Attempt.Number != attempt || string(g.Payload) != "in w" || len(g.Task.Attempts) != attempt {
			t.Fatalf("attempt %d: %+v", attempt, g)
		}
		if g.Attempt.Granted.Before(g.Task.NotBefore) {
			t.Errorf("attempt %d came %s too early", attempt, g.Task.NotBefore.Sub(g.Attempt.Granted))
		}
		n.done(g, mayfly.ExitedNonZero)
	}
	if task, err := n.Wait(t.Context(), home, id); err != nil || task.State != mayfly.TaskBuried || len(task.Attempts) != 3 {
		t.Fatalf("%+v, %v", task, err)
	}
	if task, err := n.Retry(t.Context(), home, id); err != nil || task.State != mayfly.TaskQueued {
		t.Fatalf("%+v, %v", task, err)
	}
	g := n.next()
	if g.Attempt.Number != 4 || string(g.Payload) != "in w" {
		t.Errorf("brought back: %+v", g)
	}
	n.done(g, mayfly.Succeeded)
	if n.state(id) != mayfly.TaskSucceeded {
		t.Errorf("state %s", n.state(id))
	}
	_, err := n.Retry(t.Context(), home, id)
	want(t, err, mayfly.Conflict)
}

func TestPurgeOfBuried(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.Retries = mayfly.Retries{Max: 1, Delays: []time.Duration{0}}
	id := n.submit(sub)[0].ID
	n.done(n.next(), mayfly.OutOfMemory)
	n.done(n.next(), mayfly.DeadlinePassed)
	if task, err := n.Purge(t.Context(), home, id); err != nil || task.State != mayfly.TaskTimedOut {
		t.Fatalf("%+v, %v", task, err)
	}
	if n.state(id) != mayfly.TaskTimedOut {
		t.Errorf("state %s", n.state(id))
	}
}

func TestCancel(t *testing.T) {
	n := startNode(t)
	waits, runs := n.submit(work("w"))[0].ID, ""
	late := work("w")
	late.NotBefore = time.Now().Add(time.Hour)
	parked := n.submit(late)[0].ID
	for _, id := range []string{waits, parked} {
		if task, err := n.Cancel(t.Context(), home, id); err != nil || task.State != mayfly.TaskCancelled {
			t.Errorf("%+v, %v", task, err)
		}
	}
	n.idle()
	runs = n.submit(work("w"))[0].ID
	g := n.next()
	if _, err := n.Cancel(t.Context(), home, runs); err != nil {
		t.Fatal(err)
	}
	<-g.Cancelled()
	if task := n.done(g, mayfly.ExitedNonZero); task.State != mayfly.TaskCancelled {
		t.Errorf("%+v", task)
	}
	for _, id := range []string{waits, parked, runs} {
		if n.state(id) != mayfly.TaskCancelled {
			t.Errorf("%s is %s", id, n.state(id))
		}
	}
}

func TestPause(t *testing.T) {
	n := startNode(t)
	if err := n.Pause(t.Context(), home, "w"); err != nil {
		t.Fatal(err)
	}
	id := n.submit(work("w"))[0].ID
	n.idle()
	n = n.crash(Options{})
	n.start()
	if !n.Paused(home, "w") {
		t.Error("the pause did not last")
	}
	if err := n.Resume(t.Context(), home, "w"); err != nil {
		t.Fatal(err)
	}
	if g := n.next(); g.Task.ID != id {
		t.Errorf("granted %s", g.Task.ID)
	}
}

func TestAdopt(t *testing.T) {
	n := startNode(t)
	tasks := n.submit(work("w"), work("w"), work("w"))
	first, second := n.next(), n.next()
	n.done(second, mayfly.Succeeded)
	n = n.crash(Options{})
	g, err := n.Adopt(t.Context(), home, first.Task.ID, first.Attempt)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Adopt(t.Context(), home, second.Task.ID, second.Attempt)
	want(t, err, mayfly.Conflict)
	stale := first.Attempt
	stale.Number++
	_, err = n.Adopt(t.Context(), home, tasks[2].ID, stale)
	want(t, err, mayfly.Conflict)
	n.start()
	if third := n.next(); third.Task.ID != tasks[2].ID {
		t.Errorf("granted %s", third.Task.ID)
	}
	n.idle()
	n.done(g, mayfly.Succeeded)
	if n.state(first.Task.ID) != mayfly.TaskSucceeded {
		t.Errorf("state %s", n.state(first.Task.ID))
	}
}

// What a crash can leave in two places is in one again after Open.
func TestCrashBetweenTwoWrites(t *testing.T) {
	n := startNode(t)
	retry := work("w")
	retry.Retries = mayfly.Retries{Max: 1, Delays: []time.Duration{0}}
	ids := map[mayfly.TaskState]string{}
	for _, reason := range []mayfly.Reason{mayfly.Succeeded, mayfly.ExitedNonZero} {
		id := n.submit(retry)[0].ID
		for task := (mayfly.Task{}); !task.State.Ended() || task.State == ""; {
			task = n.done(n.next(), reason)
			ids[task.State] = id
		}
	}
	// Nothing was removed from pending yet, or it was; either way:
	n = n.crash(Options{})
	n.start()
	n.submit(work("w"))
	g := n.next() // is all that there is
	n.done(g, mayfly.Succeeded)
	for _, state := range []mayfly.TaskState{mayfly.TaskSucceeded, mayfly.TaskBuried} {
		if n.state(ids[state]) != state {
			t.Errorf("%s became %s", state, n.state(ids[state]))
		}
	}
	n.idle()
}

func TestList(t *testing.T) {
	n := startNode(t)
	for i := range 20 {
		sub := work([]string{"w", "v"}[i%2])
		sub.Labels = map[string]string{"n": fmt.Sprint(i / 10)}
		n.submit(sub)
	}
	for range 10 {
		n.done(n.next(), mayfly.Succeeded)
	}
	late := work("w")
	late.NotBefore = time.Now().Add(time.Hour)
	n.submit(late)
	var running []*Grant
	for range 5 {
		running = append(running, n.next())
	}
	n.Started(running[0], "c")
	all := func(f Filter) (tasks []mayfly.Task) {
		t.Helper()
		f.Space, f.Limit = home, 3
		for {
			page, err := n.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			tasks = append(tasks, page.Tasks...)
			if f.After = page.Next; f.After == "" {
				return tasks
			}
		}
	}
	for _, test := range []struct {
		name   string
		filter Filter
		want   int
	}{
		{"all", Filter{}, 21},
		{"queued", Filter{States: []mayfly.TaskState{mayfly.TaskQueued}}, 6},
		{"starting", Filter{States: []mayfly.TaskState{mayfly.TaskStarting}}, 4},
		{"running", Filter{States: []mayfly.TaskState{mayfly.TaskRunning}}, 1},
		{"under way", Filter{States: []mayfly.TaskState{mayfly.TaskStarting, mayfly.TaskRunning}}, 5},
		{"not ended", Filter{States: []mayfly.TaskState{mayfly.TaskStarting, mayfly.TaskRunning, mayfly.TaskQueued}}, 11},
		{"succeeded", Filter{States: []mayfly.TaskState{mayfly.TaskSucceeded}}, 10},
		{"one workload", Filter{Workload: "w"}, 11},
		{"a label", Filter{Labels: map[string]string{"n": "1"}}, 10},
		{"future", Filter{Since: time.Now().Add(time.Hour)}, 0},
		{"past", Filter{Until: time.Now().Add(time.Hour)}, 21},
	} {
		tasks := all(test.filter)
		seen := map[string]bool{}
		for _, task := range tasks {
			seen[task.ID] = true
		}
		if len(tasks) != test.want || len(seen) != test.want {
			t.Errorf("%s: %d tasks, %d different, want %d", test.name, len(tasks), len(seen), test.want)
		}
	}
	_, err := n.List(t.Context(), Filter{Space: home, After: "x"})
	want(t, err, mayfly.Invalid)
	n.stop()
	n = openNode(t, n.dir, Options{}) // which knows nothing of them, and grants none
	states := map[mayfly.TaskState]int{}
	for _, task := range all(Filter{}) {
		states[task.State]++
	}
	if states[mayfly.TaskSucceeded] != 10 || states[mayfly.TaskQueued] != 11 || len(states) != 2 {
		t.Errorf("after a restart: %v", states)
	}
}

func TestLaterBecomesPending(t *testing.T) {
	n := startNode(t)
	sub := work("w")
	sub.NotBefore = time.Now().Add(time.Hour)
	task := n.submit(sub)[0]
	got, err := n.get(t.Context(), home, task.ID)
	if err != nil || got.place != inLater {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := n.moveLater(t.Context(), laterSubject(task)); err != nil {
		t.Fatal(err)
	}
	if got, err = n.get(t.Context(), home, task.ID); err != nil || got.place != inPending {
		t.Fatalf("%+v, %v", got, err)
	}
	n.idle()
	if _, err := n.Cancel(t.Context(), home, task.ID); err != nil {
		t.Fatal(err)
	}
	sub.NotBefore = time.Now().Add(100 * time.Millisecond)
	n.submit(sub)
	if g := n.next(); g.Attempt.Granted.Before(g.Task.NotBefore) {
		t.Error("granted too early")
	}
}
