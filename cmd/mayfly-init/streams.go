package main

import (
	"strings"
	"syscall"

	"github.com/mayfly-run/mayfly/container/wire"
)

// stdio is the standard streams of a program about to start: the ends that the
// program gets, and the ends of the pipes that init reads. -1 is none.
type stdio struct {
	child [3]uintptr
	own   [3]int
}

// streams makes a program's standard streams. The pipes belong to init's user,
// who is the program's, so that it can open /dev/stdout anew.
func (in *initd) streams(c *conn, p wire.Program) (s stdio, err error) {
	none := ^uintptr(0)
	s = stdio{child: [3]uintptr{none, none, none}, own: [3]int{-1, -1, -1}}
	defer func() {
		if err != nil {
			s.closeChildEnds()
			s.closeOwnEnds()
		}
	}()
	for i, kind := range [3]wire.Stream{p.Stdin, p.Stdout, p.Stderr} {
		var fd int
		switch {
		case kind == wire.Passed:
			fd, err = c.takeFile()
		case kind == wire.Log && i > 0:
			var pipe [2]int
			err = syscall.Pipe2(pipe[:], syscall.O_CLOEXEC)
			if err == nil {
				syscall.SetNonblock(pipe[0], true)
				s.own[i], fd = pipe[0], pipe[1]
			}
		default:
			fd, err = syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		}
		if err != nil {
			return s, err
		}
		s.child[i] = uintptr(fd)
	}
	return s, nil
}

func (s *stdio) closeChildEnds() {
	for _, fd := range s.child {
		if fd != ^uintptr(0) {
			syscall.Close(int(fd))
		}
	}
}

func (s *stdio) closeOwnEnds() {
	for _, fd := range s.own {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// find looks a program up as execvp(3) does, with the PATH that the program
// will have.
func find(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	if name == "" {
		return "", syscall.ENOENT
	}
	path := defaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	found := error(syscall.ENOENT)
	for d := range strings.SplitSeq(path, ":") {
		if d == "" {
			d = "."
		}
		file := d + "/" + name
		at := file
		if !strings.HasPrefix(at, "/") {
			at = dir + "/" + file
		}
		var st syscall.Stat_t
		if syscall.Stat(at, &st) != nil || st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			continue
		}
		const xOK = 1 // access(2)
		if err := syscall.Access(at, xOK); err != nil {
			found = err
			continue
		}
		return file, nil
	}
	return "", found
}
