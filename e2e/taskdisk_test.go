package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus/bustest"
)

// onSmallDisk runs a node whose data directory is a disk of its own.
func onSmallDisk(t *testing.T, megabytes int) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "mf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bustest.SmallDisk(t, filepath.Join(dir, "data"), megabytes)
	return startIn(t, dir)
}

// leave fills the disk of the data directory until there is no more room than
// this many bytes.
func (n *node) leave(room int64) {
	n.t.Helper()
	f, err := os.OpenFile(n.dir+"/data/filling", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	for {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
			n.t.Fatal(err)
		}
		free := int64(fs.Bavail) * fs.Bsize
		if free <= room {
			return
		}
		if _, err := f.Write(make([]byte, min(free-room, 1<<20))); err != nil && !errors.Is(err, unix.ENOSPC) {
			n.t.Fatal(err)
		}
	}
}

func (n *node) freeDisk() {
	n.t.Helper()
	if err := os.Remove(n.dir + "/data/filling"); err != nil {
		n.t.Fatal(err)
	}
}

// TestFullDisk: on a disk that is nearly full new tasks are refused and those
// that were accepted end. On one that is full they wait, also over a kill of
// the daemon, and end when there is room, with nobody doing anything else.
func TestFullDisk(t *testing.T) {
	n := onSmallDisk(t, 128)
	n.shell("work", "cat >/dev/null; sleep 2; echo done", nil)
	n.shell("later", "echo done", nil)
	n.shell("held", "echo done", nil)
	n.shell("again", `test "$MAYFLY_ATTEMPT" -gt 2 && echo done`, nil)
	var ids []string
	accept := func(count int, sub mayfly.Submission) {
		t.Helper()
		for range count {
			ids = append(ids, n.submit(sub).ID)
		}
	}
	// What there is room for is looked at now and then, so news takes a moment.
	refused := func(when string) {
		t.Helper()
		for {
			task, err := n.Submit(t.Context(), mayfly.Submission{Workload: "later"})
			if err == nil {
				ids = append(ids, task.ID)
				continue
			}
			if k := mayfly.KindOf(err); k != mayfly.Busy && k != mayfly.Unavailable {
				t.Fatalf("%s: submit: %v", when, err)
			}
			if strings.Contains(err.Error(), "the disk of the data directory is nearly full") {
				return
			}
		}
	}
	accepted := func() {
		t.Helper()
		for {
			task, err := n.Submit(t.Context(), mayfly.Submission{Workload: "later"})
			if err == nil {
				ids = append(ids, task.ID)
				return
			}
			if k := mayfly.KindOf(err); k != mayfly.Busy && k != mayfly.Unavailable {
				t.Fatalf("submit: %v", err)
			}
		}
	}
	ended := func(ids []string) {
		t.Helper()
		for _, id := range ids {
			if task := n.waitTask(id); task.State != mayfly.TaskSucceeded || n.result(id) != "done\n" {
				t.Errorf("%+v with %q", task, n.result(id))
			}
		}
	}
	if err := n.PauseQueue(t.Context(), "held"); err != nil {
		t.Fatal(err)
	}
	retries := mayfly.Retries{Max: 5, Backoff: time.Second}
	accept(20, mayfly.Submission{Workload: "work", Payload: make([]byte, 100_000)})
	accept(10, mayfly.Submission{Workload: "again", Retries: retries})
	accept(5, mayfly.Submission{Workload: "later", NotBefore: time.Now().Add(3 * time.Second)})
	n.leave(20 << 20)
	refused("nearly full")
	ended(ids)

	n.freeDisk()
	accepted()
	held := len(ids)
	accept(10, mayfly.Submission{Workload: "held", Payload: make([]byte, 10_000)})
	accept(5, mayfly.Submission{Workload: "work"})
	accept(5, mayfly.Submission{Workload: "again", Retries: retries})
	n.untilTask(ids[len(ids)-1], func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning || t.Attempt > 1 })
	n.leave(0)
	refused("full")
	n.ResumeQueue(t.Context(), "held") // may or may not be written
	refused("full")
	for _, id := range ids[held : held+10] {
		if task, err := n.GetTask(t.Context(), id); err != nil || task.State != mayfly.TaskQueued {
			t.Errorf("on a full disk: %+v, %v", task, err)
		}
	}
	n.freeDisk()
	accepted()
	if err := n.ResumeQueue(t.Context(), "held"); err != nil {
		t.Error(err)
	}
	ended(ids)

	accept(5, mayfly.Submission{Workload: "work"})
	n.untilTask(ids[len(ids)-1], func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning || t.State.Ended() })
	n.leave(0)
	n.kill()
	n.leave(0) // some was freed meanwhile
	out, err := exec.Command(binary, "up", "--data", n.dir+"/data", "--http", "", "--api", "unix://"+n.dir+"/api.sock").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is full: 0 kB are free") {
		t.Errorf("start on a full disk: %v\n%s", err, out)
	}
	n.freeDisk()
	n.up()
	accepted()
	ended(ids)
}
