package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tree is a layer's directory while it is written. Names are resolved by the
// kernel with the tree as their root: a symlink that points out, or "..", ends
// at the tree's own root. What is made is made in an open directory by a name
// without a slash, which is not followed.
type tree struct {
	root  int   // descriptors, for lookup only
	lower []int // of the layers below, top first
	real  string

	lastName string // the directory that was opened last: most entries share it with the one before
	last     int    // -1 if none
}

func openTree(dir string, lower []string) (*tree, error) {
	t := &tree{root: -1, last: -1}
	fail := func(err error) (*tree, error) {
		t.close()
		return nil, err
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	var err error
	if t.root, err = unix.Open(dir, flags, 0); err != nil {
		return fail(fmt.Errorf("open %s: %w", dir, err))
	}
	if t.real, err = os.Readlink(procPath(t.root)); err != nil {
		return fail(err)
	}
	for _, l := range lower {
		fd, err := unix.Open(l, flags, 0)
		if err != nil {
			return fail(fmt.Errorf("open %s: %w", l, err))
		}
		t.lower = append(t.lower, fd)
	}
	return t, nil
}

func (t *tree) close() {
	t.forget()
	for _, fd := range append(t.lower, t.root) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// forget drops the directory that was opened last. Whatever may change where
// its name leads calls it.
func (t *tree) forget() {
	if t.last >= 0 {
		unix.Close(t.last)
	}
	t.last, t.lastName = -1, ""
}

// procPath names an open file where a system call takes only names.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// lookup opens the directory name of the tree. The caller closes it.
func (t *tree) lookup(name string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV}
	for {
		fd, err := unix.Openat2(t.root, name, &how)
		if err != unix.EAGAIN && err != unix.EINTR { // a rename elsewhere on the machine
			return fd, err
		}
	}
}

// dir is lookup with a memory of one. The tree closes the descriptor, at the
// latest when another is asked for.
func (t *tree) dir(name string) (int, error) {
	if name == "." || name == "" {
		return t.root, nil
	}
	if t.last >= 0 && t.lastName == name {
		return t.last, nil
	}
	fd, err := t.lookup(name)
	if err != nil {
		return -1, err
	}
	return t.remember(name, fd), nil
}

// remember keeps fd, which is the directory name, until another is asked for.
func (t *tree) remember(name string, fd int) int {
	t.forget()
	t.last, t.lastName = fd, name
	return fd
}

// path is where in the layers the directory really is, beneath the root.
func (t *tree) path(dir int, base string) (string, error) {
	at, err := os.Readlink(procPath(dir))
	if err != nil {
		return "", err
	}
	rel, ok := strings.CutPrefix(at, t.real)
	if !ok {
		return "", fmt.Errorf("%s has left %s", at, t.real) // the kernel does not let it
	}
	return path.Join(".", rel, base), nil
}

// openLower opens what the layers below show at name, if anything: the topmost
// that has it counts. Symlinks on the way are not followed, as overlayfs merges
// directories only. ok is false where there is nothing, or a whiteout.
func (t *tree) openLower(name string) (fd int, st unix.Stat_t, ok bool) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	for _, l := range t.lower {
		fd, err := unix.Openat2(l, name, &how)
		if err == unix.ENOTDIR || err == unix.ELOOP {
			return -1, st, false // a file, a whiteout or a symlink stands above it
		}
		if err != nil {
			continue
		}
		if unix.Fstat(fd, &st) != nil || isWhiteout(&st) {
			unix.Close(fd)
			return -1, st, false
		}
		return fd, st, true
	}
	return -1, st, false
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// whiteout hides what the layers below have of the name, and nothing of this
// layer, wherever in the tar it stands. entry is the name in the tar.
func (t *tree) whiteout(parent int, entry, name string) error {
	if entry == whiteoutOpaque {
		rel, err := t.path(parent, "")
		if err != nil {
			return err
		}
		return t.opaque(parent, rel)
	}
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("a whiteout of %q", name)
	}
	rel, err := t.path(parent, name)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return t.opaque(fd, rel)
	}
	if err != unix.ENOENT {
		return err // nil: this layer's own file hides it already
	}
	if !t.below(rel) {
		return nil // overlayfs would show a whiteout that has nothing to hide
	}
	if err := unix.Mknodat(parent, name, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("whiteout: %w", err)
	}
	return nil
}

func (t *tree) below(rel string) bool {
	fd, _, ok := t.openLower(rel)
	if ok {
		unix.Close(fd)
	}
	return ok
}

// opaque makes a directory show nothing of those below it.
func (t *tree) opaque(dir int, rel string) error {
	if !t.below(rel) {
		return nil
	}
	if err := unix.Setxattr(procPath(dir), opaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("opaque directory: %w", err)
	}
	return nil
}

// clear removes what has the name, with all that is in it.
func (t *tree) clear(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	if err == unix.EISDIR {
		err = os.RemoveAll(procPath(parent) + "/" + base)
	}
	if parent != t.root && t.lastName != "" && parent == t.last {
		return err // what was in its own directory: the name of that still leads there
	}
	t.forget()
	return err
}

// openOrMakeDir opens the directory for its attributes to be set, making it
// where there is none. A whiteout in its place makes it opaque, any other file
// goes. The caller closes it.
func (t *tree) openOrMakeDir(parent int, base string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	err := unix.Mkdirat(parent, base, 0o755)
	reopened := false
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return -1, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return unix.Openat(parent, base, flags, 0)
		}
		reopened = isWhiteout(&st)
		if err := t.clear(parent, base); err != nil {
			return -1, err
		}
		err = unix.Mkdirat(parent, base, 0o755)
	}
	if err != nil {
		return -1, fmt.Errorf("mkdir: %w", err)
	}
	fd, err := unix.Openat(parent, base, flags, 0)
	if err == nil && reopened {
		if err = unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("opaque directory: %w", err)
		}
	}
	return fd, err
}

// readlink returns where a symlink leads, as a name of the tree; ok is false
// for anything else.
func (t *tree) readlink(parent int, base string) (name string, ok bool) {
	to := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, base, to)
	if err != nil || n == len(to) {
		return "", false
	}
	if path.IsAbs(string(to[:n])) {
		return path.Clean(string(to[:n]))[1:], true
	}
	at, err := t.path(parent, "")
	return path.Clean("/" + at + "/" + string(to[:n]))[1:], err == nil
}

// makeDir makes a directory that has no entry in the tar, and opens it for
// lookup. It looks like the one that it covers, whose time is returned. Where
// the layer itself has a file there, it fails with ENOTDIR.
func (t *tree) makeDir(parent int, base string) (dir int, like time.Time, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && !isWhiteout(&st) {
		return -1, like, unix.ENOTDIR
	}
	fd, err := t.openOrMakeDir(parent, base)
	if err != nil {
		return -1, like, err
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return -1, like, err
	}
	if !isWhiteout(&st) {
		if like, err = t.likeLower(fd, parent, base); err != nil {
			return -1, like, err
		}
	}
	dir, err = unix.Openat(parent, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return dir, like, err
}

// likeLower makes the directory fd look like the one that it covers, if it
// covers one, and returns the time of that.
func (t *tree) likeLower(fd, parent int, base string) (like time.Time, err error) {
	if len(t.lower) == 0 {
		return like, nil
	}
	rel, err := t.path(parent, base)
	if err != nil {
		return like, err
	}
	lower, st, ok := t.openLower(rel)
	if !ok {
		return like, nil
	}
	defer unix.Close(lower)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return like, nil
	}
	return time.Unix(st.Mtim.Unix()), copyAttributes(fd, procPath(lower), &st)
}

// link gives a file of the tree a second name.
func (t *tree) link(target string, parent int, base string) error {
	dir, from := path.Split(target)
	fd := t.root
	if dir != "" {
		var err error
		if fd, err = t.lookup(path.Clean(dir)); err != nil {
			return fmt.Errorf("hard link to %q, which is not in the layer: %w", target, err)
		}
		defer unix.Close(fd)
	}
	if from == "" {
		return errors.New("hard link to the root")
	}
	err := unix.Linkat(fd, from, parent, base, 0)
	if err == unix.EPERM {
		return fmt.Errorf("hard link to %q, which is a directory", target)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

// rootLikeLower gives the root the attributes of the one below.
func (t *tree) rootLikeLower() error {
	if len(t.lower) == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(t.lower[0], &st); err != nil {
		return err
	}
	fd, err := unix.Openat(t.root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := copyAttributes(fd, procPath(t.lower[0]), &st); err != nil {
		return err
	}
	return setTime(unix.AT_FDCWD, procPath(fd), time.Unix(st.Mtim.Unix()))
}

// setAttributes gives an open file or directory its owner, extended attributes
// and mode, in the order in which none undoes another.
func setAttributes(fd int, hdr *tar.Header) error {
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	err := eachXattr(hdr, func(name, value string) error { return unix.Fsetxattr(fd, name, []byte(value), 0) })
	if err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}

// setAttributesAt is setAttributes, and the time, for what cannot be opened:
// symlinks, devices and pipes.
func setAttributesAt(parent int, base string, hdr *tar.Header) error {
	if err := unix.Fchownat(parent, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	at := procPath(parent) + "/" + base
	err := eachXattr(hdr, func(name, value string) error {
		err := unix.Lsetxattr(at, name, []byte(value), 0)
		if err == unix.EPERM && strings.HasPrefix(name, "user.") {
			return nil // only files and directories can have these
		}
		return err
	})
	if err != nil {
		return err
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, uint32(hdr.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	return setTime(parent, base, hdr.ModTime)
}

// eachXattr calls set for the header's extended attributes. Those in "trusted."
// are orders to the kernel, overlayfs among it, and no layer gives any. What
// the file system does not know is left out.
func eachXattr(hdr *tar.Header, set func(name, value string) error) error {
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || strings.HasPrefix(name, "trusted.") {
			continue
		}
		if err := set(name, value); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %q: %w", name, err)
		}
	}
	return nil
}

func setTime(dir int, name string, t time.Time) error {
	ts := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	if err := unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, flagFor(dir)); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// flagFor follows only the links of /proc, which lead to open files.
func flagFor(dir int) int {
	if dir == unix.AT_FDCWD {
		return 0
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

// copyAttributes makes the open directory look like the one at path.
func copyAttributes(fd int, like string, st *unix.Stat_t) error {
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(like, names)
	if err != nil && err != unix.ENOTSUP {
		return fmt.Errorf("list attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(names[:max(n, 0)]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(like, name, value)
		if err == nil {
			err = unix.Fsetxattr(fd, name, value[:n], 0)
		}
		if err != nil && err != unix.ENOTSUP && err != unix.ENODATA {
			return fmt.Errorf("copy attribute %q: %w", name, err)
		}
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}
