package volume

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// beneath is how a path that others may change is opened: no symbolic link is
// followed, and nothing above the root is reached.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openBeneath opens a relative path below a directory.
func openBeneath(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: beneath})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// relative turns a path into one that can be opened beneath something.
func relative(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

// descend opens a directory below another one, and makes what is not there: its
// owner is that of the directory above.
func descend(top int, name string) (int, error) {
	name = relative(name)
	fd, err := openBeneath(top, name, unix.O_PATH|unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	above, err := openBeneath(top, ".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	for part := range strings.SplitSeq(name, "/") {
		next, err := step(above, part)
		unix.Close(above)
		if err != nil {
			return -1, err
		}
		above = next
	}
	return above, nil
}

// step opens a directory, and makes it if it is not there.
func step(above int, name string) (int, error) {
	fd, err := openBeneath(above, name, unix.O_PATH|unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(above, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return -1, err
	}
	if err := unix.Mkdirat(above, name, 0o755); err != nil {
		return -1, err
	}
	if err := unix.Fchownat(above, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return -1, err
	}
	return openBeneath(above, name, unix.O_PATH|unix.O_DIRECTORY)
}

// explainBeneath says what is wrong with a path that was opened beneath a root.
func explainBeneath(err error, what, name string) error {
	switch {
	case errors.Is(err, unix.ELOOP):
		return mayfly.Errorf(mayfly.Denied, "%s: %s is, or goes through, a symbolic link", what, name).
			WithHint("name the directory that it leads to")
	case errors.Is(err, unix.EXDEV):
		return mayfly.Errorf(mayfly.Denied, "%s: %s leads out of it", what, name)
	case errors.Is(err, unix.ENOENT):
		return mayfly.Errorf(mayfly.NotFound, "%s: there is no %s", what, name)
	case errors.Is(err, unix.ENOTDIR):
		return mayfly.Errorf(mayfly.Invalid, "%s: %s is not a directory", what, name)
	}
	return mayfly.Errorf(mayfly.Internal, "%s: open %s: %w", what, name, err)
}
