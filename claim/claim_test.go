package claim

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

// openVolumes opens a record and the volumes of node "here", in dir.
func openVolumes(t *testing.T, dir string, allowBind ...string) (vs *Volumes, end func()) {
	t.Helper()
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	vs, err = Open(dir, s, Options{Node: "here", AllowBind: allowBind})
	if err != nil {
		t.Fatal(err)
	}
	return vs, func() {
		s.Close()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func defineVolume(t *testing.T, vs *Volumes, v mayfly.Volume) {
	t.Helper()
	v.Space = "default"
	if _, err := vs.store.Volumes.Put(t.Context(), v.Space, v.Name, v, 0); err != nil {
		t.Fatal(err)
	}
}

func recoverVolumes(t *testing.T, vs *Volumes, alive ...string) {
	t.Helper()
	err := vs.Recover(t.Context(), func(id string) bool { return strings.Contains(strings.Join(alive, " "), id) })
	if err != nil {
		t.Fatal(err)
	}
}

func replica(id string, number int) mayfly.Instance {
	return mayfly.Instance{ID: id, Space: "default", Workload: "db", Replica: number}
}

var dataAt = []mayfly.VolumeMount{{Volume: "data", Target: "/data"}}

func TestOneWriterAtATime(t *testing.T) {
	vs, end := openVolumes(t, t.TempDir())
	defer end()
	recoverVolumes(t, vs)
	if _, err := vs.Claim(t.Context(), replica("i1", 1), dataAt); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("a volume that nobody defined: %v", err)
	}
	defineVolume(t, vs, mayfly.Volume{Name: "data"})
	mounts, err := vs.Claim(t.Context(), replica("i1", 1), dataAt)
	if err != nil || len(mounts) != 1 || mounts[0].Target != "/data" {
		t.Fatalf("claim: %v, %v", mounts, err)
	}
	if err := os.WriteFile(mounts[0].Source+"/file", []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = vs.Claim(t.Context(), replica("i2", 2), dataAt)
	if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "volume data is written by db/1") {
		t.Errorf("a second writer: %v", err)
	}
	beside := mayfly.Instance{ID: "s1", Space: "default", Workload: "db", Replica: 1, Sidecar: "backup", Beside: "i1"}
	if _, err := vs.Claim(t.Context(), beside, dataAt); err != nil {
		t.Errorf("the writer's sidecar: %v", err)
	}
	reader := []mayfly.VolumeMount{{Volume: "data", Target: "/data", ReadOnly: true}}
	if m, err := vs.Claim(t.Context(), replica("i3", 3), reader); err != nil || !m[0].ReadOnly {
		t.Errorf("a reader: %v, %v", m, err)
	}
	before, _ := vs.store.Volumes.Find("default", "data")
	releaseAll(t, vs, "i1")
	if _, err := vs.Claim(t.Context(), replica("i2", 2), dataAt); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a second writer while the first one's sidecar runs: %v", err)
	}
	releaseAll(t, vs, "s1")
	if _, err := vs.Claim(t.Context(), replica("i2", 2), dataAt); err != nil {
		t.Errorf("the next writer: %v", err)
	}
	after, _ := vs.store.Volumes.Find("default", "data")
	if after.Value.Fence != before.Value.Fence+1 || after.Value.Writer != "i2" || after.Value.WriterName != "db/2" {
		t.Errorf("fence %d, then %d; writer %s, %q", before.Value.Fence, after.Value.Fence, after.Value.Writer, after.Value.WriterName)
	}
	releaseAll(t, vs, "i2")
	releaseAll(t, vs, "i2") // once more is no error
}

func releaseAll(t *testing.T, vs *Volumes, id string) {
	t.Helper()
	if err := vs.Release(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func TestSharedVolumesHaveManyWriters(t *testing.T) {
	vs, end := openVolumes(t, t.TempDir())
	defer end()
	recoverVolumes(t, vs)
	defineVolume(t, vs, mayfly.Volume{Name: "data", Shared: true})
	for i, id := range []string{"i1", "i2"} {
		if _, err := vs.Claim(t.Context(), replica(id, i+1), dataAt); err != nil {
			t.Error(err)
		}
	}
}

// TestAllVolumesOrNone: a claim that fails leaves no other one behind.
func TestAllVolumesOrNone(t *testing.T) {
	vs, end := openVolumes(t, t.TempDir())
	defer end()
	recoverVolumes(t, vs)
	defineVolume(t, vs, mayfly.Volume{Name: "data"})
	two := append(dataAt[:1:1], mayfly.VolumeMount{Volume: "none", Target: "/none"})
	if _, err := vs.Claim(t.Context(), replica("i1", 1), two); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("claim: %v", err)
	}
	if _, err := vs.Claim(t.Context(), replica("i2", 2), dataAt); err != nil {
		t.Errorf("after a claim that failed: %v", err)
	}
}

// TestClaimsOverACrash: what lives goes on, the rest is released.
func TestClaimsOverACrash(t *testing.T) {
	dir := t.TempDir()
	vs, end := openVolumes(t, dir)
	recoverVolumes(t, vs)
	for _, name := range []string{"data", "other", "gone"} {
		defineVolume(t, vs, mayfly.Volume{Name: name, Purge: name == "gone"})
		m := []mayfly.VolumeMount{{Volume: name, Target: "/data", Subpath: "sub"}}
		if _, err := vs.Claim(t.Context(), replica("i-"+name, 1), m); err != nil {
			t.Fatal(err)
		}
	}
	end() // as a crash: nothing is released

	vs, end = openVolumes(t, dir)
	defer end()
	recoverVolumes(t, vs, "i-data")
	if _, err := vs.Claim(t.Context(), replica("i2", 2), dataAt); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "db/1") {
		t.Errorf("a second writer beside one that lives: %v", err)
	}
	other := []mayfly.VolumeMount{{Volume: "other", Target: "/data"}}
	if _, err := vs.Claim(t.Context(), replica("i2", 2), other); err != nil {
		t.Errorf("the next writer after one that ended: %v", err)
	}
	if _, found := vs.store.Volumes.Find("default", "gone"); found {
		t.Error("a volume that was to go with its last workload is there")
	}
	if _, err := os.Stat(dir + "/volumes/default/gone"); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
	releaseAll(t, vs, "i-data")
	releaseAll(t, vs, "i2")
	if left, _ := os.ReadDir(dir + "/volumes/.pins"); len(left) > 0 {
		t.Errorf("%v is still pinned", left)
	}
}

// TestRemovalAwaitsWhoLeaves: who deleted a workload is not told that it has to be
// stopped before its volume can be removed.
func TestRemovalAwaitsWhoLeaves(t *testing.T) {
	vs, end := openVolumes(t, t.TempDir())
	defer end()
	recoverVolumes(t, vs)
	defineVolume(t, vs, mayfly.Volume{Name: "data", Shared: true})
	for _, id := range []string{"i1", "i2"} {
		if _, err := vs.Claim(t.Context(), mayfly.Instance{ID: id, Space: "default", Workload: "deleted"}, dataAt); err != nil {
			t.Fatal(err)
		}
	}
	removed := make(chan error)
	go func() { removed <- vs.RemoveVolume(t.Context(), "default", "data", false) }()
	for _, id := range []string{"i1", "i2"} {
		select {
		case err := <-removed:
			t.Fatalf("it did not wait for %s: %v", id, err)
		case <-time.After(50 * time.Millisecond):
		}
		releaseAll(t, vs, id)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
}

// TestRemovalAwaitsWhoStops: nor is who scaled a service to none, from the moment of
// that on. A service that goes on is not waited for.
func TestRemovalAwaitsWhoStops(t *testing.T) {
	one, none := 1, 0
	for _, c := range []struct {
		name  string
		stop  bool
		scale *int
		waits bool
	}{
		{"nothing was asked for", false, nil, false},
		{"it is one of those that stay", false, &one, false},
		{"it was asked for none", false, &none, true},
		{"it is told to stop", true, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			vs, end := openVolumes(t, t.TempDir())
			defer end()
			recoverVolumes(t, vs)
			defineVolume(t, vs, mayfly.Volume{Name: "data"})
			workload := mayfly.Workload{Space: "default", Name: "db", Service: &mayfly.Service{}}
			in := replica(mayfly.NewID(), 1)
			in.Assigned = mayfly.NewID()
			a := mayfly.Assignment{ID: in.Assigned, Space: "default", Workload: "db", Replica: 1, Stop: c.stop}
			_, err1 := vs.store.PutRelease(t.Context(), workload, "")
			_, err2 := vs.store.SetWorkload(t.Context(), "default", "db", 1, 0)
			_, err3 := vs.store.PutInstance(t.Context(), in)
			_, err4 := vs.store.Assignments.Put(t.Context(), "default", a.ID, a, 0)
			_, err5 := vs.store.Wishes.Put(t.Context(), "default", "db", mayfly.Wish{Scale: c.scale}, 0)
			_, err6 := vs.Claim(t.Context(), in, dataAt)
			if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
				t.Fatal(err)
			}
			removed := make(chan error, 1)
			go func() { removed <- vs.RemoveVolume(t.Context(), "default", "data", true) }()
			if !c.waits {
				if err := <-removed; mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "used by db/1; stop that first") {
					t.Errorf("it is removed: %v", err)
				}
				return
			}
			select {
			case err := <-removed:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			releaseAll(t, vs, in.ID)
			if err := <-removed; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHalfRemoved: a removal that was decided ends at the next start.
func TestHalfRemoved(t *testing.T) {
	dir := t.TempDir()
	vs, end := openVolumes(t, dir)
	recoverVolumes(t, vs)
	defineVolume(t, vs, mayfly.Volume{Name: "data"})
	if _, err := vs.Claim(t.Context(), replica("i1", 1), dataAt); err != nil {
		t.Fatal(err)
	}
	releaseAll(t, vs, "i1")
	rec, _ := vs.store.Volumes.Find("default", "data")
	rec.Value.Leaving = true
	if _, err := vs.store.Volumes.Put(t.Context(), "default", "data", rec.Value, rec.Revision); err != nil {
		t.Fatal(err)
	}
	end()
	vs, end = openVolumes(t, dir)
	defer end()
	recoverVolumes(t, vs)
	if _, found := vs.store.Volumes.Find("default", "data"); found {
		t.Error("it is on record")
	}
	if _, err := os.Stat(dir + "/volumes/default/data"); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
}
