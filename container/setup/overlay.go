package setup

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// overlay mounts the container's root and keeps a descriptor of it.
func (s *stage) overlay() (string, syscall.Errno) {
	at, dir, data := s.str(), s.str(), s.str()
	text := " on " + at.String()
	if len(dir) > 1 {
		if _, e := do(unix.SYS_CHDIR, uintptr(ptr(dir)), 0, 0, 0, 0, 0); e != 0 {
			return text, e
		}
	}
	e := mount(overlayType, at, overlayType, 0, data)
	if e == 0 {
		s.root, e = open(at, unix.O_PATH|unix.O_DIRECTORY)
	}
	return text, e
}

var overlayType = cstr("overlay\x00")
