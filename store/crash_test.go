package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// crashDir tells a copy of the test binary to write to that directory until it
// is killed, and to print each thing that the store has acknowledged.
const crashDir = "MAYFLY_TEST_CRASH_DIR"

func TestKillLosesNothingAcknowledged(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	acked := map[string]string{} // the last acknowledged value of each thing
	for round, lines := range []int{1, 40, 400} {
		for _, line := range killAfter(t, dir, lines) {
			what, value, _ := strings.Cut(line, " ")
			acked[what] = value
		}
		verifyAcked(t, dir, acked)
		t.Logf("round %d: %d things acknowledged so far", round, len(acked))
	}
}

// killAfter runs the writer and kills it as soon as it has printed n lines; it
// returns all that were printed.
func killAfter(t *testing.T, dir string, n int) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillLosesNothingAcknowledged$", "-test.v=false")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if text, ok := strings.CutPrefix(scan.Text(), "ack "); ok {
			lines = append(lines, text)
		}
		if len(lines) == n {
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
	if len(lines) < n {
		t.Fatalf("the writer ended by itself after %d of %d lines", len(lines), n)
	}
	return lines
}

func writeUntilKilled(t *testing.T, dir string) {
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		in := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Name: "i-" + mayfly.NewID(), State: mayfly.Starting}
		rev, err := s.PutInstance(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("ack", in.ID, mayfly.Starting)
		in.State = mayfly.Running
		if _, err := s.UpdateInstance(context.Background(), in, rev); err != nil {
			t.Fatal(err)
		}
		fmt.Println("ack", in.ID, mayfly.Running)
		w := deploy(t, s, mayfly.Workload{Space: "default", Name: "w" + strconv.Itoa(i%3)})
		fmt.Println("ack", w.Workload.Name, w.Number)
	}
}

func verifyAcked(t *testing.T, dir string, acked map[string]string) {
	t.Helper()
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for what, value := range acked {
		if number, err := strconv.Atoi(value); err == nil {
			if w, err := s.Workload("default", what); err != nil || w.Number < number {
				t.Errorf("workload %s: release %d, %v; %d was acknowledged", what, w.Number, err, number)
			}
			continue
		}
		in, err := s.Instance("default", what)
		if err != nil || value == string(mayfly.Running) && in.State != mayfly.Running {
			t.Errorf("instance %s: %q, %v; %q was acknowledged", what, in.State, err, value)
		}
	}
}
