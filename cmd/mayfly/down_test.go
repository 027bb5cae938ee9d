package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTestDaemon returns a daemon that runs for the length of a test.
func startTestDaemon(t *testing.T) *testDaemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	d, err := newTestDaemon()
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		err = d.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDownAndUpAgain: SIGTERM ends the daemon and not its containers, the next
// one knows them, and down ends both.
func TestDownAndUpAgain(t *testing.T) {
	d := startTestDaemon(t)
	do := func(args ...string) string {
		t.Helper()
		out, err := d.mayfly(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	do("images", "import", d.path("busybox"), "--name", "bb")
	id := do("run", "-d", "--name", "stays", "bb", "sh", "-c", "echo first; exec sleep 1000")

	for do("logs", "stays") != "first" { // it has just been started
	}

	again, err := d.mayfly("up", "--data", d.path("data"), "--api", d.host()+"2", "--http", "")
	if err == nil || !strings.Contains(err.Error(), "mayfly: ") {
		t.Errorf("a second daemon on the same data: %q, %v", again, err)
	}

	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Fatalf("after SIGTERM: %v", err)
	}
	if _, err := os.Stat(d.path("s")); err == nil {
		t.Error("the socket is left over")
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if out := do("ps", "-q"); out != id {
		t.Errorf("running after the second start: %q instead of %q", out, id)
	}
	if out := do("logs", "stays"); out != "first" {
		t.Errorf("its log is %q", out)
	}

	do("down")
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("the daemon after down: %v", err)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if out := do("ps", "-a"); !strings.Contains(out, "stays") || !strings.Contains(out, "cancelled") {
		t.Errorf("after down and up:\n%s", out)
	}
}

// TestDownLeavesNoProcess: when down returns, every process that the daemon
// started is dead, whatever it was about at that moment.
func TestDownLeavesNoProcess(t *testing.T) {
	d := startTestDaemon(t)
	_, err := d.mayfly("images", "import", d.path("busybox"), "--name", "bb")
	if err == nil {
		err = os.WriteFile(d.path("mayfly.yaml"), []byte(`
name: busy
functions:
  quick: {image: bb, protocol: stdio, command: [cat], routes: [/quick]}
  slow: {image: bb, protocol: stdio, command: [sleep, "1000"], routes: [/slow]}
  web: {image: bb, command: [sh, -c, 'httpd -f -p $$PORT -h /etc'], routes: [/]}
`), 0o644)
	}
	if err == nil {
		_, err = d.mayfly("deploy", "-f", d.path("mayfly.yaml"))
	}
	if err == nil {
		_, err = d.mayfly("run", "-d", "bb", "sh", "-c", "trap '' TERM; sleep 1 & wait; sleep 1 & wait")
	}
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	ended := make(chan struct{})
	calls := []string{"quick", "quick", "slow", "slow", "web"}
	for _, path := range calls {
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				resp, err := client.Post(d.functions+"/"+path, "", strings.NewReader("x"))
				if err != nil {
					return // the daemon has gone
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}()
	}
	for n := 0; n < len(calls)+3; n = len(descendants(t, d.cmd.Process.Pid)) { // until the slow ones run
	}
	before := descendants(t, d.cmd.Process.Pid)
	if _, err := d.mayfly("down"); err != nil {
		t.Fatal(err)
	}
	for pid, name := range before { // a zombie is dead
		if state, ok := processState(pid); ok && state.parent != 0 && state.state != "Z" && state.started == name.started {
			t.Errorf("process %d (%s) is still there in state %s", pid, name.name, state.state)
		}
	}
	for range calls {
		<-ended
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("the daemon after down: %v", err)
	}
}

type process struct {
	name, state, started string
	parent               int
}

// processState reads /proc/PID/stat, proc_pid_stat(5).
func processState(pid int) (p process, ok bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	open, shut := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if err != nil || open < 0 || shut < 0 {
		return p, false
	}
	fields := strings.Fields(string(text[shut+1:]))
	p = process{name: string(text[open+1 : shut]), state: fields[0], started: fields[19]}
	p.parent, err = strconv.Atoi(fields[1])
	return p, err == nil
}

// descendants returns every process below a process.
func descendants(t *testing.T, of int) map[int]process {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]process{}
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if p, ok := processState(pid); ok {
			all[pid] = p
		}
	}
	found := map[int]process{}
	for pid, p := range all {
		for up := p.parent; up > 1; up = all[up].parent {
			if up == of {
				found[pid] = p
				break
			}
		}
	}
	return found
}
