package image_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly/image"
)

// debianRoot returns the tar of a Debian root made by mmdebstrap, kept from one
// run of the tests to the next.
func debianRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "mayfly-test", "debian-bookworm-minbase.tar")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	bin, err := exec.LookPath("mmdebstrap")
	if err != nil {
		t.Skip("needs mmdebstrap: apt-get install mmdebstrap")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	part := fmt.Sprintf("%s.part%d", path, os.Getpid()) // another run of the tests may make it too
	defer os.Remove(part)
	if out, err := exec.Command(bin, "--quiet", "--variant=minbase", "--format=tar", "bookworm", part).CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	if err := os.Rename(part, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDebianRoot compares what we unpack with what tar does, entry by entry.
func TestDebianRoot(t *testing.T) {
	root := debianRoot(t)
	want := t.TempDir()
	if out, err := exec.Command("tar", "-C", want, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", root).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	s := open(t, t.TempDir(), image.Options{})
	img, err := s.ImportPath(t.Context(), "debian", root)
	if err != nil {
		t.Fatal(err)
	}
	use, err := s.Use(t.Context(), img.Digest, "test")
	if err != nil {
		t.Fatal(err)
	}
	if n := compareTrees(t, want, use.Lower[0]); n < 1000 {
		t.Errorf("compared only %d files", n)
	}
}

// compareTrees reports each difference between two directories and returns how
// many files it compared.
func compareTrees(t *testing.T, want, got string) int {
	t.Helper()
	w, g := readTree(t, want), readTree(t, got)
	for _, path := range slices.Sorted(maps.Keys(w)) {
		if g[path] != w[path] {
			t.Errorf("%q is\n%s, should be\n%s", path, g[path], w[path])
		}
	}
	for path := range g {
		if _, ok := w[path]; !ok {
			t.Errorf("%q is too much", path)
		}
	}
	return len(w)
}

// readTree describes every file of dir, with all that a tar can say of it.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		desc := fmt.Sprintf("mode %o owner %d:%d mtime %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			desc += fmt.Sprintf(" %d bytes %s", len(body), digestOf(body))
		case syscall.S_IFLNK:
			to, _ := os.Readlink(path)
			desc += fmt.Sprintf(" to %q", to)
		case syscall.S_IFCHR, syscall.S_IFBLK:
			desc += fmt.Sprintf(" device %d", st.Rdev)
		}
		if st.Nlink > 1 && !d.IsDir() {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			desc += " same as " + first[st.Ino]
		}
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(strings.SplitSeq(strings.Trim(string(names[:n]), "\x00"), "\x00")) {
			value := make([]byte, 4096)
			if n, err := unix.Lgetxattr(path, name, value); name != "" && err == nil {
				desc += fmt.Sprintf(" %s=%x", name, value[:n])
			}
		}
		tree[rel] = desc
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
