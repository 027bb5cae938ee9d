package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk"
)

// layout is where things are. No container ever sees more of it than the
// directory that is mounted there, so these paths can be trusted:
//
//	volumes/SPACE/NAME/data       the contents, of a local volume without a size
//	volumes/SPACE/NAME/fs/data    of one that is a filesystem of its own, mounted at fs
//	volumes/SPACE/NAME/image      that filesystem, unless it is in memory
//	volumes/.tmp/ID/              what is being made, or taken away
//	volumes/.pins/ID/             directories of volumes, mounted for an instance
//	snapshots/SPACE/NAME/SNAPSHOT/{tree,snapshot.json}
//	snapshots/.tmp/ID/
//
// A name never begins with a dot. What is below .tmp when a daemon starts goes.
type layout struct{ volumes, snapshots string }

const temporary = "/.tmp"

func (l layout) volume(v mayfly.Volume) string { return filepath.Join(l.volumes, v.Space, v.Name) }

func (l layout) snapshotsOf(v mayfly.Volume) string {
	return filepath.Join(l.snapshots, v.Space, v.Name)
}

// open makes the directories and clears away what a crash left.
func (l layout) open() error {
	for _, dir := range []string{l.volumes, l.snapshots} {
		if err := os.MkdirAll(dir+temporary, 0o700); err != nil {
			return err
		}
		left, err := os.ReadDir(dir + temporary)
		if err != nil {
			return err
		}
		for _, e := range left {
			if err := removeAll(filepath.Join(dir+temporary, e.Name())); err != nil {
				return fmt.Errorf("remove what a crash left: %w", err)
			}
		}
	}
	return os.MkdirAll(l.volumes+pinned, 0o700)
}

// stage makes a directory below .tmp of volumes or snapshots.
func stage(root string) (string, error) {
	dir := root + temporary + "/" + mayfly.NewID()
	return dir, os.Mkdir(dir, 0o700)
}

// discard takes a directory out of sight at once, and removes it then.
func discard(root, dir string) error {
	gone := root + temporary + "/" + mayfly.NewID()
	err := os.Rename(dir, gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = disk.SyncDir(filepath.Dir(dir))
	}
	if err != nil {
		return err
	}
	return removeAll(gone)
}

// place moves what was staged to where it belongs, when all of it is on disk.
// Something that is there already is fs.ErrExist.
func place(staged, at string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	if err := disk.SyncFS(staged); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, at, unix.RENAME_NOREPLACE); err != nil {
		return &fs.PathError{Op: "place", Path: at, Err: err}
	}
	if err := disk.SyncDir(filepath.Dir(at)); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(filepath.Dir(at))) // the space's directory may be new
}

// exchange swaps what was staged with what is there.
func exchange(staged, at string) error {
	if err := disk.SyncFS(staged); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, at, unix.RENAME_EXCHANGE); err != nil {
		return &fs.PathError{Op: "exchange", Path: at, Err: err}
	}
	return errors.Join(disk.SyncDir(filepath.Dir(at)), disk.SyncDir(filepath.Dir(staged)))
}

// owner is who a volume's top belongs to; root where nobody is named.
func owner(v mayfly.Volume) (uid, gid int, err error) {
	if v.Owner == "" {
		return 0, 0, nil
	}
	u, g, both := strings.Cut(v.Owner, ":")
	id := func(s string) int {
		n, bad := strconv.ParseUint(s, 10, 31)
		if bad != nil {
			err = mayfly.Errorf(mayfly.Invalid, "volume %s: owner %q is not UID:GID", v.Name, v.Owner).WithHint("give numbers, as in 999:999")
		}
		return int(n)
	}
	uid = id(u)
	if gid = uid; both {
		gid = id(g)
	}
	return uid, gid, err
}

// makeTop makes the directory that containers see.
func makeTop(dir string, v mayfly.Volume) error {
	uid, gid, err := owner(v)
	if err != nil {
		return err
	}
	mode := v.Mode
	if mode == 0 {
		mode = 0o755
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return err
	}
	return unix.Chmod(dir, mode) // after chown, which takes bits away
}
