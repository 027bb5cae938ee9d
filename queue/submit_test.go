package queue

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// A batch with a bad submission leaves nothing behind, and the error says which.
func TestBatchIsRefusedWhole(t *testing.T) {
	taken := work("w")
	taken.Key = "taken"
	for name, test := range map[string]struct {
		kind mayfly.Kind
		sub  mayfly.Submission
	}{
		"priority":        {mayfly.Invalid, mayfly.Submission{Workload: "w", Priority: 10}},
		"no name":         {mayfly.Invalid, mayfly.Submission{Workload: "Not A Name"}},
		"too large":       {mayfly.TooLarge, mayfly.Submission{Workload: "w", Payload: make([]byte, MaxInline+1)}},
		"a long record":   {mayfly.TooLarge, mayfly.Submission{Image: "busybox", Argv: []string{strings.Repeat("x", maxRecord)}}},
		"two things":      {mayfly.Invalid, mayfly.Submission{Workload: "w", Image: "busybox"}},
		"nothing":         {mayfly.Invalid, mayfly.Submission{}},
		"no callback":     {mayfly.Invalid, mayfly.Submission{Workload: "w", Callback: "ftp://x"}},
		"environment":     {mayfly.Invalid, mayfly.Submission{Workload: "w", Env: map[string]string{"A": "1"}}},
		"no variable":     {mayfly.Invalid, mayfly.Submission{Image: "busybox", Env: map[string]string{"A=": "1"}}},
		"unknown image":   {mayfly.NotFound, mayfly.Submission{Image: "busybux"}},
		"unknown release": {mayfly.NotFound, mayfly.Submission{Workload: "w", Release: 7}},
		"retries":         {mayfly.Invalid, mayfly.Submission{Workload: "w", Retries: mayfly.Retries{Max: -2}}},
		"a taken key":     {mayfly.Conflict, mayfly.Submission{Workload: "w", Key: "taken"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, Options{})
			n.submit(taken)
			late := work("w")
			late.NotBefore = time.Now().Add(time.Hour)
			for _, a := range n.Submit(t.Context(), []mayfly.Submission{work("w"), late, test.sub, work("v")}) {
				want(t, a.Err, test.kind)
				if !strings.HasPrefix(a.Err.Error(), "task 3 of 4: ") || strings.Count(a.Err.Error(), ";") > 1 {
					t.Errorf("the error is %q", a.Err)
				}
			}
			page, err := n.List(t.Context(), Filter{Space: home})
			if err != nil || len(page.Tasks) != 1 || n.waiting.tasks.Load() != 1 {
				t.Errorf("%d tasks are there, %v", len(page.Tasks), err)
			}
			if a := n.Submit(t.Context(), []mayfly.Submission{test.sub})[0]; a.Err == nil || strings.Contains(a.Err.Error(), "task 1") {
				t.Errorf("alone: %v", a.Err)
			}
		})
	}
}

func TestBatchNeedsRoomForAll(t *testing.T) {
	n := newNode(t, Options{MaxTasks: 3})
	n.submit(work("w"))
	for _, a := range n.Submit(t.Context(), []mayfly.Submission{work("w"), work("w"), work("w")}) {
		want(t, a.Err, mayfly.Busy)
	}
	want(t, n.Submit(t.Context(), make([]mayfly.Submission, MaxBatch+1))[0].Err, mayfly.TooLarge)
	n.submit(work("w"), work("w"))
}

func TestUnknownWorkload(t *testing.T) {
	n := newNode(t, Options{})
	err := n.Queue.Submit(t.Context(), []mayfly.Submission{work("w")})[0].Err
	want(t, err, mayfly.NotFound)
	if err == nil || !strings.Contains(err.Error(), "`mayfly workloads`") {
		t.Errorf("the error gives no hint: %v", err)
	}
}

// A key that comes twice in a batch is one task.
func TestKeyTwiceInABatch(t *testing.T) {
	n := newNode(t, Options{})
	sub, other := work("w"), work("w")
	sub.Key = "k"
	a := n.Submit(t.Context(), []mayfly.Submission{sub, other, sub})
	if !a[0].New || !a[1].New || a[2].New || a[2].Err != nil || a[0].Task.ID != a[2].Task.ID {
		t.Errorf("%+v", a)
	}
	other.Key, other.Payload = "l", []byte("1")
	third := other
	third.Payload = []byte("2")
	for _, a := range n.Submit(t.Context(), []mayfly.Submission{other, third}) {
		want(t, a.Err, mayfly.Conflict)
	}
}

func TestDefaults(t *testing.T) {
	const mb = 1 << 20
	ms := time.Millisecond
	says := mayfly.Workload{Timeout: time.Minute, Resources: mayfly.Resources{Memory: 64 * mb},
		Retries: mayfly.Retries{Max: 3, Backoff: ms, Jitter: 0.5, Final: []int{2}, MemoryUpTo: 256 * mb}}
	for _, test := range []struct {
		name     string
		workload mayfly.Workload
		sub      mayfly.Submission
		timeout  time.Duration
		memory   int64
		retries  mayfly.Retries
	}{
		{"nobody says anything", mayfly.Workload{}, mayfly.Submission{}, time.Hour, 0, mayfly.Retries{}},
		{"the workload", says, mayfly.Submission{}, time.Minute, 64 * mb, says.Retries},
		{"the submission", says, mayfly.Submission{Timeout: ms, Memory: mb, Retries: mayfly.Retries{Max: 1, Delays: []time.Duration{1}, Final: []int{9}}},
			ms, mb, mayfly.Retries{Max: 1, Delays: []time.Duration{1}, Jitter: 0.5, Final: []int{9}, MemoryUpTo: 256 * mb}},
		{"no retries", says, mayfly.Submission{Retries: mayfly.Retries{Max: -1}}, time.Minute, 0, mayfly.Retries{}},
		{"memory to begin with", mayfly.Workload{Retries: mayfly.Retries{Max: 1, MemoryUpTo: 1 << 30}}, mayfly.Submission{}, time.Hour, 512 * mb,
			mayfly.Retries{Max: 1, MemoryUpTo: 1 << 30}},
	} {
		t.Run(test.name, func(t *testing.T) {
			task := mayfly.Task{Timeout: test.sub.Timeout, Memory: test.sub.Memory, Retries: test.sub.Retries}
			applyDefaults(&task, &test.workload)
			if task.Timeout != test.timeout || task.Memory != test.memory || !reflect.DeepEqual(task.Retries, test.retries) {
				t.Errorf("got %s, %d bytes, %+v", task.Timeout, task.Memory, task.Retries)
			}
		})
	}
}

// A task keeps what it was resolved to.
func TestTaskPinsItsRelease(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w", Timeout: time.Minute})
	old := n.submit(work("w"))[0]
	n.deploy(mayfly.Workload{Name: "w"})
	fresh := n.submit(work("w"))[0]
	image := n.submit(mayfly.Submission{Image: "busybox", Argv: []string{"true"}, Env: map[string]string{"A": "1"}})[0]
	if old.Release != 1 || fresh.Release != 2 || image.ImageDigest != "sha256:b" || image.Image != "busybox" || image.Env["A"] != "1" || image.Timeout != time.Hour {
		t.Errorf("%+v\n%+v\n%+v", old, fresh, image)
	}
	if pins, err := n.Pins(t.Context(), home, "w", []int{1, 2, 3}); err != nil || !slices.Equal(pins, []int{1, 2}) {
		t.Errorf("releases %v are needed, %v", pins, err)
	}
	for range 3 {
		g := n.next()
		switch g.Task.ID {
		case image.ID:
			if g.Release != nil {
				t.Errorf("a task of an image has release %d", g.Release.Number)
			}
		default:
			if g.Release == nil || g.Release.Number != g.Task.Release {
				t.Errorf("release %+v for a task of %d", g.Release, g.Task.Release)
			}
		}
		n.done(g, mayfly.Succeeded)
	}
}

// A task whose release is gone fails, whatever its retries, and the next goes.
func TestReleaseIsGone(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w"})
	sub := work("w")
	sub.Retries = mayfly.Retries{Max: 3}
	id := n.submit(sub)[0].ID
	w, err := n.store.Workload(home, "w")
	if err == nil {
		err = n.store.DeleteWorkload(t.Context(), home, "w", w.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	other := n.submit(work("v"))[0].ID
	if g := n.next(); g.Task.ID != other {
		t.Errorf("granted %+v", g)
	}
	task, err := n.Wait(t.Context(), home, id)
	if err != nil || task.State != mayfly.TaskFailed || !strings.Contains(task.Attempts[0].Exit.Detail, `release 1 of workload "w" is gone`) {
		t.Errorf("%+v, %v", task, err)
	}
}

// Limits are those of the active release, of tasks that wait already too.
func TestLimitsFollowTheRecord(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w", Concurrency: 1})
	n.submit(work("w"), work("w"), work("w"))
	first := n.next()
	n.idle()
	n.deploy(mayfly.Workload{Name: "w", Concurrency: 2})
	second := n.next()
	n.idle()
	n.deploy(mayfly.Workload{Name: "w"})
	third := n.next()
	for _, g := range []*Grant{first, second, third} {
		n.done(g, mayfly.Succeeded)
	}
}
