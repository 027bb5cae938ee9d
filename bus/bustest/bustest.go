// Package bustest ill-treats what keeps its files with the bus: it gives tests a
// disk that is soon full, and kills a copy of them at a moment of its choice.
package bustest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// SmallDisk mounts an ext4 of so many megabytes at dir, which it makes, for the
// length of a test. It skips a test that does not run as root.
func SmallDisk(t testing.TB, dir string, megabytes int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	image := dir + ".image"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", image, fmt.Sprint(megabytes, "M")},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		// The server goes on removing files for a moment after its end.
		for limit := time.Now().Add(time.Minute); ; {
			out, err := exec.Command("umount", "-R", dir).CombinedOutput()
			if err == nil {
				return
			}
			if time.Now().After(limit) {
				t.Errorf("umount: %v\n%s", err, out)
				return
			}
		}
	})
}

// crashDir tells a copy of the test's program that it is to be killed.
const crashDir = "MAYFLY_TEST_CRASH_DIR"

// Doomed returns the directory in which this copy of the program is to work until
// it is killed, empty for the program itself. It calls Acknowledge for what it was
// told is safe.
func Doomed() string { return os.Getenv(crashDir) }

// Acknowledge tells the program that has started this copy.
func Acknowledge(words ...any) { fmt.Println(append([]any{"ack"}, words...)...) }

// KillAfter runs a test of this program in a copy, which works in dir, and kills it
// as soon as it has acknowledged so much. It returns all that the copy acknowledged.
func KillAfter(t testing.TB, test, dir string, lines int) (list []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v=false")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
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
		t.Fatalf("the copy ended by itself after %d of %d lines", len(list), lines)
	}
	return list
}
