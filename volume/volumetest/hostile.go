package volumetest

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// hostile has a container plant links, and swap directories for links while a
// snapshot is taken. No copy may hold what is outside, nor may anything outside
// change.
func hostile(t *testing.T, b Bed) {
	r := newRoom(t, b)
	s := r.snapshotter(b)
	if s == nil {
		return
	}
	outside := t.TempDir()
	r.must(os.WriteFile(outside+"/file", []byte("outside"), 0o600))
	r.must(os.Symlink(outside, r.path+"/link"))
	r.write("dir/file", "inside")
	r.must(os.Symlink(outside, r.path+"/trap"))

	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, r.path+"/dir", unix.AT_FDCWD, r.path+"/trap", unix.RENAME_EXCHANGE)
			}
		}
	})
	busy := 0
	var names []string
	for range 5 {
		name := "s" + mayfly.NewID()
		_, err := s.Snapshot(t.Context(), r.v, name)
		if mayfly.KindOf(err) == mayfly.Busy { // it never stands still
			busy++
			continue
		}
		r.must(err)
		names = append(names, name)
	}
	close(stop)
	swapping.Wait()
	if busy == 0 {
		t.Log("no snapshot found the volume in motion")
	}
	_, err := s.Snapshot(t.Context(), r.v, "still")
	r.must(err)
	for _, name := range append(names, "still") {
		r.must(s.Restore(t.Context(), r.v, name))
		r.path = r.open(r.v)
		r.must(filepath.WalkDir(r.path, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				text, err := os.ReadFile(p)
				if err != nil || strings.Contains(string(text), "outside") {
					t.Errorf("snapshot %s holds %s: %q, %v", name, p, text, err)
				}
			}
			return err
		}))
	}
	if text, err := os.ReadFile(outside + "/file"); string(text) != "outside" {
		t.Errorf("the file outside is %q, %v", text, err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 1 {
		t.Errorf("outside there is %v", left)
	}
	r.nothingLeft()
}

// removeDeep nests directories so deeply that no path reaches the last one.
func removeDeep(t *testing.T, b Bed) {
	r := newRoom(t, b)
	if !b.Owners {
		return // nothing of it is removed
	}
	const depth = 3000
	fd, err := unix.Open(r.path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	r.must(err)
	name := strings.Repeat("d", 200)
	for range depth {
		r.must(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		r.must(err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	if s := r.snapshotter(b); s != nil {
		if _, err := s.Snapshot(t.Context(), r.v, "deep"); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("a snapshot of it: %v, want it refused as invalid", err)
		}
	}
	r.must(r.p.Close(t.Context(), r.v))
	r.must(r.p.Remove(t.Context(), r.v))
	r.nothingLeft()
}
