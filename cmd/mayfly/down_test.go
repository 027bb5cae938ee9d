package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestDownAndUpAgain: SIGTERM ends the daemon and not its containers, the next
// one knows them, and down ends both.
func TestDownAndUpAgain(t *testing.T) {
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
