package volume_test

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/volume"
)

// sized makes a volume that is a filesystem in a file, beneath data.
func sized(t *testing.T, data string) (volume.Provider, mayfly.Volume, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	v := mayfly.Volume{Space: "default", Name: "data", Size: 8 << 20}
	p, err := open(t, data).Provider(v)
	check(t, err)
	check(t, p.Create(t.Context(), v))
	t.Cleanup(func() {
		if err := p.Remove(t.Context(), v); err != nil {
			t.Error(err)
		}
	})
	o, err := p.Open(t.Context(), v)
	check(t, err)
	return p, v, o.Path
}

// TestOneFilesystem: a volume that is closed and opened again while somebody still
// holds its filesystem is that filesystem, not a second one in the same file.
func TestOneFilesystem(t *testing.T) {
	data := t.TempDir()
	p, v, at := sized(t, data)
	// As a container that is being made: it has copies of all mounts for a while.
	holds := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		"echo; read line; echo early >"+at+"/early; echo; read line; cat "+at+"/late")
	in, err := holds.StdinPipe()
	check(t, err)
	out, err := holds.StdoutPipe()
	check(t, err)
	check(t, holds.Start())
	said := make([]byte, 1)
	turn := func() {
		t.Helper()
		_, err := io.WriteString(in, "\n")
		check(t, err)
	}
	_, err = out.Read(said)
	check(t, err)
	check(t, p.Close(t.Context(), v))
	if _, err := os.Lstat(at); err == nil {
		t.Error("what is closed is there")
	}
	turn()
	_, err = out.Read(said)
	check(t, err)
	o, err := p.Open(t.Context(), v)
	check(t, err)
	if got, err := os.ReadFile(o.Path + "/early"); err != nil || string(got) != "early\n" {
		t.Errorf("read %q, %v", got, err)
	}
	check(t, os.WriteFile(o.Path+"/late", []byte("late"), 0o644))
	turn()
	rest, err := io.ReadAll(out)
	check(t, err)
	check(t, holds.Wait())
	if string(rest) != "late" {
		t.Errorf("who held it reads %q", rest)
	}
}

// TestMadeIsOnDisk: a volume that was made is whole on disk, and not in the memory
// of a filesystem that a power loss ends.
func TestMadeIsOnDisk(t *testing.T) {
	data := t.TempDir()
	sized(t, data)
	copied, at := t.TempDir()+"/image", t.TempDir()
	image, err := os.ReadFile(data + "/volumes/default/data/image")
	check(t, err)
	check(t, os.WriteFile(copied, image, 0o600))
	if out, err := exec.Command("mount", "-o", "loop", copied, at).CombinedOutput(); err != nil {
		t.Fatal(strings.TrimSpace(string(out)), err)
	}
	_, err = os.Lstat(at + "/data")
	if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
		t.Error(strings.TrimSpace(string(out)), err)
	}
	check(t, err)
}
