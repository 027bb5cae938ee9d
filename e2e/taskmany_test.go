package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// TestManyTasksWait: a hundred thousand tasks of a paused queue cost the daemon
// little memory, and neither lists nor others wait for them, also when the daemon was
// killed; all are done in the end. How long it takes is logged.
func TestManyTasksWait(t *testing.T) {
	const batch = 1000
	count := 100_000
	if testing.Short() {
		count = 10_000
	}
	n := start(t, "--tasks", "64")
	n.deploy(mayfly.Workload{Name: "many", Isolation: mayfly.IsolationInstance, Concurrency: 64})
	n.deploy(mayfly.Workload{Name: "other"})
	n.shell("fails", "exit 1", nil)
	dead := n.waitTask(n.submit(mayfly.Submission{Workload: "fails", Retries: mayfly.Retries{Max: 1, Delays: []time.Duration{time.Millisecond}}}).ID)
	if err := n.PauseQueue(t.Context(), "many"); err != nil {
		t.Fatal(err)
	}
	before := n.memory()
	began := time.Now()
	subs := make([]mayfly.Submission, batch)
	var last string
	for i := range count {
		subs[i%batch] = mayfly.Submission{Workload: "many", Payload: fmt.Appendf(nil, "payload %d", i), Labels: map[string]string{"n": strconv.Itoa(i / batch)}}
		if i%batch < batch-1 {
			continue
		}
		done, err := n.SubmitAll(t.Context(), subs)
		if err != nil {
			t.Fatal(err)
		}
		last = done[batch-1].Task.ID
	}
	t.Logf("%d accepted in %v, with %d MB more", count, time.Since(began).Round(time.Millisecond), (n.memory()-before)>>20)
	if more := n.memory() - before; more > 1500*count {
		t.Errorf("%d bytes of memory for each task that waits", more/count)
	}
	n.asked(dead.ID)
	n.kill()
	began = time.Now()
	n.up()
	t.Logf("back after %v, with %d MB", time.Since(began).Round(time.Millisecond), n.memory()>>20)
	n.asked(dead.ID)
	if _, err := n.GetTask(t.Context(), last); err != nil {
		t.Error(err)
	}
	began = time.Now()
	if err := n.ResumeQueue(t.Context(), "many"); err != nil {
		t.Fatal(err)
	}
	if task := n.waitTask(n.submit(mayfly.Submission{Workload: "other"}).ID); task.State != mayfly.TaskSucceeded {
		t.Errorf("%+v", task)
	}
	if _, err := n.WaitTask(t.Context(), last); err != nil { // they go in order
		t.Fatal(err)
	}
	left, err := n.ListTasks(t.Context(), client.TaskFilter{Workload: "many", States: []mayfly.TaskState{mayfly.TaskQueued, mayfly.TaskStarting, mayfly.TaskRunning}, Limit: 1000})
	if err != nil || len(left) > 64 {
		t.Errorf("%d are left when the last is done, %v", len(left), err)
	}
	for _, task := range left {
		n.waitTask(task.ID)
	}
	t.Logf("done in %v, with %d MB", time.Since(began).Round(time.Millisecond), n.memory()>>20)
	n.allSucceeded("many", count)
}

// asked asks what people ask of a queue that is stuck.
func (n *node) asked(dead string) {
	n.t.Helper()
	began := time.Now()
	buried, err := n.ListTasks(n.t.Context(), client.TaskFilter{States: []mayfly.TaskState{mayfly.TaskBuried}})
	if err != nil || len(buried) != 1 || buried[0].ID != dead {
		n.t.Errorf("buried: %+v, %v", buried, err)
	}
	first := time.Since(began)
	queued, err := n.ListTasks(n.t.Context(), client.TaskFilter{Workload: "many", Limit: 50})
	if err != nil || len(queued) != 50 {
		n.t.Errorf("%d of the first 50, %v", len(queued), err)
	}
	second := time.Since(began) - first
	if task := n.waitTask(n.submit(mayfly.Submission{Workload: "other"}).ID); task.State != mayfly.TaskSucceeded {
		n.t.Errorf("%+v", task)
	}
	n.t.Logf("buried listed in %v, 50 queued in %v, another task done in %v", first, second, time.Since(began)-first-second)
}

// allSucceeded checks that each of a workload's tasks succeeded at once.
func (n *node) allSucceeded(workload string, count int) {
	n.t.Helper()
	tasks, err := n.ListTasks(n.t.Context(), client.TaskFilter{Workload: workload, States: []mayfly.TaskState{mayfly.TaskSucceeded}, Limit: count + 1})
	if err != nil {
		n.t.Fatal(err)
	}
	seen := make(map[string]bool, count)
	for _, task := range tasks {
		seen[task.ID] = true
	}
	if len(seen) != count || len(tasks) != count {
		n.t.Errorf("%d outcomes of %d tasks, want %d", len(tasks), len(seen), count)
	}
}

// memory is what the daemon holds, in bytes.
func (n *node) memory() int {
	n.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		n.t.Fatal(err)
	}
	return kb << 10
}
