// Package volumetest is the conformance suite of volume providers: what each of
// them promises, tried on a real kernel. It needs root.
package volumetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/volume"
)

// Bed is a provider to be tried.
type Bed struct {
	// Open opens the volumes of a data directory; what is opened again is what a
	// daemon finds that starts again.
	Open func(t *testing.T, data string) *volume.Volumes

	// Define is a volume that can be made. Names differ.
	Define func(t *testing.T, name string) mayfly.Volume

	Sizes     bool  // a size can be asked for
	Owners    bool  // owner and mode can
	Limit     int64 // a size that can, in bytes
	Snapshots bool  // it is a volume.Snapshotter
}

// Run tries the provider.
func Run(t *testing.T, b Bed) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for name, test := range map[string]func(*testing.T, Bed){
		"Lasts":             lasts,
		"CreateTwice":       createTwice,
		"Remove":            remove,
		"OwnerAndMode":      ownerAndMode,
		"Size":              size,
		"Usage":             usage,
		"PinMakes":          pinMakes,
		"PinFollowsNoLinks": pinFollowsNoLinks,
		"PinStays":          pinStays,
		"NothingMounted":    nothingMounted,
		"Snapshot":          snapshot,
		"SnapshotNames":     snapshotNames,
		"SnapshotKeepsAll":  snapshotKeepsAll,
		"Restore":           restore,
		"Clone":             clone,
		"Hostile":           hostile,
		"RemoveDeep":        removeDeep,
	} {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

// room is a data directory with one volume made and opened in it.
type room struct {
	*testing.T
	data string
	vs   *volume.Volumes
	v    mayfly.Volume
	p    volume.Provider
	path string // of the opened volume
}

// newRoom makes a volume. All of it goes with the test.
func newRoom(t *testing.T, b Bed, change ...func(*mayfly.Volume)) *room {
	t.Helper()
	r := &room{T: t, data: t.TempDir()}
	r.vs = b.Open(t, r.data)
	r.v = r.define(b, "data", change...)
	r.p = r.provider(r.v)
	r.must(r.p.Create(t.Context(), r.v))
	r.path = r.open(r.v)
	return r
}

func (r *room) define(b Bed, name string, change ...func(*mayfly.Volume)) mayfly.Volume {
	v := b.Define(r.T, name)
	v.Space, v.Name = "default", name
	for _, c := range change {
		c(&v)
	}
	r.must(r.vs.Check(v))
	r.Cleanup(func() { // also takes down what is mounted
		if err := r.provider(v).Remove(context(r.T), v); err != nil {
			r.Errorf("remove %s: %v", v.Name, err)
		}
	})
	return v
}

func (r *room) provider(v mayfly.Volume) volume.Provider {
	p, err := r.vs.Provider(v)
	r.must(err)
	return p
}

func (r *room) open(v mayfly.Volume) string {
	r.Helper()
	o, err := r.provider(v).Open(r.Context(), v)
	r.must(err)
	if o.Emptied {
		r.Errorf("volume %s was emptied", v.Name)
	}
	return o.Path
}

func (r *room) must(err error) {
	if err != nil {
		r.Helper()
		r.Fatal(err)
	}
}

func (r *room) write(name, text string) {
	r.Helper()
	p := filepath.Join(r.path, name)
	r.must(os.MkdirAll(filepath.Dir(p), 0o755))
	r.must(os.WriteFile(p, []byte(text), 0o644))
}

func (r *room) want(dir, name, text string) {
	r.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || string(got) != text {
		r.Errorf("%s holds %.60q (%v), want %q", name, got, err, text)
	}
}

func lasts(t *testing.T, b Bed) {
	r := newRoom(t, b)
	r.write("dir/file", "kept")
	r.must(r.p.Close(t.Context(), r.v))
	r.vs = b.Open(t, r.data) // a daemon that starts again
	r.want(r.open(r.v), "dir/file", "kept")
}

func createTwice(t *testing.T, b Bed) {
	r := newRoom(t, b)
	r.write("file", "kept")
	r.must(r.p.Create(t.Context(), r.v))
	r.want(r.open(r.v), "file", "kept")
}

func remove(t *testing.T, b Bed) {
	r := newRoom(t, b)
	r.write("file", "gone")
	r.must(r.p.Close(t.Context(), r.v))
	for range 2 {
		r.must(r.p.Remove(t.Context(), r.v))
	}
	if b.Owners { // contents of its own
		r.must(r.p.Create(t.Context(), r.v))
		if _, err := os.Stat(filepath.Join(r.open(r.v), "file")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a volume that was removed has its file when it is made again: %v", err)
		}
		return
	}
	r.want(r.v.Source, "file", "gone") // somebody else's
}

func ownerAndMode(t *testing.T, b Bed) {
	if !b.Owners {
		data := t.TempDir()
		v := b.Define(t, "data")
		v.Space, v.Name, v.Owner = "default", "data", "1:1"
		if err := b.Open(t, data).Check(v); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("an owner is %v, want it refused as invalid", err)
		}
		return
	}
	r := newRoom(t, b, func(v *mayfly.Volume) { v.Owner, v.Mode = "999:998", 0o2750 })
	var st unix.Stat_t
	r.must(unix.Stat(r.path, &st))
	if st.Uid != 999 || st.Gid != 998 || st.Mode&0o7777 != 0o2750 {
		t.Errorf("the top is %d:%d %o, want 999:998 2750", st.Uid, st.Gid, st.Mode&0o7777)
	}
	plain := newRoom(t, b)
	r.must(unix.Stat(plain.path, &st))
	if st.Uid != 0 || st.Mode&0o7777 != 0o755 {
		t.Errorf("the top is %d %o, want 0 755", st.Uid, st.Mode&0o7777)
	}
}

func size(t *testing.T, b Bed) {
	if !b.Sizes {
		v := b.Define(t, "data")
		v.Space, v.Name, v.Size = "default", "data", 1<<20
		if err := b.Open(t, t.TempDir()).Check(v); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("a size is %v, want it refused as invalid", err)
		}
		return
	}
	r := newRoom(t, b, func(v *mayfly.Volume) { v.Size = b.Limit })
	f, err := os.Create(filepath.Join(r.path, "large"))
	r.must(err)
	defer f.Close()
	piece, wrote := make([]byte, 64<<10), int64(0)
	for err == nil && wrote <= b.Limit {
		var n int
		n, err = f.Write(piece)
		wrote += int64(n)
	}
	if err == nil {
		err = f.Sync()
	}
	if !errors.Is(err, unix.ENOSPC) || wrote > b.Limit {
		t.Errorf("%d bytes went into a volume of %d, then %v; want ENOSPC", wrote, b.Limit, err)
	}
	if wrote < b.Limit/2 {
		t.Errorf("only %d bytes of %d could be used", wrote, b.Limit)
	}
	t.Logf("%d of %d bytes can be used", wrote, b.Limit)
}

func usage(t *testing.T, b Bed) {
	r := newRoom(t, b)
	before, err := r.p.Usage(t.Context(), r.v)
	r.must(err)
	r.write("file", strings.Repeat("x", 1<<20))
	f, err := os.Open(r.path + "/file")
	r.must(err)
	r.must(errors.Join(f.Sync(), f.Close())) // blocks are given late
	after, err := r.p.Usage(t.Context(), r.v)
	r.must(err)
	if grown := after.Bytes - before.Bytes; grown < 1<<20 || grown > 1<<20+64<<10 || *after.Files <= *before.Files {
		t.Errorf("usage went from %+v to %+v with a file of 1 MiB", before, after)
	}
}

func pinMakes(t *testing.T, b Bed) {
	r := newRoom(t, b)
	at, err := r.vs.Pin(r.v, volume.Opened{Path: r.path}, "a/b", "i1", 0)
	r.must(err)
	defer func() { r.must(r.vs.Unpin("i1")) }()
	r.must(os.WriteFile(at+"/file", []byte("below"), 0o644))
	r.want(r.path, "a/b/file", "below")
	if ids, err := r.vs.Pinned(); err != nil || len(ids) != 1 || ids[0] != "i1" {
		t.Errorf("pinned is %v, %v", ids, err)
	}
}

// pinFollowsNoLinks has a container plant links where directories are mounted from.
func pinFollowsNoLinks(t *testing.T, b Bed) {
	r := newRoom(t, b)
	outside := t.TempDir()
	r.must(os.Symlink(outside, r.path+"/absolute"))
	r.must(os.Symlink("../../../..", r.path+"/upward"))
	r.must(os.Symlink(".", r.path+"/inside"))
	r.must(os.WriteFile(r.path+"/file", nil, 0o644))
	for _, sub := range []string{"absolute", "absolute/new", "upward", "upward/etc", "inside", "inside/new", "file", "file/new"} {
		at, err := r.vs.Pin(r.v, volume.Opened{Path: r.path}, sub, "i1", 0)
		if kind := mayfly.KindOf(err); kind != mayfly.Denied && kind != mayfly.Invalid {
			t.Errorf("subpath %s is pinned at %q: %v", sub, at, err)
		}
	}
	r.must(r.vs.Unpin("i1"))
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("%v was made outside", left)
	}
	at, err := r.vs.Pin(r.v, volume.Opened{Path: r.path}, "../../x", "i1", 0) // as in a root of its own
	r.must(err)
	r.must(os.WriteFile(at+"/file", []byte("below"), 0o644))
	r.want(r.path, "x/file", "below")
	r.must(r.vs.Unpin("i1"))
}

// pinStays swaps what was pinned for a link.
func pinStays(t *testing.T, b Bed) {
	r := newRoom(t, b)
	at, err := r.vs.Pin(r.v, volume.Opened{Path: r.path}, "sub", "i1", 0)
	r.must(err)
	r.must(os.Rename(r.path+"/sub", r.path+"/moved"))
	r.must(os.Symlink("/", r.path+"/sub"))
	r.must(os.WriteFile(at+"/file", []byte("below"), 0o644))
	r.want(r.path, "moved/file", "below")
	r.must(r.vs.Unpin("i1"))
	r.want(r.path, "moved/file", "below")
}

func nothingMounted(t *testing.T, b Bed) {
	r := newRoom(t, b)
	_, err := r.vs.Pin(r.v, volume.Opened{Path: r.path}, "sub", "i1", 0)
	r.must(err)
	r.must(r.vs.Unpin("i1"))
	r.must(r.p.Close(t.Context(), r.v))
	r.must(r.p.Remove(t.Context(), r.v))
	text, err := os.ReadFile("/proc/self/mountinfo")
	r.must(err)
	if strings.Contains(string(text), r.data) {
		t.Errorf("something is still mounted below %s", r.data)
	}
}
