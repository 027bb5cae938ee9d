package container

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// ReplaceMounted has change put another file in place of the host's file that is
// mounted read-only at a path of the container, and then shows that one there:
// programs see the old file or the new one, and who has it open goes on reading
// the old one. The new mount comes beneath the old one, which then goes. Before
// Linux 6.5 the old one goes first, and who looks in those microseconds sees the
// empty file below. It is a Conflict, and nothing is changed, when programs have
// moved the path away.
func (s *Sandbox) ReplaceMounted(at, file string, change func() error) error {
	s.replacing.Lock()
	defer s.replacing.Unlock()
	root, err := s.openRoot()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	old, err := s.openMounted(root, at, file)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := change(); err != nil {
		return err
	}
	next, err := cloneFile(file)
	if err != nil {
		return err
	}
	defer unix.Close(next)
	return s.swapMount(root, at, old, next)
}

// openRoot opens the root of the container as its programs see it.
func (s *Sandbox) openRoot() (fd int, err error) {
	if s.pidfd == nil {
		return -1, errInitGone
	}
	fd, err = unix.Open(fmt.Sprintf("/proc/%d/root", s.pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if pidfdEnded(s.pidfd) { // the number may have been another's
		if err == nil {
			unix.Close(fd)
		}
		return -1, errInitGone
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	return fd, nil
}

// maxRenames bounds how often a path is gone through again because something on the
// machine was renamed or mounted while ".." was followed (openat2(2), EAGAIN).
const maxRenames = 1000

// openWithin opens what is at a path of the container.
func (s *Sandbox) openWithin(root int, at string) (fd int, err error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range maxRenames {
		fd, err = unix.Openat2(root, at, how)
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, mayfly.Errorf(mayfly.Conflict, "open %s in container %s: %w", at, s.ID, err)
	}
	return fd, nil
}

// openMounted opens the mount at a path of the container, and makes sure that it
// is the one of our file: programs may have moved its directory.
func (s *Sandbox) openMounted(root int, at, file string) (fd int, err error) {
	fd, err = s.openWithin(root, at)
	if err != nil {
		return -1, err
	}
	var here, ours unix.Stat_t
	var x unix.Statx_t
	if err = unix.Fstat(fd, &here); err == nil {
		if err = unix.Stat(file, &ours); err == nil {
			err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &x)
		}
	}
	if err == nil && (here.Dev != ours.Dev || here.Ino != ours.Ino || x.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0) {
		err = mayfly.Errorf(mayfly.Conflict, "%s is not where it was put in container %s", at, s.ID).WithHint("restart it")
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// cloneFile makes a mount of a file, attached nowhere yet.
func cloneFile(file string) (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree: %w", err)
	}
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(tree)
		return -1, fmt.Errorf("mount_setattr: %w", err)
	}
	return tree, nil
}

// moveBeneath is MOVE_MOUNT_BENEATH of move_mount(2).
const moveBeneath = 0x200

// swapMount puts the mount next in place of old, which is at a path of the
// container.
func (s *Sandbox) swapMount(root int, at string, old, next int) error {
	// In the container's mount namespace /proc knows nothing of us.
	self, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(self)
	below, err := s.below(old)
	if err != nil {
		return err
	}
	unmount := func() error {
		if err := unix.Fchdir(self); err != nil {
			return err
		}
		if err := unix.Unmount(strconv.Itoa(old), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("umount: %w", err)
		}
		return nil
	}
	const empty = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	return s.inMounts(func() error {
		err := unix.MoveMount(next, "", old, "", empty|moveBeneath)
		if err == nil {
			return unmount()
		}
		if !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("move_mount: %w", err)
		}
		// Nothing can be mounted over a file that another one has replaced.
		if err := unmount(); err != nil {
			return err
		}
		bare, err := s.openBare(root, at, below)
		if err != nil {
			return err
		}
		defer unix.Close(bare)
		if err := unix.MoveMount(next, "", bare, "", empty); err != nil {
			return fmt.Errorf("move_mount: %w", err)
		}
		return nil
	})
}

// openBare opens a path from which a mount has gone, and makes sure that it is in
// the mount in which that one was: programs may just now have moved its directory.
func (s *Sandbox) openBare(root int, at string, below uint64) (fd int, err error) {
	fd, err = s.openWithin(root, at)
	if err != nil {
		return -1, err
	}
	id, err := mountOf(fd)
	if err == nil && id != below {
		err = mayfly.Errorf(mayfly.Conflict, "%s is not where it was put in container %s", at, s.ID).WithHint("restart it")
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountOf is the number of the mount that a file was opened in.
func mountOf(fd int) (uint64, error) {
	var x unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &x); err != nil {
		return 0, fmt.Errorf("statx: %w", err)
	}
	return x.Mnt_id, nil
}

// below is the number of the mount in which a mount of the container is.
func (s *Sandbox) below(fd int) (uint64, error) {
	id, err := mountOf(fd)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.pid))
	if err != nil {
		return 0, errInitGone
	}
	for line := range strings.Lines(string(text)) {
		var own, parent uint64
		if _, err := fmt.Sscan(line, &own, &parent); err == nil && own == id {
			return parent, nil
		}
	}
	return 0, mayfly.Errorf(mayfly.Internal, "mount %d is not in container %s", id, s.ID)
}

// inMounts does something in the container's mount namespace, in a thread that
// ends there.
func (s *Sandbox) inMounts(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: no other goroutine may get this thread
		if unix.Gettid() != unix.Getpid() {
			done <- s.enterMounts(do)
			return
		}
		// The main thread never ends. It would stay in the container, and
		// /proc/self with it. While we hold it, another one is found.
		err := s.inMounts(do)
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func (s *Sandbox) enterMounts(do func() error) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	raw, err := s.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	errControl := raw.Control(func(fd uintptr) { err = unix.Setns(int(fd), unix.CLONE_NEWNS) })
	if errControl != nil {
		return errControl
	}
	if err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return do()
}
