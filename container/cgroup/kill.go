package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel tells nobody when a v1 group has frozen or emptied, so Freeze and
// Remove look again, at first often and then seldom, for at most patience.
const (
	firstLook = 200 * time.Microsecond
	lastLook  = 50 * time.Millisecond
	patience  = 5 * time.Second
)

// until asks f until it says true, fails, or patience ends.
func until(f func() (bool, error)) error {
	end := time.Now().Add(patience)
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		done, err := f()
		if done || err != nil {
			return err
		}
		if time.Now().After(end) {
			return os.ErrDeadlineExceeded
		}
		time.Sleep(pause)
	}
}

// Freeze stops all processes of the group where they are and returns when
// they have stopped, after at most 5 s.
func (g *Group) Freeze() error { return g.freeze(true) }

// Thaw lets a frozen group go on.
func (g *Group) Thaw() error { return g.freeze(false) }

func (g *Group) freeze(frozen bool) error {
	err := errors.ErrUnsupported
	if dir := g.dir("freezer"); dir != "" {
		state := map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
		err = until(func() (bool, error) {
			if err := write(dir, "freezer.state", state); err != nil { // again: a forking process may have escaped
				return false, err
			}
			have, err := read(dir, "freezer.state")
			return have == state, err
		})
	} else if g.v2 != "" {
		want := map[bool]int64{true: 1, false: 0}[frozen]
		if err = write(g.v2, "cgroup.freeze", decimal(want)); err == nil {
			err = until(func() (bool, error) {
				events, err := keyed(g.v2, "cgroup.events")
				return events["frozen"] == want, err
			})
		}
	}
	if err != nil {
		return fmt.Errorf("freeze or thaw control group %s: %w", g.Path, err)
	}
	return nil
}

// Kill sends SIGKILL to every process of the group, those being forked
// included. It does not wait until they are gone. An empty or removed group
// is no error.
func (g *Group) Kill() error {
	var err error
	if g.v2 != "" {
		err = write(g.v2, "cgroup.kill", "1") // Linux 5.14
		if errors.Is(err, fs.ErrNotExist) && !exists(g.v2) {
			err = nil
		}
	}
	if g.host.Mode == V2 {
		if err != nil {
			return fmt.Errorf("kill control group %s: %w", g.Path, err)
		}
		return nil
	}
	if pids, err := g.Pids(); err != nil || len(pids) == 0 {
		return err
	}
	// A frozen group cannot fork, so one pass gets all. When freezing fails
	// the signals still go out. What is not in the unified hierarchy is in the
	// freezer's, where a runtime binary made it.
	frozen := g.dir("freezer") != "" && g.Freeze() == nil
	pids, err := g.Pids()
	for _, pid := range pids {
		if e := unix.Kill(pid, unix.SIGKILL); e != nil && e != unix.ESRCH {
			err = errors.Join(err, fmt.Errorf("kill process %d: %w", pid, e))
		}
	}
	if frozen {
		if e := g.Thaw(); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func exists(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

// Pids returns the processes of the group and of groups below it, sorted; a
// removed group has none.
func (g *Group) Pids() ([]int, error) {
	dir := g.v2
	for _, controller := range []string{"pids", "memory"} {
		if d := g.dir(controller); d != "" {
			dir = d
			break
		}
	}
	var pids []int
	err := eachBelow(dir, func(dir string) error {
		text, err := read(dir, "cgroup.procs")
		for field := range strings.FieldsSeq(text) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	slices.Sort(pids)
	return slices.Compact(pids), err
}

// eachBelow calls f for the groups below dir and then for dir; those that
// vanish meanwhile are no error.
func eachBelow(dir string, f func(string) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := eachBelow(dir+"/"+entry.Name(), f); err != nil {
				return err
			}
		}
	}
	if err := f(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// Discard removes a group that nobody is meant to be in any more, and kills who
// is. One that is not there is no error.
func (h *Host) Discard(p string) error {
	if err := checkPath(p); err != nil {
		return err
	}
	if h.rmdirs(p) {
		return nil
	}
	g, err := h.Open(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(g.Kill(), g.Remove())
}

// RemoveParent removes what Parent made, if no container is left in it.
func (h *Host) RemoveParent(p string) {
	if checkPath(p) == nil {
		h.rmdirs(p)
	}
}

// rmdirs removes a group from every hierarchy where it is empty, and reports
// whether it is gone.
func (h *Host) rmdirs(p string) (gone bool) {
	gone = true
	for _, dir := range h.group(p, func(*Hierarchy) bool { return true }).all() {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			gone = false
		}
	}
	return gone
}

// Remove removes the group and those below it from all hierarchies. Processes
// that are dying keep it busy for a moment; it tries again for up to 5 s. A
// group that is gone is no error.
func (g *Group) Remove() error {
	errs := []error{g.Close()}
	for _, dir := range g.all() {
		if err := until(func() (bool, error) { return rmdir(dir) }); err != nil {
			errs = append(errs, fmt.Errorf("remove control group %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// rmdir removes one directory; false means that it is busy.
func rmdir(dir string) (bool, error) {
	switch err := unix.Rmdir(dir); err {
	case nil, unix.ENOENT:
		return true, nil
	case unix.EBUSY, unix.EINTR:
	default:
		return false, err
	}
	// most often there are no groups below, and the try above was enough
	err := eachBelow(dir, func(d string) error {
		if err := unix.Rmdir(d); err != nil && err != unix.EBUSY && err != unix.EINTR {
			return err
		}
		return nil
	})
	return !exists(dir), err
}
