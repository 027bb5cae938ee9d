package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// TestPowerCutInside is the part of e2e/vm's TestPowerCut that runs in the
// machine: it checks what was said before the power was cut, and goes on until
// it is cut again.
func TestPowerCutInside(t *testing.T) {
	dir, said := os.Getenv("MAYFLY_POWER_DIR"), os.Getenv("MAYFLY_POWER_SAID")
	if dir == "" {
		t.Skip("e2e/vm runs this in a machine whose power it cuts")
	}
	n := &node{t: t, dir: dir}
	err := os.MkdirAll(dir, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	n.up()
	if n.Client, err = client.New("unix://" + dir + "/api.sock"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.GetWorkload(t.Context(), "kept"); err != nil { // the first machine, or one that was cut before it came to that
		if _, err := n.ImportImage(t.Context(), "app", bytes.NewReader(appImage(t)), 0); err != nil {
			t.Fatal(err)
		}
		n.shell("fresh", "echo done", nil)
		n.shell("again", `test "$MAYFLY_ATTEMPT" -gt 1 && echo done`, nil)
		n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance, Concurrency: 2})
	}
	n.checkSaid(said)
	fmt.Println("checked")
	if os.Getenv("MAYFLY_POWER_LAST") != "" {
		n.checkAll()
		fmt.Println("over")
		return
	}
	var submitters sync.WaitGroup
	for s := range 4 {
		submitters.Go(func() { n.submitForEver(s) })
	}
	submitters.Wait()
}

// submitForEver says which tasks were accepted, and of some how they ended.
func (n *node) submitForEver(s int) {
	for i := 0; ; i++ {
		sub := mayfly.Submission{Workload: "kept", Payload: bytes.Repeat([]byte("x"), i%2000)}
		switch i % 8 {
		case 1:
			sub.Workload = "fresh"
		case 3:
			sub.Workload, sub.Retries = "again", mayfly.Retries{Max: 5, Backoff: 20 * time.Millisecond}
		case 5:
			sub.NotBefore = time.Now().Add(time.Duration(i%3) * 6 * time.Second) // the last go by way of later
		case 7:
			sub.Key = fmt.Sprint(os.Getpid(), s, i, time.Now().UnixNano())
		}
		task, err := n.Submit(context.Background(), sub)
		if err != nil {
			n.t.Errorf("submit: %v", err)
			return
		}
		fmt.Printf("ack %s\n", task.ID)
		if i%16 == 0 {
			if task, err = n.WaitTask(context.Background(), task.ID); err != nil {
				n.t.Errorf("wait: %v", err)
				return
			}
			fmt.Println("end", endOf(task))
		}
	}
}

// endOf is what never changes any more of a task that has ended.
func endOf(t mayfly.Task) string {
	return fmt.Sprintf("%s %s %d %d", t.ID, t.State, t.Attempt, t.Ended.UnixNano())
}

// checkSaid checks that every task that was acknowledged is there and ends, and
// that one that had ended has the same end.
func (n *node) checkSaid(file string) {
	n.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	acked, ended := map[string]bool{}, map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		id, _, _ := strings.Cut(rest, " ")
		switch verb {
		case "ack":
			acked[id] = true
		case "end":
			ended[id] = rest
		}
	}
	there := map[string]mayfly.Task{}
	for _, task := range n.allTasks() {
		there[task.ID] = task
	}
	get := func(id string) mayfly.Task {
		if task, ok := there[id]; ok && task.State.Ended() {
			return task
		}
		task, err := n.GetTask(n.t.Context(), id) // it may have moved while all were listed
		if err != nil {
			n.t.Errorf("task %s was accepted: %v", id, err)
		}
		return task
	}
	for id, end := range ended {
		if task := get(id); endOf(task) != end {
			n.t.Errorf("%s is now %s", end, endOf(task))
		}
	}
	for id := range acked {
		get(id)
	}
	if n.t.Failed() {
		n.t.FailNow()
	}
	for id := range acked {
		task := get(id)
		if !task.State.Ended() {
			task = n.waitTask(id)
		}
		if task.State != mayfly.TaskSucceeded {
			n.t.Errorf("%+v", task)
		}
		if ended[id] == "" {
			fmt.Println("end", endOf(task))
		}
	}
}

func (n *node) allTasks() []mayfly.Task {
	n.t.Helper()
	tasks, err := n.ListTasks(n.t.Context(), client.TaskFilter{Limit: 100_000})
	if err != nil {
		n.t.Fatal(err)
	}
	return tasks
}

// checkAll checks that no task is left that has not ended.
func (n *node) checkAll() {
	n.t.Helper()
	seen := map[string]bool{}
	for _, task := range n.allTasks() {
		if seen[task.ID] {
			n.t.Errorf("task %s is listed twice", task.ID)
		}
		if seen[task.ID] = true; !task.State.Ended() {
			n.waitTask(task.ID)
		}
	}
}
