package volume_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/volume"
)

const (
	crashDir   = "MAYFLY_TEST_CRASH_DIR"
	crashFiles = 40
)

func crashVolume(kind string) mayfly.Volume {
	v := mayfly.Volume{Space: "default", Name: "data"}
	switch kind {
	case "image":
		v.Size = 16 << 20
	case "tmpfs":
		v.Provider = mayfly.VolumeTmpfs
	}
	return v
}

// TestCrashChild is no test: it changes a volume in every way until it is killed.
func TestCrashChild(t *testing.T) {
	dir, kind, _ := strings.Cut(os.Getenv(crashDir), "|")
	if dir == "" {
		t.Skip("run by TestCrash")
	}
	ctx := context.Background()
	vs := open(t, dir)
	v := crashVolume(kind)
	other := v
	other.Name = "other"
	s, err := vs.Snapshotter(v)
	check(t, err)
	p, err := vs.Provider(v)
	check(t, err)
	for i := 0; ; i++ {
		fmt.Println("round", i)
		check(t, s.Restore(ctx, v, []string{"even", "odd"}[i%2]))
		_, err := s.Snapshot(ctx, v, "now")
		check(t, err)
		check(t, s.Clone(ctx, v, "", other))
		check(t, p.Remove(ctx, other))
		check(t, p.Create(ctx, other))
		check(t, p.Remove(ctx, other))
		check(t, s.RemoveSnapshot(ctx, v, "now"))
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrash kills a process that changes a volume, at any moment: what the next
// one finds is whole, and nothing else is there.
func TestCrash(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, kind := range []string{"directory", "image", "tmpfs"} {
		t.Run(kind, func(t *testing.T) { crash(t, kind) })
	}
}

func crash(t *testing.T, kind string) {
	dir := t.TempDir()
	vs := open(t, dir)
	v := crashVolume(kind)
	p, err := vs.Provider(v)
	check(t, err)
	s, err := vs.Snapshotter(v)
	check(t, err)
	check(t, p.Create(t.Context(), v))
	t.Cleanup(func() {
		for _, name := range []string{"data", "other"} {
			v.Name = name
			check(t, p.Remove(context.Background(), v))
		}
	})
	for _, text := range []string{"even", "odd"} {
		o, err := p.Open(t.Context(), v)
		check(t, err)
		for i := range crashFiles {
			check(t, os.WriteFile(fmt.Sprintf("%s/file%d", o.Path, i), []byte(text), 0o644))
		}
		_, err = s.Snapshot(t.Context(), v, text)
		check(t, err)
	}
	const times = 15
	for range times {
		killChild(t, dir+"|"+kind)
		vs = open(t, dir)
		lookAfterCrash(t, dir, vs, v)
	}
}

// killChild starts the child and kills it some time after it has begun.
func killChild(t *testing.T, where string) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.v")
	child.Env = append(os.Environ(), crashDir+"="+where)
	out, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	lines := bufio.NewScanner(out)
	for begun := false; !begun && lines.Scan(); {
		begun = strings.HasPrefix(lines.Text(), "round")
	}
	moment := time.NewTimer(rand.N(60 * time.Millisecond)) // any: that is what is tried
	<-moment.C
	check(t, child.Process.Kill())
	for lines.Scan() {
		if strings.Contains(lines.Text(), "_test.go") {
			t.Errorf("the child says %s", lines.Text())
		}
	}
	child.Wait()
}

func lookAfterCrash(t *testing.T, dir string, vs *volume.Volumes, v mayfly.Volume) {
	t.Helper()
	p, err := vs.Provider(v)
	check(t, err)
	s, err := vs.Snapshotter(v)
	check(t, err)
	for _, at := range []string{dir + "/volumes/.tmp", dir + "/snapshots/.tmp"} {
		if left, _ := os.ReadDir(at); len(left) > 0 {
			t.Errorf("%v is left in %s", left, at)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	if strings.Contains(string(mounts), dir+"/volumes/.tmp") {
		t.Error("something is mounted in .tmp")
	}
	o, err := p.Open(t.Context(), v)
	check(t, err)
	whole(t, o.Path)
	list, err := s.Snapshots(v)
	check(t, err)
	for _, snap := range list {
		whole(t, filepath.Join(dir, "snapshots/default/data", snap.Name, "tree"))
	}
	other := v
	other.Name = "other"
	if _, err := os.Stat(dir + "/volumes/default/other"); err == nil {
		o, err := p.Open(t.Context(), other)
		check(t, err)
		if entries, _ := os.ReadDir(o.Path); len(entries) > 0 { // Create makes an empty one
			whole(t, o.Path)
		}
	}
	check(t, p.Remove(t.Context(), other))
	if len(list) == 3 {
		check(t, s.RemoveSnapshot(t.Context(), v, "now"))
	}
}

// whole looks that a copy has all files, and all of one time.
func whole(t *testing.T, dir string) {
	t.Helper()
	first := ""
	for i := range crashFiles {
		text, err := os.ReadFile(fmt.Sprintf("%s/file%d", dir, i))
		if i == 0 {
			first = string(text)
		}
		if err != nil || string(text) != first || first != "even" && first != "odd" {
			t.Fatalf("%s: file %d is %q (%v), the first one %q", dir, i, text, err, first)
		}
	}
}
