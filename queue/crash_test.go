package queue

import (
	"context"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus/bustest"
)

// TestKill: whatever was accepted before a kill -9 is accounted for afterwards,
// once.
func TestKill(t *testing.T) {
	if dir := bustest.Doomed(); dir != "" {
		workUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	accepted, ended := map[string]bool{}, map[string]string{}
	for _, lines := range []int{1, 50, 500} {
		for _, line := range bustest.KillAfter(t, "TestKill", dir, lines) {
			what, id, _ := strings.Cut(line, " ")
			if accepted[id] = true; what == "accepted" {
				continue
			}
			if ended[id] != "" {
				t.Errorf("task %s ended twice", id)
			}
			ended[id] = what
		}
	}
	n := openNode(t, dir, Options{})
	n.start()
	again := 0
	for {
		left := 0
		for id := range accepted {
			if !n.state(id).Ended() {
				left++
			}
		}
		if left == 0 {
			break
		}
		g := n.next()
		if ended[g.Task.ID] != "" {
			t.Fatalf("task %s ended and was granted again", g.Task.ID)
		}
		n.done(g, mayfly.Succeeded)
		again++
	}
	t.Logf("%d tasks accepted, %d ended before the kills, %d after", len(accepted), len(ended), again)
}

func workUntilKilled(t *testing.T, dir string) {
	n := openNode(t, dir, Options{})
	n.start()
	for range 4 {
		go func() {
			for {
				g, err := n.Next(context.Background(), "n1")
				if err != nil {
					return
				}
				if task, err := n.Done(context.Background(), g, result(mayfly.Succeeded)); err == nil {
					bustest.Acknowledge("ended", task.ID)
				}
			}
		}()
	}
	for {
		for _, task := range n.submit(work("a"), work("b"), work("c")) {
			bustest.Acknowledge("accepted", task.ID)
		}
	}
}
