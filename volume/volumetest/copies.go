package volumetest

import (
	stdcontext "context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/volume"
)

// context is one that outlives the test's, for what tidies up.
func context(t *testing.T) stdcontext.Context { return stdcontext.WithoutCancel(t.Context()) }

// snapshotter is nil, with the refusal looked at, where the provider has no snapshots.
func (r *room) snapshotter(b Bed) volume.Snapshotter {
	s, err := r.vs.Snapshotter(r.v)
	if b.Snapshots {
		r.must(err)
		return s
	}
	if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "no snapshots") {
		r.Errorf("snapshots are %v, want them refused as invalid", err)
	}
	return nil
}

// contents of a snapshot, seen through a clone of it.
func (r *room) cloned(b Bed, snapshot, name string) string {
	r.Helper()
	to := r.define(b, name, func(v *mayfly.Volume) { v.Size = r.v.Size })
	r.must(r.snapshotter(b).Clone(r.Context(), r.v, snapshot, to))
	return r.open(to)
}

func snapshot(t *testing.T, b Bed) {
	r := newRoom(t, b)
	s := r.snapshotter(b)
	if s == nil {
		return
	}
	r.write("dir/file", "then")
	took, err := s.Snapshot(t.Context(), r.v, "first")
	r.must(err)
	r.write("dir/file", "now")
	r.write("new", "now")
	if took.Name != "first" || took.Files != 2 || took.Created.IsZero() {
		t.Errorf("the snapshot is %+v", took)
	}
	at := r.cloned(b, "first", "look")
	r.want(at, "dir/file", "then")
	if _, err := os.Stat(at + "/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was written later is in it: %v", err)
	}
	r.want(r.path, "dir/file", "now")
}

func snapshotNames(t *testing.T, b Bed) {
	r := newRoom(t, b)
	s := r.snapshotter(b)
	if s == nil {
		return
	}
	for _, name := range []string{"b", "a"} {
		_, err := s.Snapshot(t.Context(), r.v, name)
		r.must(err)
	}
	if _, err := s.Snapshot(t.Context(), r.v, "a"); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a name that is taken: %v", err)
	}
	names := func() (all []string) {
		list, err := s.Snapshots(r.v)
		r.must(err)
		for _, one := range list {
			all = append(all, one.Name)
		}
		return all
	}
	if got := names(); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("the snapshots are %v, want b and a", got)
	}
	r.must(s.RemoveSnapshot(t.Context(), r.v, "b"))
	if got := names(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the snapshots are %v, want a", got)
	}
	for what, err := range map[string]error{
		"remove":  s.RemoveSnapshot(t.Context(), r.v, "b"),
		"restore": s.Restore(t.Context(), r.v, "b"),
		"clone":   s.Clone(t.Context(), r.v, "b", r.define(b, "other")),
	} {
		if mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("%s of a snapshot that is not there: %v", what, err)
		}
	}
	r.must(s.RemoveSnapshot(t.Context(), r.v, "a"))
}

// snapshotKeepsAll looks at everything that a file can be besides its contents.
func snapshotKeepsAll(t *testing.T, b Bed) {
	r := newRoom(t, b)
	s := r.snapshotter(b)
	if s == nil {
		return
	}
	r.write("plain", strings.Repeat("text", 100_000))
	r.must(os.Chown(r.path+"/plain", 1234, 4321))
	r.must(unix.Chmod(r.path+"/plain", 0o6751))
	r.must(os.Link(r.path+"/plain", r.path+"/second name"))
	r.must(os.Symlink("/etc/shadow", r.path+"/link"))
	r.must(os.Lchown(r.path+"/link", 7, 8))
	r.must(os.MkdirAll(r.path+"/a/b/c", 0o755))
	r.must(os.Chmod(r.path+"/a", 0o1777))
	r.must(unix.Mkfifo(r.path+"/pipe", 0o620))
	r.must(unix.Mknod(r.path+"/socket", unix.S_IFSOCK|0o600, 0))
	xattr := unix.Lsetxattr(r.path+"/plain", "user.note", []byte("kept\x00so"), 0)
	trusted := unix.Lsetxattr(r.path+"/a", "trusted.note", []byte("kept"), 0)
	old := time.Unix(1e9, 123456789)
	r.must(os.Chtimes(r.path+"/plain", old, old))
	r.must(os.Chtimes(r.path+"/a", old, old))
	holes, err := os.Create(r.path + "/holes")
	r.must(err)
	_, err = holes.WriteAt([]byte("middle"), 2<<20)
	r.must(err)
	r.must(errors.Join(holes.Truncate(4<<20), holes.Close()))

	_, err = s.Snapshot(t.Context(), r.v, "all")
	r.must(err)
	was := facts(t, r.path)
	for _, at := range []string{r.cloned(b, "all", "from-snapshot"), r.cloned(b, "", "from-volume")} {
		is := facts(t, at)
		for name, fact := range was {
			if is[name] != fact {
				t.Errorf("%s is\n%s, was\n%s", name, is[name], fact)
			}
		}
		if len(is) != len(was) {
			t.Errorf("there are %d things, were %d", len(is), len(was))
		}
		var st unix.Stat_t
		r.must(unix.Stat(at+"/holes", &st))
		if st.Blocks*512 > 1<<20 {
			t.Errorf("the holes take %d bytes", st.Blocks*512)
		}
		for name, made := range map[string]error{"plain user.note": xattr, "a trusted.note": trusted} {
			file, attr, _ := strings.Cut(name, " ")
			value := make([]byte, 64)
			n, err := unix.Lgetxattr(filepath.Join(at, file), attr, value)
			if made == nil && (err != nil || !strings.HasPrefix(string(value[:n]), "kept")) {
				t.Errorf("attribute %s is %q, %v", name, value[:max(n, 0)], err)
			}
		}
	}
}

// facts are what stat and read tell of everything in a tree.
func facts(t *testing.T, top string) map[string]string {
	t.Helper()
	all, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(top, p)
		fact := fmt.Sprintf("%d:%d %o rdev %d", st.Uid, st.Gid, st.Mode, st.Rdev)
		if name != "." { // its own time is that of what was put into it
			fact += fmt.Sprintf(" mtime %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch d.Type() {
		case 0:
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fact += fmt.Sprintf(" %d bytes %x, %d names, first %s", len(text), hash(text), st.Nlink, first[st.Ino])
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
		case os.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fact += " to " + to
		}
		all[name] = fact
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func hash(b []byte) (h uint64) {
	for _, c := range b {
		h = h*1099511628211 + uint64(c)
	}
	return h
}

func restore(t *testing.T, b Bed) {
	r := newRoom(t, b, func(v *mayfly.Volume) {
		if b.Owners {
			v.Owner, v.Mode = "5:6", 0o700
		}
	})
	s := r.snapshotter(b)
	if s == nil {
		return
	}
	r.write("file", "then")
	_, err := s.Snapshot(t.Context(), r.v, "then")
	r.must(err)
	r.write("file", "now")
	r.write("new", "now")
	r.must(r.p.Close(t.Context(), r.v))
	r.must(s.Restore(t.Context(), r.v, "then"))
	at := r.open(r.v)
	r.want(at, "file", "then")
	if _, err := os.Stat(at + "/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was written later is there: %v", err)
	}
	var st unix.Stat_t
	r.must(unix.Stat(at, &st))
	if st.Uid != 5 || st.Gid != 6 || st.Mode&0o7777 != 0o700 {
		t.Errorf("the top is %d:%d %o, want 5:6 700", st.Uid, st.Gid, st.Mode&0o7777)
	}
	r.path = at
	r.write("again", "written")
	r.must(s.Restore(t.Context(), r.v, "then")) // the snapshot is as it was
	r.want(r.open(r.v), "file", "then")
	r.nothingLeft()
}

// nothingLeft looks for what was staged.
func (r *room) nothingLeft() {
	r.Helper()
	for _, dir := range []string{"/volumes/.tmp", "/snapshots/.tmp"} {
		if left, err := os.ReadDir(r.data + dir); err != nil || len(left) > 0 {
			r.Errorf("%v is left in %s (%v)", left, dir, err)
		}
	}
}

func clone(t *testing.T, b Bed) {
	r := newRoom(t, b)
	s := r.snapshotter(b)
	if s == nil {
		return
	}
	r.write("file", "shared")
	at := r.cloned(b, "", "second")
	r.write("file", "first's own")
	r.want(at, "file", "shared")
	second := r.define(b, "second")
	if err := s.Clone(t.Context(), r.v, "", second); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a clone with the name of another volume: %v", err)
	}
	r.want(at, "file", "shared")
	r.nothingLeft()
}
