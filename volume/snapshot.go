package volume

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// A copy is as good as the moment that it shows. Before it and after it all that
// was written goes to disk, and each file's time of change is looked at: the kernel
// sets it at every write, and also at the first one through a mapping after
// that. If they are the same, nothing was written in between, and so the copy is
// what was there all the time. Else it is made again.

// snapshotTries is how often a volume is copied that changes meanwhile.
const snapshotTries = 5

// timeStep is how far apart two writes are at least for their times to differ,
// where a kernel takes them from its tick.
const timeStep = 20 * time.Millisecond

// steadyCopy copies what is at from into to, which is made anew by fresh for each try.
func steadyCopy(ctx context.Context, from, to string, fresh func() error) error {
	for range snapshotTries {
		if err := fresh(); err != nil {
			return err
		}
		before, newest, err := fingerprint(ctx, from)
		if err != nil {
			return err
		}
		if wait := timeStep - time.Since(newest); wait > 0 { // a write now might not show
			t := time.NewTimer(min(wait, timeStep))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return context.Cause(ctx)
			}
		}
		failed := copyTree(ctx, from, to)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		after, _, err := fingerprint(ctx, from)
		if err != nil || before == after {
			return errors.Join(failed, err)
		}
	}
	return mayfly.Errorf(mayfly.Busy, "it is written to all the time").WithHint("stop whoever writes, or try again when there is less to do")
}

// fingerprint is a hash of what tells that something below a directory changed,
// and when the last change was.
func fingerprint(ctx context.Context, dir string) (sum [32]byte, newest time.Time, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return sum, newest, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return sum, newest, err
	}
	h := sha256.New()
	each := func(path string, st *unix.Stat_t) {
		io.WriteString(h, path)
		binary.Write(h, binary.LittleEndian, []int64{
			int64(st.Ino), int64(st.Mode), st.Size, int64(st.Nlink), st.Ctim.Sec, st.Ctim.Nsec, st.Mtim.Sec, st.Mtim.Nsec,
		})
		if t := time.Unix(st.Ctim.Unix()); t.After(newest) {
			newest = t
		}
	}
	var top unix.Stat_t
	if err := unix.Fstat(fd, &top); err != nil {
		return sum, newest, err
	}
	each("", &top)
	err = walk(ctx, fd, func(e *entry) error {
		each(e.path+"\x00", &e.stat)
		return nil
	}, nil)
	return [32]byte(h.Sum(nil)), newest, err
}

// Snapshot is part of Snapshotter.
func (k *kept) Snapshot(ctx context.Context, v mayfly.Volume, name string) (s Snapshot, err error) {
	at := k.snapshotsOf(v) + "/" + name
	if _, err := os.Lstat(at); err == nil {
		return s, errSnapshotExists(v, name)
	}
	from, err := k.present(ctx, v)
	if err != nil {
		return s, err
	}
	dir, err := stage(k.snapshots)
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			removeAll(dir)
			err = explainFull(err, "take a snapshot of volume "+v.Name)
		}
	}()
	err = steadyCopy(ctx, from, dir+"/tree", func() error {
		if err := removeAll(dir + "/tree"); err != nil {
			return err
		}
		return os.Mkdir(dir+"/tree", 0o700)
	})
	if err != nil {
		if e := new(mayfly.Error); errors.As(err, &e) && e.Kind == mayfly.Busy {
			err = mayfly.Errorf(mayfly.Busy, "take a snapshot of volume %s: %s", v.Name, e.Text).WithHint("%s", e.Hint)
		}
		return s, err
	}
	if s, err = describe(ctx, dir, name); err != nil {
		return s, err
	}
	if err = place(dir, at); errors.Is(err, fs.ErrExist) {
		err = errSnapshotExists(v, name)
	}
	return s, err
}

func errSnapshotExists(v mayfly.Volume, name string) error {
	return mayfly.Errorf(mayfly.Conflict, "volume %s has a snapshot %s already", v.Name, name).WithHint("choose another name, or remove that one")
}

// describe writes down what a snapshot is.
func describe(ctx context.Context, dir, name string) (Snapshot, error) {
	s := Snapshot{Name: name, Created: time.Now().UTC()}
	fd, err := unix.Open(dir+"/tree", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return s, err
	}
	defer unix.Close(fd)
	u, err := usage(ctx, fd)
	if err != nil {
		return s, err
	}
	s.Bytes, s.Files = u.Bytes, *u.Files
	text, err := json.Marshal(s)
	if err != nil {
		return s, err
	}
	return s, os.WriteFile(dir+"/snapshot.json", text, 0o600)
}

// Snapshots is part of Snapshotter.
func (k *kept) Snapshots(v mayfly.Volume) ([]Snapshot, error) {
	list := []Snapshot{}
	entries, err := os.ReadDir(k.snapshotsOf(v))
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	for _, e := range entries {
		text, err := os.ReadFile(k.snapshotsOf(v) + "/" + e.Name() + "/snapshot.json")
		var s Snapshot
		if err == nil {
			err = json.Unmarshal(text, &s)
		}
		if err != nil {
			return nil, fmt.Errorf("read snapshot %s of volume %s: %w", e.Name(), v.Name, err)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Snapshot) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, err
}

// tree is where a snapshot's contents are.
func (k *kept) tree(v mayfly.Volume, name string) (string, error) {
	dir := k.snapshotsOf(v) + "/" + name
	if _, err := os.Lstat(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = mayfly.Errorf(mayfly.NotFound, "volume %s has no snapshot %s", v.Name, name).
				WithHint("mayfly volume inspect %s lists them", v.Name)
		}
		return "", err
	}
	return dir + "/tree", nil
}

// RemoveSnapshot is part of Snapshotter.
func (k *kept) RemoveSnapshot(_ context.Context, v mayfly.Volume, name string) error {
	if _, err := k.tree(v, name); err != nil {
		return err
	}
	if err := discard(k.snapshots, k.snapshotsOf(v)+"/"+name); err != nil {
		return fmt.Errorf("remove snapshot %s of volume %s: %w", name, v.Name, err)
	}
	os.Remove(k.snapshotsOf(v)) // if it was the last one
	return nil
}

// Restore is part of Snapshotter.
func (k *kept) Restore(ctx context.Context, v mayfly.Volume, name string) error {
	from, err := k.tree(v, name)
	if err != nil {
		return err
	}
	dir, err := k.filled(ctx, v, func(to string) error { return copyTree(ctx, from, to) })
	if err != nil {
		return explainFull(err, fmt.Sprintf("restore volume %s", v.Name))
	}
	at := k.volume(v)
	if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) {
		err = place(dir, at)
		if err != nil {
			removeAll(dir)
		}
		return err
	}
	if err := exchange(dir, at); err != nil {
		removeAll(dir)
		return err
	}
	return removeAll(dir) // which is the old one now
}

// Clone is part of Snapshotter.
func (k *kept) Clone(ctx context.Context, from mayfly.Volume, snapshot string, to mayfly.Volume) error {
	if err := k.Check(to); err != nil {
		return err
	}
	var source string
	var err error
	copy := copyTree
	if snapshot != "" {
		source, err = k.tree(from, snapshot)
	} else {
		source, err = k.present(ctx, from)
		copy = func(ctx context.Context, from, at string) error {
			return steadyCopy(ctx, from, at, func() error { return flatten(at) })
		}
	}
	if err != nil {
		return err
	}
	dir, err := k.filled(ctx, to, func(at string) error { return copy(ctx, source, at) })
	if err != nil {
		return explainFull(err, "clone volume "+from.Name)
	}
	if err = place(dir, k.volume(to)); err != nil {
		removeAll(dir)
	}
	if errors.Is(err, fs.ErrExist) {
		return mayfly.Errorf(mayfly.Conflict, "there is a volume %s already", to.Name).WithHint("choose another name")
	}
	return err
}
