package volume

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// mounted reports whether something is mounted on a directory.
func mounted(dir string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false, &fs.PathError{Op: "statx", Path: dir, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// mountsBelow lists what is mounted on dir or below it, in the order in which it was.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var at []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if p := unescape(fields[4]); p == dir || strings.HasPrefix(p, dir+"/") {
			at = append(at, p)
		}
	}
	return at, lines.Err()
}

// unescape undoes what the kernel does to spaces and the like in mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmount takes away what is mounted on a directory, as soon as nobody uses it.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // it is not mounted
		return &fs.PathError{Op: "unmount", Path: dir, Err: err}
	}
	return nil
}

// unmountBelow takes away all that is mounted on dir and below it.
func unmountBelow(dir string) error {
	at, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for i := len(at) - 1; i >= 0; i-- {
		if err := unmount(at[i]); err != nil {
			return err
		}
	}
	if at, err = mountsBelow(dir); err == nil && len(at) > 0 { // what follows removes files
		err = fmt.Errorf("%s is still mounted", at[0])
	}
	return err
}

// mountHere mounts what a descriptor is open on, and all that is mounted below
// it, on another directory. However paths change, it is that directory.
func mountHere(fd int, at string) error {
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: at, Err: err}
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return &fs.PathError{Op: "mount_setattr", Path: at, Err: err}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: at, Err: err}
	}
	return nil
}

const pinned = "/.pins"

// Pin gives a directory of an opened volume a path of its own, where no container
// can turn it into another one. It is made if it is not there. n tells apart
// what one instance is given. Unpin ends it.
func (s *Volumes) Pin(v mayfly.Volume, o Opened, subpath, instance string, n int) (string, error) {
	at := s.dir + pinned + "/" + instance + "/" + strconv.Itoa(n)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return "", err
	}
	if on, err := mounted(at); err != nil || on {
		return at, err
	}
	top, err := unix.Open(o.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: o.Path, Err: err}
	}
	defer unix.Close(top)
	fd, err := descend(top, subpath)
	if err != nil {
		return "", explainBeneath(err, "volume "+v.Name, subpath)
	}
	defer unix.Close(fd)
	return at, mountHere(fd, at)
}

// Unpin ends what an instance was given by Pin.
func (s *Volumes) Unpin(instance string) error {
	dir := s.dir + pinned + "/" + instance
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return removeMountPoints(dir)
}

// Pinned lists the instances for which something is pinned.
func (s *Volumes) Pinned() ([]string, error) {
	entries, err := os.ReadDir(s.dir + pinned)
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, err
}

// removeMountPoints removes a directory with empty directories in it, on which
// something is mounted. It removes no file.
func removeMountPoints(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Remove(dir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}
