package build

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

func TestTar(t *testing.T) {
	dir := write(t,
		"main.py", "print()", "lib/a.py", "a", ".git/HEAD", "x", "sub/.git/HEAD", "x", ".env", "X=1",
		"data/big.bin", "b", "data/keep.bin", "k", "notes.md", "n",
		IgnoreFile, "# what stays here\n*.md\ndata/*\n!data/keep.bin\n",
	)
	if err := os.Chmod(filepath.Join(dir, "main.py"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../main.py", filepath.Join(dir, "lib/link.py")); err != nil {
		t.Fatal(err)
	}
	got := pack(t, dir)
	want := []string{
		"-rw-r--r-- .env X=1",
		"-rw-r--r-- .mayflyignore # what stays here\n*.md\ndata/*\n!data/keep.bin\n",
		"drwxr-xr-x data/",
		"-rw-r--r-- data/keep.bin k",
		"drwxr-xr-x lib/",
		"-rw-r--r-- lib/a.py a",
		"Lrwxrwxrwx lib/link.py -> ../main.py",
		"-rwxr-xr-x main.py print()",
		"drwxr-xr-x sub/",
	}
	if diff := cmp.Diff(want, entries(t, got)); diff != "" {
		t.Error("Tar (-want +got):\n" + diff)
	}
	old := time.Unix(1e9, 0)
	if err := os.Chtimes(filepath.Join(dir, "lib/a.py"), old, old); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, pack(t, dir)) {
		t.Error("the same files gave another tar")
	}
}

func TestTarErrors(t *testing.T) {
	tests := []struct {
		name string
		make func(dir string) error
		want string
	}{
		{"no folder", os.RemoveAll, "there is no folder DIR"},
		{"link out", func(dir string) error { return os.Symlink("../x", filepath.Join(dir, "a")) },
			`DIR/a is a link to "../x", which is not beneath DIR; copy the file, or name the link in .mayflyignore`},
		{"absolute link", func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "a")) },
			`DIR/a is a link to "/etc/passwd", which is not beneath DIR; copy the file, or name the link in .mayflyignore`},
		{"socket", func(dir string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s")})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		}, `DIR/s is neither file, folder nor link; name it in .mayflyignore`},
		{"large", func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "large"), nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(filepath.Join(dir, "large"), MaxCode+1)
		}, `DIR holds more than 268435456 bytes; leave files out with a .mayflyignore file, or bring an image`},
		{"bad pattern", func(dir string) error { return os.WriteFile(filepath.Join(dir, IgnoreFile), []byte("[\n"), 0o644) },
			`.mayflyignore: syntax error in pattern`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "t") // short: a socket's path is bounded
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			err = Tar(t.Context(), io.Discard, dir)
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if k := mayfly.KindOf(err); k != mayfly.Invalid && k != mayfly.TooLarge {
				t.Errorf("kind %s", k)
			}
		})
	}
}
