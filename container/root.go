package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/tree"
	"golang.org/x/sys/unix"
)

// Root opens the root directory of the running container as its programs see it,
// volumes and tmpfs included. It is open until Close; the container may end
// before.
func (s *Sandbox) Root() (*tree.Dir, error) {
	if s.pidfd == nil {
		return nil, errInitGone
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", s.pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if pidfdEnded(s.pidfd) { // then the number may have been another process's
		if err == nil {
			unix.Close(fd)
		}
		return nil, errInitGone
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	return tree.Root(fd), nil
}

// LookupUser finds out who user[:group] is in the container now, as the function
// LookupUser does for an image. An empty user is the container's own.
func (s *Sandbox) LookupUser(user string) (User, error) {
	if user == "" {
		return s.User, nil
	}
	root, err := s.Root()
	if err != nil {
		return User{}, err
	}
	defer root.Close()
	passwd, err := etcOf(root, "passwd")
	if err != nil {
		return User{}, mayfly.Errorf(mayfly.Failed, "read the container's users: %w", err)
	}
	groups, err := etcOf(root, "group")
	if err != nil {
		return User{}, mayfly.Errorf(mayfly.Failed, "read the container's groups: %w", err)
	}
	return lookupUser(passwd, groups, user, "the container's")
}

// etcOf returns the fields of each line of a file in /etc. A missing file is
// empty, and so is one that is not a regular file.
func etcOf(root *tree.Dir, name string) ([][]string, error) {
	f, err := root.ReadFile("etc/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return fieldsOf(f)
}
