package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ShowFile makes a file of the host, however large, readable at
// /run/mayfly/NAME, and returns it opened anew, as a program's standard input.
// It is not copied: a mount of it, which nobody in the container can write
// through, not even by opening the standard input again, joins the container's
// mount namespace and goes with that. The file may be unlinked afterwards. It
// takes Linux 5.12.
func (s *Sandbox) ShowFile(name string, f *os.File) (*os.File, error) {
	if s.pidfd == nil {
		return nil, errInitGone
	}
	if err := s.PutFile(name, nil); err != nil { // to mount on
		return nil, err
	}
	tree, err := unix.OpenTree(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("show %s in a container: open_tree: %w", name, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, fmt.Errorf("show %s in a container: mount_setattr: %w", name, err)
	}
	shown, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", tree))
	if err != nil {
		return nil, fmt.Errorf("show %s in a container: %w", name, err)
	}
	err = s.inMounts(func() error {
		if err := unix.MoveMount(tree, "", unix.AT_FDCWD, runDir+"/"+name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("move_mount: %w", err)
		}
		return nil
	})
	if err != nil {
		shown.Close()
		return nil, fmt.Errorf("show %s in a container: %w", name, err)
	}
	return shown, nil
}
