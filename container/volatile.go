package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Sandboxes that need not survive a power cut live in memory: a disk's
// filesystem spends more on making and deleting their files than the kernel
// spends on the container. What a container writes there counts against its
// own memory limit.

// mountVolatile makes dir a tmpfs, unless an earlier daemon has, and returns
// the path of a copy of init on it, for sandboxes to link to.
func mountVolatile(dir, init string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", err
	}
	if filesystem(dir) == filesystem(filepath.Dir(dir)) || st.Type != unix.TMPFS_MAGIC {
		if err := unix.Mount("mayfly", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
			return "", fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	binary, err := os.ReadFile(init)
	if err != nil {
		return "", err
	}
	return InstallInit(dir, binary)
}

// filesDir is where the files that sandboxes show their programs lie in memory,
// of those sandboxes that are on disk themselves: what is required is told to
// many containers at once, and a disk's filesystem makes a file in 0.3 ms.
const filesDir = ".run"

// openFiles makes the directory for the files of sandboxes on disk, and removes
// what is left there of those that are no more.
func (h *Host) openFiles() error {
	dir := filepath.Join(h.volatile, filesDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, there := os.Lstat(filepath.Join(h.dir, e.Name())); errors.Is(there, fs.ErrNotExist) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// placeFiles is where the files of a sandbox go that is in dir, and the copy of
// init that is on the same filesystem.
func (h *Host) placeFiles(dir, id string) (files, init string) {
	switch {
	case h.volatile == "":
		return filepath.Join(dir, "run"), h.init
	case filepath.Dir(dir) == h.volatile:
		return filepath.Join(dir, "run"), h.volatileInit
	}
	return filepath.Join(h.volatile, filesDir, id), h.volatileInit
}

// filesOf is where the files of a sandbox in dir are.
func (h *Host) filesOf(dir, id string) string {
	files, _ := h.placeFiles(dir, id)
	if _, err := os.Lstat(files); err != nil { // an older daemon's
		return filepath.Join(dir, "run")
	}
	return files
}

// place is where a new sandbox goes.
func (h *Host) place(id string, volatile bool) string {
	if volatile && h.volatile != "" {
		return filepath.Join(h.volatile, id)
	}
	return filepath.Join(h.dir, id)
}

// Dir is where the sandbox of that id lies, or would.
func (h *Host) Dir(id string) string {
	if h.volatile != "" {
		if _, err := os.Lstat(filepath.Join(h.volatile, id)); err == nil {
			return filepath.Join(h.volatile, id)
		}
	}
	return filepath.Join(h.dir, id)
}

// Left lists the sandboxes that an earlier daemon left.
func (h *Host) Left() ([]string, error) {
	var ids []string
	for _, dir := range []string{h.dir, h.volatile} {
		if dir == "" {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() && e.Name() != filesDir {
				ids = append(ids, e.Name())
			}
		}
	}
	return ids, nil
}

// Note is what SetNote left with a sandbox, nil if nothing.
func (h *Host) Note(id string) ([]byte, error) {
	data, err := os.ReadFile(h.Dir(id) + "/" + noteName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// Close lets go of the control group above all others if none is left, and of
// the memory that volatile sandboxes lived in unless one is left there for a
// later daemon. Run has returned.
func (h *Host) Close() error {
	h.cgroups.RemoveParent(h.opts.Cgroup)
	if h.volatile == "" {
		return nil
	}
	os.Remove(filepath.Join(h.volatile, filesDir)) // unless there is something in it
	entries, err := os.ReadDir(h.volatile)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(entries, fs.DirEntry.IsDir) {
		return nil
	}
	return unix.Unmount(h.volatile, unix.MNT_DETACH)
}

// move renames a file, or copies it where that leads to another filesystem. One
// that a daemon was killed over is moved again.
func move(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if _, there := os.Lstat(to); there == nil {
			return nil
		}
	}
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fs.FileMode(0o600))
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), os.Remove(from))
}
