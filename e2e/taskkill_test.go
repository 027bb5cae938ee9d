package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// daemonKills is how often TestKillsLoseNoTask kills the daemon.
const daemonKills = 200

// TestKillsLoseNoTask kills the daemon at random moments under load. Every task
// that was accepted succeeds once, and no attempt whose program was started is
// started again.
func TestKillsLoseNoTask(t *testing.T) {
	t.Parallel()
	n := start(t)
	out, err := os.MkdirTemp("", "mf-ran-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(out) })
	n.shell("mark", `echo "$MAYFLY_RUN $MAYFLY_ATTEMPT" >>/out/ran; read wait; sleep $wait; echo done $MAYFLY_RUN`, func(w *mayfly.Workload) {
		w.Mounts = []mayfly.Mount{{Type: "bind", Source: out, Target: "/out"}}
	})
	n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance, Concurrency: 2})

	// The daemon changes under the submitters: they go on with what it answers.
	var mu sync.Mutex
	accepted := map[string]string{} // by id, the workload
	var stop atomic.Bool
	var submitters sync.WaitGroup
	for s := range 3 {
		submitters.Go(func() {
			for i := 0; !stop.Load(); i++ {
				sub := mayfly.Submission{Workload: "mark", Key: fmt.Sprintf("%d-%d", s, i), Payload: fmt.Appendf(nil, "0.%03d\n", rand.IntN(300))}
				if i%4 == 0 {
					sub.Workload = "kept"
				}
				for {
					task, err := n.Submit(context.Background(), sub)
					if err == nil {
						mu.Lock()
						accepted[task.ID] = sub.Workload
						mu.Unlock()
						break
					}
					if k := mayfly.KindOf(err); k != mayfly.Unavailable && k != mayfly.TimedOut {
						t.Errorf("submit: %v", err)
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
				time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			}
		})
	}
	for range daemonKills {
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		n.kill()
		n.up()
	}
	stop.Store(true)
	submitters.Wait()
	if len(accepted) < daemonKills/2 {
		t.Errorf("only %d tasks were accepted", len(accepted))
	}
	attempts := 0
	for id, workload := range accepted {
		task := n.waitTask(id)
		attempts += len(task.Attempts)
		if task.State != mayfly.TaskSucceeded {
			text, _ := json.Marshal(task)
			t.Errorf("task %s of %s: %s", id, workload, text)
		}
		if got := n.result(id); workload == "mark" && got != "done "+id+"\n" {
			t.Errorf("the result of %s is %q", id, got)
		}
	}
	ran, begun := runsOf(t, filepath.Join(out, "ran")), map[string]bool{}
	for attempt, times := range ran {
		id, _, _ := strings.Cut(attempt, " ")
		if begun[id] = true; accepted[id] == "" {
			t.Errorf("%s ran and was not accepted", attempt)
		}
		if times > 1 {
			t.Errorf("attempt %q was started %d times", attempt, times)
		}
	}
	for id, workload := range accepted {
		if workload == "mark" && !begun[id] {
			t.Errorf("task %s has an outcome and never ran", id)
		}
	}
	n.stop()
	n.nothingLeft()
	t.Logf("%d kills, %d tasks accepted, %d attempts recorded, %d programs started", daemonKills, len(accepted), attempts, len(ran))
}

// runsOf counts the lines of a file.
func runsOf(t *testing.T, path string) map[string]int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ran := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		ran[lines.Text()]++
	}
	return ran
}
