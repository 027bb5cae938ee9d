package image_test

import (
	"bufio"
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// child starts this test binary as another process.
func child(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd
}

// files lists the regular files below dir, but for databases.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".db") {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestKilledImportLeavesNothing kills an importing process at points over the
// whole of its work, which it is known to have reached by what it wrote.
func TestKilledImportLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	var entries []entry
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		entries = append(entries, entry{name: name, body: strings.Repeat(name, 1<<20)})
	}
	root := makeTar(t, entries...)
	var dirs []string
	// Each says by a file that the work has come to some point.
	for name, reached := range map[string]string{
		"while it spools":     "tmp",
		"while it stores":     "content/ingest/*/data",
		"after it has stored": "content/blobs/sha256/*",
		"while it unpacks":    "snapshots/snapshots/*/fs/a",
		"nearly done":         "snapshots/snapshots/*/fs/h",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			dirs = append(dirs, dir)
			cmd := child(t, "MAYFLY_TEST_IMPORT_INTO="+dir)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waited := make(chan error, 1)
			go func() {
				if name == "while it spools" {
					in.Write(root[:len(root)/2]) // and no more
				} else {
					in.Write(root)
					in.Close()
				}
			}()
			go func() { waited <- cmd.Wait() }()
			for done := false; !done; {
				if found, _ := filepath.Glob(filepath.Join(dir, reached)); len(found) > 0 {
					cmd.Process.Kill()
					done = true
					<-waited
				} else {
					select {
					case <-waited:
						done = true
					default:
					}
				}
			}
			s := open(t, dir, image.Options{})
			if _, err := s.Get(t.Context(), "killed"); err == nil {
				return // it was quicker than we were
			} else if mayfly.KindOf(err) != mayfly.NotFound {
				t.Fatal(err)
			}
			if left := files(t, dir); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "snapshots/snapshots")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			if _, err := s.Import(t.Context(), "killed", bytes.NewReader(root)); err != nil {
				t.Errorf("import after the kill: %v", err)
			}
		})
	}
	mounts, err := os.ReadFile("/proc/thread-self/mounts") // the first thread may have another root
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if strings.Contains(string(mounts), dir) {
			t.Errorf("mounts left:\n%s", mounts)
		}
	}
}

func TestOwnersOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, image.Options{})
	img := randomImage(t, first, "app", 1000)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "MAYFLY_TEST_USE_IN="+dir, "MAYFLY_TEST_DIGEST="+img.Digest)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "used <nil>\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	if _, err := image.Open(dir, image.Options{}); mayfly.KindOf(err) != mayfly.Conflict {
		t.Fatalf("a store that is open was opened again: %v", err)
	}
	cmd.Process.Kill()
	io.Copy(io.Discard, out)
	cmd.Wait()

	s := open(t, dir, image.Options{})
	ctx := t.Context()
	owners := s.Owners()
	if len(owners) != 1 || owners[0].Name != "instance/1" || len(owners[0].Digests) != 1 || owners[0].Digests[0] != img.Digest {
		t.Fatalf("got %+v", owners)
	}
	if removed, _, err := s.Prune(ctx, image.PruneOptions{All: true}); err != nil || len(removed) > 0 {
		t.Fatalf("pruned %v, %v", removed, err)
	}
	if err := s.Remove(ctx, "app", true); err != nil { // the name only
		t.Fatal(err)
	}
	root, err := s.Use(ctx, img.Digest, "instance/2")
	if err != nil {
		t.Fatalf("an image in use was collected: %v", err)
	}
	if got, err := s.Get(ctx, img.Digest); err != nil || got.Name != "" {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, o := range s.Owners() {
		if err := s.Release(ctx, o.Name); err != nil {
			t.Fatal(err)
		}
	}
	if _, freed, err := s.Prune(ctx, image.PruneOptions{}); err != nil || freed <= 0 {
		t.Fatalf("freed %d, %v", freed, err)
	}
	if _, err := os.Stat(root.Lower[0]); !os.IsNotExist(err) {
		t.Fatalf("layer left: %v", err)
	}
	if _, err := s.Use(ctx, img.Digest, "instance/3"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Fatalf("a removed image: %v", err)
	}
}
