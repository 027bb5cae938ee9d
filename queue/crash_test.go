package queue

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// crashDir tells a copy of the test binary to work in that directory until it
// is killed, and to print what it was told.
const crashDir = "MAYFLY_TEST_QUEUE_DIR"

// TestKill: whatever was accepted before a kill -9 is accounted for afterwards,
// once.
func TestKill(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		workUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	accepted, ended := map[string]bool{}, map[string]string{}
	for _, lines := range []int{1, 50, 500} {
		for _, line := range killAfter(t, dir, lines) {
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
					fmt.Println("ack ended", task.ID)
				}
			}
		}()
	}
	for {
		for _, task := range n.submit(work("a"), work("b"), work("c")) {
			fmt.Println("ack accepted", task.ID)
		}
	}
}

// killAfter runs the worker and kills it when it has printed so many lines.
func killAfter(t *testing.T, dir string, lines int) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var list []string
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if text, ok := strings.CutPrefix(scan.Text(), "ack "); ok {
			list = append(list, text)
		}
		if len(list) == lines {
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
	if len(list) < lines {
		t.Fatalf("the worker ended by itself after %d of %d lines", len(list), lines)
	}
	return list
}
