package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// TestContainersKilled kills the program of a task, and the container's own
// first process: either way the attempt ends at once, saying how, and the task
// is retried if it asked for that.
func TestContainersKilled(t *testing.T) {
	n := start(t)
	n.shell("waits", `test "$MAYFLY_ATTEMPT" -gt 1 || sleep 1000; echo done`, nil)
	for _, c := range []struct {
		name    string
		argv0   string // of the process to kill
		retries int
		want    mayfly.TaskState
	}{
		{"the program", "sh", 0, mayfly.TaskFailed},
		{"the program of a task with retries", "sh", 1, mayfly.TaskSucceeded},
		{"init", "init", 0, mayfly.TaskFailed},
		{"init of a task with retries", "init", 1, mayfly.TaskSucceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.with(t)
			id := n.submit(mayfly.Submission{Workload: "waits", Retries: mayfly.Retries{Max: c.retries, Delays: []time.Duration{time.Millisecond}}}).ID
			n.untilTask(id, func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning })
			if err := syscall.Kill(n.processOf(id, c.argv0), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			task := n.waitTask(id)
			if task.State != c.want || len(task.Attempts) != 1+c.retries {
				t.Errorf("%+v", task)
			}
			first := task.Attempts[0]
			if first.Exit == nil || first.Exit.Code != 137 || first.Exit.Reason == mayfly.Succeeded || first.Ended.IsZero() {
				t.Errorf("the first attempt: %+v, %+v", first, first.Exit)
			}
			t.Logf("%+v", first.Exit)
		})
	}
}

// processOf is the process of this machine that runs a task's program ("sh"), or
// the first process of its container ("init").
func (n *node) processOf(id, what string) int {
	n.t.Helper()
	for {
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			n.t.Fatal(err)
		}
		for _, dir := range dirs {
			env, err := os.ReadFile(dir + "/environ")
			if err != nil || !strings.Contains(string(env), "MAYFLY_RUN="+id) {
				continue
			}
			cmdline, _ := os.ReadFile(dir + "/cmdline")
			if !strings.HasPrefix(string(cmdline), "sh\x00-c") {
				continue
			}
			pid, _ := strconv.Atoi(filepath.Base(dir))
			if what == "sh" {
				return pid
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue
			}
			_, rest, _ := strings.Cut(string(status), "PPid:")
			parent, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				n.t.Fatal(err)
			}
			return parent
		}
	}
}
