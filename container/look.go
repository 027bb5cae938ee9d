package container

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Look opens the root that layers make, top first, for reading. It stays as long
// as the descriptor, and is mounted nowhere; scratch is an empty directory for
// the moment in which it is. A daemon that is killed in it leaves that directory
// with a mount, for Unlook.
func Look(lower []string, scratch string) (fd int, err error) {
	if len(lower) == 1 {
		return openDir(lower[0])
	}
	at := filepath.Join(scratch, "root")
	if err := os.Mkdir(at, 0o700); err != nil {
		return -1, err
	}
	if err := (Rootfs{Lower: lower}).mount(at, scratch); err != nil {
		return -1, &os.PathError{Op: "mount", Path: at, Err: err}
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	return openDir(at)
}

// Unlook removes a scratch directory, and what is mounted in it.
func Unlook(scratch string) error {
	unix.Unmount(filepath.Join(scratch, "root"), unix.MNT_DETACH) // most often nothing is
	return os.RemoveAll(scratch)
}
