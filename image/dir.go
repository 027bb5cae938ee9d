package image

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// dirSource is a directory that holds an OCI layout or a docker-archive.
type dirSource struct{ root *os.Root }

func (d dirSource) open(name string) (io.ReadCloser, int64, error) {
	f, err := openPlain(d.root, name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// openPlain opens without waiting for the other end of a pipe.
func openPlain(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// dirTar writes a root directory as a tar: sorted, with owners as numbers,
// hard links, devices and extended attributes, and without sockets and what is
// mounted below it.
type dirTar struct {
	root   *os.Root
	tw     *tar.Writer
	dev    uint64
	seen   map[inode]string // files with several names, by the first
	newest time.Time
}

type inode struct{ dev, ino uint64 }

// writeTar writes the tar of root and returns the newest time in it.
func writeTar(ctx context.Context, w io.Writer, root *os.Root) (time.Time, error) {
	d := &dirTar{root: root, tw: tar.NewWriter(w), seen: map[inode]string{}}
	top, err := root.Lstat(".")
	if err != nil {
		return d.newest, mayfly.Errorf(mayfly.Invalid, "read directory: %w", err)
	}
	d.dev = top.Sys().(*syscall.Stat_t).Dev
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		return d.add(path)
	})
	if err != nil {
		return d.newest, mayfly.Errorf(mayfly.Invalid, "read directory: %w", err)
	}
	return d.newest, d.tw.Close()
}

// add writes the entry of one path.
func (d *dirTar) add(path string) error {
	fi, err := d.root.Lstat(path)
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	var link string
	if fi.Mode()&fs.ModeSymlink != 0 {
		if link, err = d.root.Readlink(path); err != nil {
			return err
		}
	}
	hdr, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	hdr.Name, hdr.Format = path, tar.FormatPAX
	if fi.IsDir() {
		hdr.Name += "/"
	}
	hdr.Uname, hdr.Gname = "", ""
	hdr.AccessTime, hdr.ChangeTime = time.Time{}, time.Time{}
	if hdr.ModTime.After(d.newest) {
		d.newest = hdr.ModTime.Truncate(time.Second)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := d.seen[id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			return d.tw.WriteHeader(hdr)
		}
		d.seen[id] = hdr.Name
	}
	switch {
	case fi.Mode().IsRegular():
		return d.file(path, hdr)
	case fi.IsDir():
		if err := d.file(path, hdr); err != nil {
			return err
		}
		if st.Dev != d.dev {
			return fs.SkipDir // a mount point; what is mounted there is not of this root
		}
		return nil
	}
	return d.tw.WriteHeader(hdr)
}

// file adds a file, or a directory without what is in it.
func (d *dirTar) file(path string, hdr *tar.Header) error {
	f, err := openPlain(d.root, path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := readXattrs(f, hdr); err != nil {
		return err
	}
	if err := d.tw.WriteHeader(hdr); err != nil || hdr.Typeflag == tar.TypeDir {
		return err
	}
	if _, err := io.CopyN(d.tw, f, hdr.Size); err != nil {
		return fmt.Errorf("read %s, which may be changing: %w", path, err)
	}
	return nil
}

// readXattrs puts the extended attributes of f into its header. Those in
// "trusted." belong to this machine, not to the root.
func readXattrs(f *os.File, hdr *tar.Header) error {
	fd := int(f.Fd())
	size, err := unix.Flistxattr(fd, nil)
	if err == unix.ENOTSUP || err == nil && size == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes of %s: %w", f.Name(), err)
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(fd, names); err != nil {
		return fmt.Errorf("list attributes of %s: %w", f.Name(), err)
	}
	for name := range strings.SplitSeq(strings.Trim(string(names[:size]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "trusted.") || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10) // the kernel's limit
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return fmt.Errorf("read attribute %s of %s: %w", name, f.Name(), err)
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[xattrRecord+name] = string(value[:n])
	}
	return nil
}
