package container

import (
	"errors"
	"io/fs"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/cgroup"
)

// Stats says what the container uses now.
func (s *Sandbox) Stats() (mayfly.Stats, error) {
	g, err := s.group()
	if err != nil {
		return mayfly.Stats{}, err
	}
	defer g.Close()
	st, err := g.Stats()
	if err != nil {
		return mayfly.Stats{}, err
	}
	r := mayfly.Stats{
		Time: time.Now(), Memory: st.Memory - st.MemoryCache, Pids: st.Pids,
		CPU:       time.Duration(st.CPU) * time.Microsecond,
		Throttled: time.Duration(st.Throttled) * time.Microsecond,
	}
	if st.MemoryLimit < s.host.memory {
		r.MemoryMax = st.MemoryLimit
	}
	return r, nil
}

// SetMemory changes the memory limit, in bytes.
func (s *Sandbox) SetMemory(bytes int64) error {
	g, err := s.group()
	if err != nil {
		return err
	}
	defer g.Close()
	return g.SetMemory(bytes)
}

func (s *Sandbox) group() (*cgroup.Group, error) {
	g, err := s.host.cgroups.Open(s.state.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mayfly.Errorf(mayfly.Conflict, "sandbox %s has ended", s.ID)
	}
	return g, err
}

// oomKilled asks the kernel whether it killed for want of memory in here.
func (s *Sandbox) oomKilled() bool {
	g, err := s.group()
	if err != nil {
		return false
	}
	defer g.Close()
	n, err := g.OOMKills()
	return err == nil && n > 0
}

// killGroup kills whatever is in a sandbox's cgroup, where there is one.
func (s *Sandbox) killGroup() error {
	if s.state.Cgroup == "" {
		return nil
	}
	g, err := s.host.cgroups.Open(s.state.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer g.Close()
	return g.Kill()
}
