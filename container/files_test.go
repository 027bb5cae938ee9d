package container

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// TestKeptIsWhatThereIs: a sandbox whose program wrote nothing is deleted
// without a look into its directories.
func TestKeptIsWhatThereIs(t *testing.T) {
	h, c := newHost(t)
	native, err := NewNative(h.init, NativeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer native.Close()
	h.driver = native
	c.Volatile = true
	c.Files = map[string][]byte{"self.json": []byte("{}")}
	s, err := h.Create(t.Context(), mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutFile("run.json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, s.dir+"/")
		if e.IsDir() {
			name += "/"
		}
		if err == nil && path != s.dir && name != "cgroup" && !slices.Contains(kept[:], name) {
			t.Errorf("%s is not listed", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Remove()
	<-s.Ended()
}

func TestRemoveDirTakesWhatIsNotKnown(t *testing.T) {
	dir := t.TempDir() + "/sandbox"
	outside := t.TempDir() + "/file"
	for _, d := range []string{"/upper/etc/a", "/work/work", "/run/else"} {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{dir + "/upper/etc/a/file", dir + "/state.json", dir + "/stray", outside} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, dir+"/hosts"); err != nil {
		t.Fatal(err)
	}
	if err := removeDir(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("it is still there")
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error("what a link led to is gone")
	}
	if err := removeDir(dir); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestReplaceIsWholeOrNot(t *testing.T) {
	at := t.TempDir()
	dir, err := openDir(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at+"/.part-x", []byte("of a daemon that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two, longer", ""} {
		if err := replace(dir, "x", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if have, err := os.ReadFile(at + "/x"); string(have) != text {
			t.Errorf("%q, %v", have, err)
		}
	}
	if err := os.Mkdir(at+"/y", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := replace(dir, "y", nil, 0o644); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, _ := os.ReadDir(at); len(entries) != 2 {
		t.Errorf("%d entries are left", len(entries))
	}
}
