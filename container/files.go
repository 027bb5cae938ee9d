package container

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A sandbox's own files are made and deleted once for each run, by plain
// system calls: package os would ask the kernel four times as much, to find
// out whether it can wait for them.

// retry makes a system call again when a signal came between.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// openDir returns a descriptor for a directory, to name what is below it.
func openDir(path string) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// create makes a file below dir that is not there yet.
func create(dir int, name string, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return fd, nil
}

// put makes a file below dir with a content.
func put(dir int, name string, data []byte, mode uint32) error {
	fd, err := create(dir, name, mode)
	if err != nil {
		return err
	}
	for len(data) > 0 && err == nil {
		err = retry(func() error {
			n, err := unix.Write(fd, data)
			data = data[max(n, 0):]
			return err
		})
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// replace puts a file below dir whole or not at all, over one of the same name.
func replace(dir int, name string, data []byte, mode uint32) error {
	part := ".part-" + name
	err := put(dir, part, data, mode)
	if errors.Is(err, unix.EEXIST) { // a daemon was killed here
		unix.Unlinkat(dir, part, 0)
		err = put(dir, part, data, mode)
	}
	if err == nil {
		err = unix.Renameat(dir, part, dir, name)
	}
	if err != nil {
		unix.Unlinkat(dir, part, 0)
	}
	return err
}

// kept is all that a sandbox's directory most often holds at its end, the
// contents of a directory before itself; directories end with a slash.
var kept = [...]string{
	stateName, "resolv.conf", "hosts", "hostname", socketName, logName0, logName1, exitsName, pidName,
	noteName, namesName, "run/init", "run/self.json", "run/run.json", "run/api.sock", "run/payload", "run/",
	"work/work/incompat/volatile/dirty", "work/work/incompat/volatile/", "work/work/incompat/", "work/work/", "work/",
	"upper/",
}

// removeDir deletes a sandbox's directory: first what it is known to hold,
// without looking, and then whatever is left, which is most often nothing.
func removeDir(path string) error {
	dir, err := openDir(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return os.RemoveAll(path)
	}
	for _, name := range kept {
		if d, ok := strings.CutSuffix(name, "/"); ok {
			unix.Unlinkat(dir, d, unix.AT_REMOVEDIR)
		} else {
			unix.Unlinkat(dir, name, 0)
		}
	}
	unix.Close(dir)
	if unix.Rmdir(path) == nil {
		return nil
	}
	return os.RemoveAll(path)
}

// KeepFile gives a file that PutFile has put a second name, under which it stays
// as it is when the first is replaced. One that has that name already keeps it; a
// file that is not there is kept as an empty one.
func (s *Sandbox) KeepFile(name, as string) error {
	err := retry(func() error { return unix.Link(s.files+"/"+name, s.files+"/"+as) })
	switch {
	case errors.Is(err, unix.ENOENT):
		return s.PutFile(as, nil)
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	}
	return &os.LinkError{Op: "link", Old: name, New: as, Err: err}
}

// DropFile removes a file from /run/mayfly. That there is none is no error.
func (s *Sandbox) DropFile(name string) error {
	err := retry(func() error { return unix.Unlink(s.files + "/" + name) })
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "unlink", Path: name, Err: err}
}
