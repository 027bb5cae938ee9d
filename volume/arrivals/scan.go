package arrivals

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// look has a file told of if it is complete, and looked at again if it is not.
func (t *Tree) look(p string, now time.Time) {
	f, writing, err := t.state(p)
	switch {
	case err != nil: // it went, or is no file
		delete(t.later, p)
	case writing:
		// The kernel tells of a close just before it counts the writer off, and a
		// writer that a scan met may be one whose close was told already.
		t.postpone(p, now, firstLook)
	default:
		delete(t.later, p)
		t.complete(f)
	}
}

// lookMade is look for a name that was made. Of a file that is written then the
// close tells; one with contents may be a link, of which nothing else tells.
func (t *Tree) lookMade(p string, now time.Time) {
	if f, _, err := t.state(p); err == nil && f.Size > 0 {
		t.look(p, now)
	}
}

// complete has a file told of, once where several messages are of one change.
func (t *Tree) complete(f File) {
	if !slices.Contains(t.due[max(len(t.due)-batch, 0):], f) {
		t.due = append(t.due, f)
	}
}

// postpone has a file looked at again, ever later.
func (t *Tree) postpone(p string, now time.Time, wait time.Duration) {
	q := t.later[p]
	if q == nil {
		q = &pending{wait: wait}
		t.later[p] = q
	}
	q.at = now.Add(q.wait)
	q.wait = min(2*q.wait, lastLook)
}

// lookAgain looks at what was being written.
func (t *Tree) lookAgain(now time.Time) {
	for p, q := range t.later {
		if !q.at.After(now) && len(t.due) < maxDue {
			t.look(p, now)
		}
	}
}

// scanAll watches all directories and looks at all files. What is noted and not
// there any more is forgotten.
func (t *Tree) scanAll(ctx context.Context) error {
	t.rescan = false
	told, err := t.note.told()
	if err != nil {
		return err
	}
	old := t.dirs
	t.dirs = map[int]string{}
	s := &found{told: told}
	if err := t.scan(ctx, "", s); err != nil {
		return err
	}
	for wd := range old {
		if _, still := t.dirs[wd]; !still {
			unix.InotifyRmWatch(t.inFD, uint32(wd))
		}
	}
	return t.note.replace(s.kept)
}

// found is what a scan of all goes by and comes to.
type found struct {
	told   marks
	kept   marks  // of those that are there still
	all    bool   // nothing is told of, all is noted
	before *Rules // but for files that counted by these: they stay as they are in told
}

// scan watches a directory and those below it, and looks at their files. Those that
// s knows are left out; s is nil for a directory that has just come.
func (t *Tree) scan(ctx context.Context, p string, s *found) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := t.openBeneath(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NOATIME)
	if err != nil {
		if p == "" {
			return fmt.Errorf("open the watched directory: %w", err)
		}
		return nil // it went, is something else or is mounted there
	}
	dir := os.NewFile(uintptr(fd), procPath(fd)) // the name serves where a type is to be looked up
	defer dir.Close()
	if err := t.watch(fd, p); err != nil {
		return err
	}
	var below []string
	for {
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			at := path.Join(p, e.Name())
			switch {
			case e.IsDir():
				if t.opts.Rules.dir(at) {
					below = append(below, at)
				}
			case !printable(e.Name()):
				t.warn("some names of files are no printable text, such as %.200q: they are not told of", e.Name())
			case e.Type().IsRegular() && t.opts.Rules.file(at):
				if err := t.meet(ctx, at, s); err != nil {
					return err
				}
			}
		}
		if err != nil || len(entries) == 0 {
			break // the end, or the directory went
		}
	}
	dir.Close()
	for _, at := range below {
		if err := t.scan(ctx, at, s); err != nil {
			return err
		}
	}
	return nil
}

// meet looks at a file that a scan came to.
func (t *Tree) meet(ctx context.Context, p string, s *found) error {
	if len(t.later) >= maxLater {
		t.rescan = true
		return nil
	}
	f, writing, err := t.state(p)
	switch {
	case err != nil:
	case writing:
		t.postpone(p, time.Now(), firstLook)
	case s != nil && s.knows(p, f.mark()):
		if len(s.kept) < t.opts.MaxKept {
			s.kept = append(s.kept, f.mark())
		}
	case s != nil && s.all:
	case s != nil && len(s.kept) >= t.opts.MaxKept:
		t.warn("more than %d files: of those that come while nobody watches, some are not told of", t.opts.MaxKept)
	case f.Size == 0 && time.Since(f.ModTime) < emptyWait:
		// Between making a file and counting its writer the kernel tells nobody apart.
		t.postpone(p, time.Now(), emptyWait)
	default:
		t.complete(f)
		if len(t.due) >= batch {
			return t.tellAll(ctx)
		}
	}
	return nil
}

// knows reports whether a file is to be noted and not told of.
func (s *found) knows(p string, mark uint64) bool {
	if s.all && (s.before == nil || !s.before.whole(p)) {
		return true
	}
	return s.told.has(mark)
}
