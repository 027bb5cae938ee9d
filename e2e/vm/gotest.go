package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// GoTest compiles the tests of a package of this module, runs them in a machine
// with args (such as "-test.run=X"), and fails the test with what the failing ones
// of them say. The package's testdata directory is there too.
func GoTest(t testing.TB, pkg string, o Options, args ...string) {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", bin, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compile the tests of %s: %v\n%s", pkg, err, said)
	}
	src, err := goList(t.Context(), pkg)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{bin: "/test/test"}
	for from, to := range o.Files {
		files[from] = to
	}
	if data := filepath.Join(src, "testdata"); exists(data) {
		files[data] = "/test/testdata"
	}
	o.Files, o.Dir = files, "/test"
	o.Timeout = or(o.Timeout, testTimeout)
	// A test that hangs says where, before the machine is switched off.
	limit := "-test.timeout=" + (o.Timeout - o.Timeout/5).String()
	o.Command = append([]string{"/test/test", "-test.v=test2json", limit}, args...)
	output, exit := Run(t, o)
	events, err := testEvents(t.Context(), output)
	if err != nil {
		t.Fatalf("read what the tests of %s say: %v\n%s", pkg, err, output)
	}
	said, passed := failures(events)
	if passed == 0 && exit == 0 {
		t.Errorf("no test of %s ran in the machine", pkg)
	}
	if exit != 0 {
		t.Errorf("tests of %s fail in the machine (exit %d; %d others pass):\n%s", pkg, exit, passed, said)
	}
}

// testTimeout is for the tests of a package: emulation is ten times slower than the
// processor, which others may be using too.
const testTimeout = 12 * time.Minute

func goList(ctx context.Context, pkg string) (dir string, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		return "", fmt.Errorf("find package %s: %w", pkg, err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// testEvent is what go tool test2json tells of a test program.
type testEvent struct {
	Action string
	Test   string // empty for the program itself
	Output string
}

// testEvents reads what a test program wrote with -test.v=test2json.
func testEvents(ctx context.Context, output string) ([]testEvent, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json")
	cmd.Stdin = strings.NewReader(output)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w", err)
	}
	var events []testEvent
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e testEvent
		switch err := d.Decode(&e); err {
		case nil:
			events = append(events, e)
		case io.EOF:
			return events, nil
		default:
			return nil, err
		}
	}
}

// failures is what the tests wrote that failed or never ended, and the program
// itself, each after its verdict, and how many others there were.
func failures(events []testEvent) (said string, passed int) {
	var began []string
	wrote, verdict := map[string]string{}, map[string]string{}
	for _, e := range events {
		switch e.Action {
		case "run":
			began = append(began, e.Test)
			verdict[e.Test] = "--- FAIL: " + e.Test + " never ended\n"
		case "output":
			if trimmed := strings.TrimLeft(e.Output, " "); strings.HasPrefix(trimmed, "--- ") {
				verdict[e.Test] = e.Output
			} else if !strings.HasPrefix(trimmed, "=== ") {
				wrote[e.Test] += e.Output
			}
		}
	}
	var b strings.Builder
	for _, name := range began {
		switch v := strings.TrimLeft(verdict[name], " "); {
		case strings.HasPrefix(v, "--- FAIL"):
			b.WriteString(v + wrote[name])
		case strings.HasPrefix(v, "--- PASS"):
			passed++
		}
	}
	return b.String() + wrote[""], passed
}
