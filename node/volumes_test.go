package node

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

// volumeNode is a node with nothing but a record and volumes, in dir.
func volumeNode(t *testing.T, dir string, allowBind ...string) (n *Node, end func()) {
	t.Helper()
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Name: "here", AllowBind: allowBind}
	if err := defaults(&o); err != nil {
		t.Fatal(err)
	}
	vs, err := openVolumes(dir, s, &o)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := openMaterials(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	return &Node{dir: dir, opts: o, store: s, volumes: vs, materials: ms}, func() {
		s.Close()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func defineVolume(t *testing.T, n *Node, v mayfly.Volume) {
	t.Helper()
	v.Space = "default"
	if _, err := n.store.Volumes.Put(t.Context(), v.Space, v.Name, v, 0); err != nil {
		t.Fatal(err)
	}
}

func recoverVolumes(t *testing.T, n *Node, alive ...string) {
	t.Helper()
	err := n.volumes.recover(t.Context(), func(id string) bool { return strings.Contains(strings.Join(alive, " "), id) })
	if err != nil {
		t.Fatal(err)
	}
}

func replica(id string, number int) mayfly.Instance {
	return mayfly.Instance{ID: id, Space: "default", Workload: "db", Replica: number}
}

var dataAt = []mayfly.VolumeMount{{Volume: "data", Target: "/data"}}

func TestOneWriterAtATime(t *testing.T) {
	n, end := volumeNode(t, t.TempDir())
	defer end()
	recoverVolumes(t, n)
	if _, err := n.ClaimVolumes(t.Context(), replica("i1", 1), dataAt); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("a volume that nobody defined: %v", err)
	}
	defineVolume(t, n, mayfly.Volume{Name: "data"})
	mounts, err := n.ClaimVolumes(t.Context(), replica("i1", 1), dataAt)
	if err != nil || len(mounts) != 1 || mounts[0].Target != "/data" {
		t.Fatalf("claim: %v, %v", mounts, err)
	}
	if err := os.WriteFile(mounts[0].Source+"/file", []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = n.ClaimVolumes(t.Context(), replica("i2", 2), dataAt)
	if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "volume data is written by db/1") {
		t.Errorf("a second writer: %v", err)
	}
	beside := mayfly.Instance{ID: "s1", Space: "default", Workload: "db", Replica: 1, Sidecar: "backup", Beside: "i1"}
	if _, err := n.ClaimVolumes(t.Context(), beside, dataAt); err != nil {
		t.Errorf("the writer's sidecar: %v", err)
	}
	reader := []mayfly.VolumeMount{{Volume: "data", Target: "/data", ReadOnly: true}}
	if m, err := n.ClaimVolumes(t.Context(), replica("i3", 3), reader); err != nil || !m[0].ReadOnly {
		t.Errorf("a reader: %v, %v", m, err)
	}
	before, _ := n.store.Volumes.Find("default", "data")
	releaseAll(t, n, "i1")
	if _, err := n.ClaimVolumes(t.Context(), replica("i2", 2), dataAt); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a second writer while the first one's sidecar runs: %v", err)
	}
	releaseAll(t, n, "s1")
	if _, err := n.ClaimVolumes(t.Context(), replica("i2", 2), dataAt); err != nil {
		t.Errorf("the next writer: %v", err)
	}
	after, _ := n.store.Volumes.Find("default", "data")
	if after.Value.Fence != before.Value.Fence+1 || after.Value.Writer != "i2" {
		t.Errorf("fence %d, then %d; writer %s", before.Value.Fence, after.Value.Fence, after.Value.Writer)
	}
	releaseAll(t, n, "i2")
	releaseAll(t, n, "i2") // once more is no error
}

func releaseAll(t *testing.T, n *Node, id string) {
	t.Helper()
	if err := n.ReleaseVolumes(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func TestSharedVolumesHaveManyWriters(t *testing.T) {
	n, end := volumeNode(t, t.TempDir())
	defer end()
	recoverVolumes(t, n)
	defineVolume(t, n, mayfly.Volume{Name: "data", Shared: true})
	for i, id := range []string{"i1", "i2"} {
		if _, err := n.ClaimVolumes(t.Context(), replica(id, i+1), dataAt); err != nil {
			t.Error(err)
		}
	}
}

// TestAllVolumesOrNone: a claim that fails leaves no other one behind.
func TestAllVolumesOrNone(t *testing.T) {
	n, end := volumeNode(t, t.TempDir())
	defer end()
	recoverVolumes(t, n)
	defineVolume(t, n, mayfly.Volume{Name: "data"})
	two := append(dataAt[:1:1], mayfly.VolumeMount{Volume: "none", Target: "/none"})
	if _, err := n.ClaimVolumes(t.Context(), replica("i1", 1), two); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("claim: %v", err)
	}
	if _, err := n.ClaimVolumes(t.Context(), replica("i2", 2), dataAt); err != nil {
		t.Errorf("after a claim that failed: %v", err)
	}
}

// TestClaimsOverACrash: what lives goes on, the rest is released.
func TestClaimsOverACrash(t *testing.T) {
	dir := t.TempDir()
	n, end := volumeNode(t, dir)
	recoverVolumes(t, n)
	for _, name := range []string{"data", "other", "gone"} {
		defineVolume(t, n, mayfly.Volume{Name: name, Purge: name == "gone"})
		m := []mayfly.VolumeMount{{Volume: name, Target: "/data", Subpath: "sub"}}
		if _, err := n.ClaimVolumes(t.Context(), replica("i-"+name, 1), m); err != nil {
			t.Fatal(err)
		}
	}
	end() // as a crash: nothing is released

	n, end = volumeNode(t, dir)
	defer end()
	recoverVolumes(t, n, "i-data")
	if _, err := n.ClaimVolumes(t.Context(), replica("i2", 2), dataAt); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "db/1") {
		t.Errorf("a second writer beside one that lives: %v", err)
	}
	other := []mayfly.VolumeMount{{Volume: "other", Target: "/data"}}
	if _, err := n.ClaimVolumes(t.Context(), replica("i2", 2), other); err != nil {
		t.Errorf("the next writer after one that ended: %v", err)
	}
	if _, found := n.store.Volumes.Find("default", "gone"); found {
		t.Error("a volume that was to go with its last workload is there")
	}
	if _, err := os.Stat(dir + "/volumes/default/gone"); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
	releaseAll(t, n, "i-data")
	releaseAll(t, n, "i2")
	if left, _ := os.ReadDir(dir + "/volumes/.pins"); len(left) > 0 {
		t.Errorf("%v is still pinned", left)
	}
}

// TestRemovalAwaitsWhoLeaves: who deleted a workload is not told that it has to be
// stopped before its volume can be removed.
func TestRemovalAwaitsWhoLeaves(t *testing.T) {
	n, end := volumeNode(t, t.TempDir())
	defer end()
	recoverVolumes(t, n)
	defineVolume(t, n, mayfly.Volume{Name: "data", Shared: true})
	for _, id := range []string{"i1", "i2"} {
		if _, err := n.ClaimVolumes(t.Context(), mayfly.Instance{ID: id, Space: "default", Workload: "deleted"}, dataAt); err != nil {
			t.Fatal(err)
		}
	}
	removed := make(chan error)
	go func() { removed <- n.RemoveVolume(t.Context(), "default", "data", false) }()
	for _, id := range []string{"i1", "i2"} {
		select {
		case err := <-removed:
			t.Fatalf("it did not wait for %s: %v", id, err)
		case <-time.After(50 * time.Millisecond):
		}
		releaseAll(t, n, id)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
}

// Who is told of an instance's end can have its volumes.
func TestAnEndIsToldWhenItsVolumesAreFree(t *testing.T) {
	n, end := volumeNode(t, t.TempDir())
	defer end()
	recoverVolumes(t, n)
	defineVolume(t, n, mayfly.Volume{Name: "data"})
	rec := replica(mayfly.NewID(), 1)
	rev, err := n.store.PutInstance(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.ClaimVolumes(t.Context(), rec, dataAt); err != nil {
		t.Fatal(err)
	}
	in := newInstance(store.Instance{Instance: rec, Revision: rev})
	h := n.volumes.held(store.Key{Space: "default", Name: "data"})
	h.mu.Lock() // somebody looks at it just now
	recorded := make(chan error, 1)
	go func() { recorded <- n.recordEnd(t.Context(), in, mayfly.Exit{Reason: mayfly.Succeeded}) }()
	if _, err := n.store.Wait(t.Context(), func(s *store.Snapshot) bool { return s.Instances[rec.ID].State == mayfly.Exited }); err != nil {
		t.Error(err)
	}
	select {
	case <-in.recorded:
		t.Error("it was told before")
	case <-time.After(20 * time.Millisecond):
	}
	h.mu.Unlock()
	<-in.recorded
	if _, err := n.ClaimVolumes(t.Context(), replica("i2", 2), dataAt); err != nil {
		t.Error(err)
	}
	if err := <-recorded; err != nil {
		t.Error(err)
	}
}

// TestHalfRemoved: a removal that was decided ends at the next start.
func TestHalfRemoved(t *testing.T) {
	dir := t.TempDir()
	n, end := volumeNode(t, dir)
	recoverVolumes(t, n)
	defineVolume(t, n, mayfly.Volume{Name: "data"})
	if _, err := n.ClaimVolumes(t.Context(), replica("i1", 1), dataAt); err != nil {
		t.Fatal(err)
	}
	releaseAll(t, n, "i1")
	rec, _ := n.store.Volumes.Find("default", "data")
	rec.Value.Leaving = true
	if _, err := n.store.Volumes.Put(t.Context(), "default", "data", rec.Value, rec.Revision); err != nil {
		t.Fatal(err)
	}
	end()
	n, end = volumeNode(t, dir)
	defer end()
	recoverVolumes(t, n)
	if _, found := n.store.Volumes.Find("default", "data"); found {
		t.Error("it is on record")
	}
	if _, err := os.Stat(dir + "/volumes/default/data"); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
}
