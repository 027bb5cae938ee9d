package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// large is a payload of 20 MB, and its digest.
func large() (data []byte, digest string) {
	data = make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	sum := sha256.Sum256(data)
	return data, hex.EncodeToString(sum[:])
}

// payloadsLeft are the files of payloads.
func (n *node) payloadsLeft() []string {
	n.t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.dir, "data/payloads"))
	if err != nil {
		n.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// peak is the most memory that the daemon had, in bytes.
func (n *node) peak() int64 {
	n.t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(n.cmd.Process.Pid) + "/status")
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return kb << 10
		}
	}
	n.t.Fatal("no VmHWM")
	return 0
}

const (
	sumsIt = "busybox sha256sum; busybox sha256sum </run/mayfly/payload"
	sumsPy = "import hashlib, time\ndef handle(event, context):\n    return [hashlib.sha256(event).hexdigest(), context.attempt]\n"
)

// TestLargePayloads: whatever way a function is given its input, it gets all of
// a large one, and nothing is left of that afterwards.
func TestLargePayloads(t *testing.T) {
	n := start(t)
	data, sum := large()
	twice := sum + "  -\n" + sum + "  -\n"
	n.shell("stdio", sumsIt, nil)
	n.shell("small", sumsIt, func(w *mayfly.Workload) { w.Memory = 16 << 20 })
	n.deploy(mayfly.Workload{Name: "web"})
	n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance})
	n.deploy(mayfly.Workload{Name: "cgi", Protocol: mayfly.CGI, Process: mayfly.Process{
		Command: []string{"sh", "-c", `printf 'Content-Type: text/plain\r\n\r\n'; busybox sha256sum`}}})
	n.handler("py", "main.py", sumsPy, "main.handle", mayfly.IsolationRun)
	n.handler("py-kept", "main.py", sumsPy, "main.handle", mayfly.IsolationInstance)
	n.handler("js", "main.mjs", "import { createHash } from 'node:crypto'\nexport async function handle (event, context) {\n  return [createHash('sha256').update(event).digest('hex'), context.attempt]\n}\n", "main.handle", mayfly.IsolationRun)
	n.deploy(mayfly.Workload{Name: "picky", MaxBody: 1 << 20})
	handled := func(sum string) string { return `["` + sum + `", 1]` }
	for _, c := range []struct {
		sub  mayfly.Submission
		want string
	}{
		{mayfly.Submission{Workload: "stdio"}, twice},
		{mayfly.Submission{Workload: "small"}, twice},
		{mayfly.Submission{Image: "app", Argv: []string{"busybox", "sha256sum", "/run/mayfly/payload"}}, sum + "  /run/mayfly/payload\n"},
		{mayfly.Submission{Workload: "cgi"}, sum + "  -\n"},
		{mayfly.Submission{Workload: "py"}, handled(sum)},
		{mayfly.Submission{Workload: "py-kept"}, handled(sum)},
		{mayfly.Submission{Workload: "js"}, `["` + sum + `",1]`},
		{mayfly.Submission{Workload: "web"}, string(data[:256<<10])},
		{mayfly.Submission{Workload: "kept"}, string(data[:256<<10])},
	} {
		task, err := n.SubmitFrom(t.Context(), c.sub, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		task = n.waitTask(task.ID)
		if task.State != mayfly.TaskSucceeded || task.Attempt != 1 || task.Size != len(data) {
			t.Errorf("%+v: %+v", c.sub, task)
			continue
		}
		if got := n.result(task.ID); got != c.want {
			t.Errorf("%+v: %d bytes, %.200q", c.sub, len(got), got)
		}
		if task.Cut != (len(c.want) == 256<<10) {
			t.Errorf("%+v: cut is %v", c.sub, task.Cut)
		}
	}
	if _, err := n.SubmitFrom(t.Context(), mayfly.Submission{Workload: "picky"}, bytes.NewReader(data)); mayfly.KindOf(err) != mayfly.TooLarge {
		t.Errorf("a function that takes no such bodies: %v", err)
	}
	n.until("one payload is left", func() bool { return len(n.payloadsLeft()) == 1 }) // what picky did not take waits for its hour
	if peak := n.peak(); peak > 160<<20 {
		t.Errorf("the daemon had %d MB", peak>>20)
	}
}

// TestLargePayloadsOutliveTheDaemon: killed between upload and submit, while the
// task waits, and while it runs.
func TestLargePayloadsOutliveTheDaemon(t *testing.T) {
	n := start(t)
	data, sum := large()
	shared, mounts := n.shared()
	n.shell("slow", "busybox sha256sum; until [ -e /shared/go ]; do sleep 0.05; done; busybox sha256sum </run/mayfly/payload; test $MAYFLY_ATTEMPT -gt 1",
		func(w *mayfly.Workload) { w.Mounts = mounts })
	n.shell("waits", "busybox sha256sum", nil)
	n.deploy(mayfly.Workload{Name: "web"})
	if err := n.PauseQueue(t.Context(), "waits"); err != nil {
		t.Fatal(err)
	}
	up, err := n.PutPayload(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	n.kill()
	n.up()
	retries := mayfly.Retries{Max: 1, Delays: []time.Duration{time.Millisecond}}
	slow := n.submit(mayfly.Submission{Workload: "slow", PayloadRef: up.Ref, Retries: retries})
	waits, err := n.SubmitFrom(t.Context(), mayfly.Submission{Workload: "waits"}, io.MultiReader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	n.untilTask(slow.ID, func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning })
	n.kill()
	n.up()
	n.touch(shared, "go")
	if task := n.waitTask(slow.ID); task.State != mayfly.TaskSucceeded || task.Attempt != 2 || n.result(slow.ID) != sum+"  -\n"+sum+"  -\n" {
		t.Errorf("%+v with %q", task, n.result(slow.ID))
	}
	body, err := n.OpenTaskPayload(t.Context(), waits.ID)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	body.Close()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := n.ResumeQueue(t.Context(), "waits"); err != nil {
		t.Fatal(err)
	}
	if task := n.waitTask(waits.ID); task.State != mayfly.TaskSucceeded || n.result(waits.ID) != sum+"  -\n" {
		t.Errorf("%+v with %q", task, n.result(waits.ID))
	}
	n.until("no payload is left", func() bool { return len(n.payloadsLeft()) == 0 })
	upload, started := io.Pipe()
	broken := make(chan error, 1)
	go func() {
		_, err := n.PutPayload(t.Context(), upload)
		broken <- err
	}()
	if _, err := started.Write(data); err != nil {
		t.Fatal(err)
	}
	n.kill()
	upload.CloseWithError(io.ErrClosedPipe)
	if err := <-broken; err == nil {
		t.Error("an upload was answered by nobody")
	}
	n.up()
	if left := n.payloadsLeft(); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}
