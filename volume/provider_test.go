package volume_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/volume"
)

func TestCheck(t *testing.T) {
	allowed, other := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.Mkdir(allowed+"/sub", 0o755), os.Symlink(other, allowed+"/out"), os.Symlink("sub", allowed+"/in"),
		os.WriteFile(allowed+"/file", nil, 0o644), os.Symlink(allowed, other+"/alias"),
	} {
		check(t, err)
	}
	vs, err := volume.Open(t.TempDir(), volume.Options{AllowBind: []string{other + "/alias"}})
	check(t, err)
	bind := func(source string) mayfly.Volume { return mayfly.Volume{Provider: "bind", Source: source} }
	for _, c := range []struct {
		name string
		v    mayfly.Volume
		want mayfly.Kind // none if empty
		text string
	}{
		{"nothing", mayfly.Volume{}, "", ""},
		{"all of it", mayfly.Volume{Owner: "1:2", Mode: 0o2770, Shared: true}, "", ""},
		{"an unknown provider", mayfly.Volume{Provider: "nfs"}, mayfly.Invalid, "use one of bind, local, tmpfs"},
		{"a negative size", mayfly.Volume{Size: -1}, mayfly.Invalid, "no size"},
		{"a small image", mayfly.Volume{Size: 4096}, mayfly.Invalid, "at least 1 MB"},
		{"a small tmpfs", mayfly.Volume{Provider: "tmpfs", Size: 1}, mayfly.Invalid, "at least 64 kB"},
		{"an owner by name", mayfly.Volume{Owner: "mysql"}, mayfly.Invalid, "UID:GID"},
		{"an owner below 0", mayfly.Volume{Owner: "-1:0"}, mayfly.Invalid, "UID:GID"},
		{"a mode", mayfly.Volume{Mode: 0o10000}, mayfly.Invalid, "octal"},
		{"a source of local", mayfly.Volume{Source: "/srv"}, mayfly.Invalid, "provider bind"},
		{"a source of tmpfs", mayfly.Volume{Provider: "tmpfs", Source: "/srv"}, mayfly.Invalid, "provider bind"},
		{"bind", bind(allowed + "/sub"), "", ""},
		{"bind by the path that was allowed", bind(other + "/alias/sub"), "", ""},
		{"bind of the whole", bind(allowed), "", ""},
		{"bind without a source", bind(""), mayfly.Invalid, "absolute"},
		{"bind of a relative path", bind("srv"), mayfly.Invalid, "absolute"},
		{"bind with a size", mayfly.Volume{Provider: "bind", Source: allowed, Size: 1 << 20}, mayfly.Invalid, "provider local"},
		{"bind of what is not there", bind(allowed + "/none"), mayfly.NotFound, "there is no"},
		{"bind of a file", bind(allowed + "/file"), mayfly.Invalid, "not a directory"},
		{"bind elsewhere", bind(other), mayfly.Denied, "--allow-bind " + other},
		{"bind above", bind(allowed + "/.."), mayfly.Denied, "--allow-bind"},
		{"bind out and in again", bind(allowed + "/../" + allowed[strings.LastIndex(allowed, "/")+1:]), "", ""},
		{"bind of a name that begins alike", bind(allowed + "2"), mayfly.Denied, "--allow-bind"},
		{"bind through a link that leads out", bind(allowed + "/out"), mayfly.Denied, "symbolic link"},
		{"bind through a link that stays", bind(allowed + "/in"), mayfly.Denied, "symbolic link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.v.Space, c.v.Name = "default", "data"
			err := vs.Check(c.v)
			if mayfly.KindOf(err) != c.want || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want kind %q with %q", err, c.want, c.text)
			}
		})
	}
}

func TestBindIsRefusedWhereNothingIsAllowed(t *testing.T) {
	vs, err := volume.Open(t.TempDir(), volume.Options{})
	check(t, err)
	err = vs.Check(mayfly.Volume{Name: "data", Provider: "bind", Source: "/srv/data"})
	if mayfly.KindOf(err) != mayfly.Denied || !strings.Contains(err.Error(), "mayfly up --allow-bind /srv/data") {
		t.Errorf("got %v", err)
	}
}

// TestBindLeavesTheHostAlone: neither a removal nor what a crash leaves touches
// what is somebody else's.
func TestBindLeavesTheHostAlone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	data, source := t.TempDir(), t.TempDir()
	check(t, os.WriteFile(source+"/file", []byte("theirs"), 0o644))
	vs := open(t, data)
	v := mayfly.Volume{Space: "default", Name: "data", Provider: mayfly.VolumeBind, Source: source}
	p, err := vs.Provider(v)
	check(t, err)
	check(t, p.Create(t.Context(), v))
	_, err = p.Open(t.Context(), v)
	check(t, err)
	check(t, os.Rename(data+"/volumes/default/data", data+"/volumes/.tmp/left")) // as if it were half removed
	open(t, data)
	if text, err := os.ReadFile(source + "/file"); string(text) != "theirs" {
		t.Errorf("the host's file is %q, %v", text, err)
	}
}

// TestTmpfsAfterReboot: a volume in memory is gone with it, and that is said.
func TestTmpfsAfterReboot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	data := t.TempDir()
	vs := open(t, data)
	v := mayfly.Volume{Space: "default", Name: "data", Provider: mayfly.VolumeTmpfs, Owner: "5:6"}
	p, err := vs.Provider(v)
	check(t, err)
	s, err := vs.Snapshotter(v)
	check(t, err)
	check(t, p.Create(t.Context(), v))
	o, err := p.Open(t.Context(), v)
	check(t, err)
	check(t, os.WriteFile(o.Path+"/file", []byte("there"), 0o644))
	_, err = s.Snapshot(t.Context(), v, "before")
	check(t, err)

	check(t, unix.Unmount(data+"/volumes/default/data/fs", 0)) // all that a reboot leaves of it
	open(t, data)
	if _, err := s.Snapshot(t.Context(), v, "after"); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "in memory") {
		t.Errorf("a snapshot of what is gone: %v", err)
	}
	o, err = p.Open(t.Context(), v)
	if err != nil || !o.Emptied {
		t.Fatalf("open: %+v, %v; want it emptied", o, err)
	}
	var st unix.Stat_t
	check(t, unix.Stat(o.Path, &st))
	if left, _ := os.ReadDir(o.Path); len(left) > 0 || st.Uid != 5 {
		t.Errorf("it holds %v, of user %d", left, st.Uid)
	}
	if o, err = p.Open(t.Context(), v); err != nil || o.Emptied {
		t.Errorf("once more: %+v, %v", o, err)
	}
	check(t, s.Restore(t.Context(), v, "before"))
	o, err = p.Open(t.Context(), v)
	check(t, err)
	if text, err := os.ReadFile(o.Path + "/file"); string(text) != "there" {
		t.Errorf("restored: %q, %v", text, err)
	}
	check(t, p.Remove(t.Context(), v))
}

// TestGoneIsSaid: a volume whose directory went is not made anew in silence.
func TestGoneIsSaid(t *testing.T) {
	data := t.TempDir()
	vs := open(t, data)
	v := mayfly.Volume{Space: "default", Name: "data"}
	p, err := vs.Provider(v)
	check(t, err)
	check(t, p.Create(t.Context(), v))
	check(t, os.RemoveAll(data+"/volumes/default/data"))
	if _, err := p.Open(t.Context(), v); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "not where it was") {
		t.Errorf("open: %v", err)
	}
}

// TestNoWritesWhileCopied: a volume that is written to all the time has no
// snapshot, rather than a torn one.
func TestNoWritesWhileCopied(t *testing.T) {
	data := t.TempDir()
	vs := open(t, data)
	v := mayfly.Volume{Space: "default", Name: "data"}
	p, err := vs.Provider(v)
	check(t, err)
	check(t, p.Create(t.Context(), v))
	o, err := p.Open(t.Context(), v)
	check(t, err)
	f, err := os.Create(o.Path + "/file")
	check(t, err)
	defer f.Close()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				f.WriteAt([]byte("x"), 0)
			}
		}
	}()
	s, err := vs.Snapshotter(v)
	check(t, err)
	_, err = s.Snapshot(t.Context(), v, "torn")
	close(stop)
	<-ended
	if mayfly.KindOf(err) != mayfly.Busy {
		t.Errorf("got %v, want it busy", err)
	}
	if list, _ := s.Snapshots(v); len(list) > 0 {
		t.Errorf("it has %v", list)
	}
}
