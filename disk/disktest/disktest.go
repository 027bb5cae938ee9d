// Package disktest cuts the power of a filesystem: a test sees what is on the
// disk at a moment, without what the kernel has in memory alone.
package disktest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Disk is an ext4 filesystem in a file, mounted until the test ends.
type Disk struct {
	Dir string // where it is mounted

	t     testing.TB
	image string
}

// New makes an empty disk of 256 MB. It needs root.
func New(t testing.TB) *Disk {
	t.Helper()
	d := &Disk{Dir: t.TempDir(), t: t, image: t.TempDir() + "/image"}
	d.must(os.WriteFile(d.image, nil, 0o600))
	d.must(os.Truncate(d.image, 256<<20))
	d.run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1", d.image)
	d.mount(d.image, d.Dir)
	return d
}

// Commit puts on disk what the filesystem knows of names, as it does every few
// seconds and whenever anyone syncs anything. What is in files stays in memory.
func (d *Disk) Commit() {
	d.t.Helper()
	f, err := os.CreateTemp(d.Dir, ".commit-")
	d.must(err)
	defer os.Remove(f.Name())
	defer f.Close()
	d.must(f.Sync())
}

// AfterPowerLoss is where the disk is mounted as it is found when the power comes
// back, had it been cut now. Nobody writes to it meanwhile: copying takes a moment.
func (d *Disk) AfterPowerLoss() (dir string) {
	d.t.Helper()
	copied := d.t.TempDir() + "/image"
	d.run("cp", "--sparse=always", d.image, copied)
	dir = d.t.TempDir()
	d.mount(copied, dir)
	return dir
}

// mount mounts an image, and commits only when it is told to: a copy is of one
// moment then. Somebody may have a file open at the end.
func (d *Disk) mount(image, at string) {
	d.t.Helper()
	d.run("mount", "-o", "loop,commit=300", image, at)
	d.t.Cleanup(func() { d.run("umount", "--lazy", at) })
}

func (d *Disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v: %s", name, err, strings.TrimSpace(string(out)))
	}
}

func (d *Disk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}
