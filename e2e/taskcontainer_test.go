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
func (n *node) processOf(id, what string) (pid int) {
	n.t.Helper()
	runs := func(pid int) bool {
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return strings.Contains(string(env), "MAYFLY_RUN="+id) && strings.HasPrefix(string(cmdline), "sh\x00-c")
	}
	n.until("its program runs", func() bool {
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			n.t.Fatal(err)
		}
		for _, dir := range dirs {
			pid, _ = strconv.Atoi(filepath.Base(dir))
			status, _ := os.ReadFile(dir + "/status")
			_, rest, _ := strings.Cut(string(status), "PPid:")
			var parent int
			fmt.Sscan(rest, &parent)
			if parent == 0 || !runs(pid) || runs(parent) { // that is a child which is yet to become sleep
				continue
			}
			if what == "init" {
				pid = parent
			}
			return true
		}
		return false
	})
	return pid
}
