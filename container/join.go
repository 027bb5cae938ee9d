package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NetNS opens the network namespace that the container is in, as another's
// Config.NetNS: that one then shares its addresses and ports. The namespace
// lives as long as any container in it. The caller closes the file.
func (s *Sandbox) NetNS() (*os.File, error) { return s.openProc("ns/net", unix.O_RDONLY) }

// openProc opens a file of /proc/PID of the container's first process, and makes
// sure that it was still that process's.
func (s *Sandbox) openProc(name string, flags int) (*os.File, error) {
	if s.pidfd == nil {
		return nil, errInitGone
	}
	path := fmt.Sprintf("/proc/%d/%s", s.pid, name)
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if pidfdEnded(s.pidfd) {
		if err == nil {
			f.Close()
		}
		return nil, errInitGone
	}
	return f, err
}
