package volume_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

// TestUsageOfAnImage: how many files are in a filesystem is known while it is mounted.
func TestUsageOfAnImage(t *testing.T) {
	p, v, _ := sized(t, t.TempDir())
	u, err := p.Usage(t.Context(), v)
	check(t, err)
	if u.Files == nil || *u.Files == 0 || u.Bytes == 0 || u.Limit == 0 {
		t.Errorf("mounted, its usage is %+v", u)
	}
	check(t, p.Close(t.Context(), v))
	u, err = p.Usage(t.Context(), v)
	check(t, err)
	if u.Files != nil || u.Bytes == 0 || u.Limit != v.Size {
		t.Errorf("not mounted, its usage is %+v", u)
	}
}

// afterPowerLoss is what is at a path of a volume as its image is now, without what
// its filesystem has in memory.
func afterPowerLoss(t *testing.T, data, name, path string) string {
	t.Helper()
	image, err := os.ReadFile(data + "/volumes/default/" + name + "/image")
	check(t, err)
	copied, at := t.TempDir()+"/image", t.TempDir()
	check(t, os.WriteFile(copied, image, 0o600))
	if out, err := exec.Command("mount", "-o", "loop", copied, at).CombinedOutput(); err != nil {
		t.Fatal(strings.TrimSpace(string(out)), err)
	}
	text, err := os.ReadFile(at + "/data/" + path)
	if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
		t.Error(strings.TrimSpace(string(out)), err)
	}
	if err != nil && !errors.Is(err, unix.EISDIR) {
		t.Error(err)
	}
	return string(text)
}

// TestSizedVolumesAreOnDisk: a volume that was made, restored or cloned is whole on
// disk, and not in the memory of a filesystem that a power loss ends.
func TestSizedVolumesAreOnDisk(t *testing.T) {
	data := t.TempDir()
	p, v, at := sized(t, data)
	afterPowerLoss(t, data, "data", ".")

	s := p.(volume.Snapshotter)
	check(t, os.WriteFile(at+"/file", []byte("kept"), 0o644))
	_, err := s.Snapshot(t.Context(), v, "one")
	check(t, err)
	check(t, os.WriteFile(at+"/file", []byte("lost"), 0o644))
	check(t, s.Restore(t.Context(), v, "one"))
	if got := afterPowerLoss(t, data, "data", "file"); got != "kept" {
		t.Errorf("restored: %q", got)
	}

	other := v
	other.Name = "other"
	check(t, s.Clone(t.Context(), v, "", other))
	defer p.Remove(t.Context(), other)
	if got := afterPowerLoss(t, data, "other", "file"); got != "kept" {
		t.Errorf("cloned: %q", got)
	}
}
