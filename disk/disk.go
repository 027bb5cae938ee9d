// Package disk has what was written survive a power loss: when a function returns,
// what it speaks of is on the disk, and not in the kernel's memory alone.
package disk

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// SyncDir puts the names in a directory on disk: what was made, renamed or removed
// there. The contents of files are for whoever writes them to sync.
func SyncDir(dir string) error { return withDir(dir, (*os.File).Sync) }

// SyncFS puts everything on disk that the filesystem of a directory holds in memory.
func SyncFS(dir string) error {
	return withDir(dir, func(d *os.File) error {
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			return &fs.PathError{Op: "syncfs", Path: dir, Err: err}
		}
		return nil
	})
}

func withDir(dir string, sync func(*os.File) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return sync(d)
}
