package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// A local volume with a size is an ext4 (or xfs) filesystem in a file of that
// size, on a loop device. Project quotas would do without mkfs and without the
// device, but they bind only those who cannot change the project of a file, and
// root in a container can, for it is in the host's user namespace. The file has
// holes where nothing was written: a size reserves nothing.

// leastImage is the least that mkfs.ext4 makes a useful filesystem in.
const leastImage = 1 << 20

// filesystems are those that can be in an image, the preferred one first, with
// the arguments that make one, before the path of the file.
func filesystems() [][]string {
	return [][]string{
		{"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1"},
		{"mkfs.xfs", "-q", "-f", "-K"},
	}
}

// maker finds the program that makes a filesystem.
func makerOf(v mayfly.Volume) ([]string, error) {
	var names []string
	for _, argv := range filesystems() {
		for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} { // a daemon's PATH may be short
			if p, err := exec.LookPath(dir + argv[0]); err == nil {
				return append([]string{p}, argv[1:]...), nil
			}
		}
		names = append(names, argv[0])
	}
	return nil, mayfly.Errorf(mayfly.Invalid, "volume %s: a limit of its size needs %s, and none is installed", v.Name, strings.Join(names, " or ")).
		WithHint("install e2fsprogs, or leave the size out")
}

func checkImage(v mayfly.Volume) error {
	if v.Size < leastImage {
		return mayfly.Errorf(mayfly.Invalid, "volume %s: a size of %d bytes is too little for a filesystem", v.Name, v.Size).
			WithHint("give at least 1 MB")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "volume %s: a limit of its size needs loop devices, and this kernel has none", v.Name).
			WithHint("load the module loop, or leave the size out")
	}
	_, err := makerOf(v)
	return err
}

// makeImage makes a filesystem in a new file of that size.
func makeImage(ctx context.Context, file string, size int64) error {
	argv, err := makerOf(mayfly.Volume{})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, argv[0], append(argv[1:], file)...).CombinedOutput()
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("make a filesystem of %d bytes: %w: %s", size, err, said)
	}
	return nil
}

// loopTries is how often another process may take the free device before us.
const loopTries = 64

// attachLoop opens a loop device of a file, which goes when nobody has it open or
// mounted any more. One that the file has is taken: unmounting here does not end a
// filesystem that somebody else still holds, such as a container that is being made
// meanwhile, and through another device the kernel would mount it a second time, as
// one that knows nothing of what the first has in memory.
func attachLoop(file *os.File) (*os.File, error) {
	dev, err := loopOf(file)
	if dev != nil || err != nil {
		return dev, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	conf := unix.LoopConfig{Fd: uint32(file.Fd())}
	conf.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	copy(conf.Info.File_name[:], file.Name())
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, &fs.PathError{Op: "find a free loop device", Path: control.Name(), Err: err}
		}
		dev, err := openLoop(n, os.O_RDWR)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &conf)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, &fs.PathError{Op: "configure", Path: dev.Name(), Err: err}
		}
	}
	return nil, mayfly.Errorf(mayfly.Busy, "no loop device is free for %s", file.Name()).WithHint("try again")
}

// loopOf opens the loop device that a file has, nil if it has none.
func loopOf(file *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	bound, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, at := range bound {
		var n int
		if _, err := fmt.Sscanf(at, "/sys/block/loop%d/", &n); err != nil {
			return nil, err
		}
		dev, err := openLoop(n, os.O_RDONLY)                           // kernels may refuse to open one for writing that is mounted
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) { // it is just going
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
		if err == nil && info.Device == st.Dev && info.Inode == st.Ino && info.Offset == 0 {
			return dev, nil
		}
		dev.Close()
		if err != nil && !errors.Is(err, unix.ENXIO) { // it has no file any more
			return nil, &fs.PathError{Op: "look at", Path: dev.Name(), Err: err}
		}
	}
	return nil, nil
}

// openLoop opens a loop device, whose node may be missing where nothing makes
// nodes of new devices.
func openLoop(n, flags int) (*os.File, error) {
	name := fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(name, flags, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return dev, err
	}
	const major = 7
	if err := unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(major, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &fs.PathError{Op: "mknod", Path: name, Err: err}
	}
	return os.OpenFile(name, flags, 0)
}

// mountImage mounts the filesystem in a file.
func mountImage(file, at string) error {
	f, err := os.OpenFile(file, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	dev, err := attachLoop(f)
	if err != nil {
		return err
	}
	defer dev.Close() // the mount holds it
	for _, kind := range []string{"ext4", "xfs"} {
		if err = unix.Mount(dev.Name(), at, kind, unix.MS_NODEV, ""); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			break // EINVAL: it is another one
		}
	}
	if err != nil {
		return &fs.PathError{Op: "mount the image at", Path: at, Err: err}
	}
	return nil
}
