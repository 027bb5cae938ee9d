package claim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// layers are two layers of an image: the upper one replaces a file and hides
// another.
func layers(t *testing.T) []string {
	t.Helper()
	upper, lower := t.TempDir(), t.TempDir()
	for _, dir := range []string{upper, lower} {
		if err := os.MkdirAll(dir+"/var/lib/db", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		lower + "/var/lib/db/base": "base", lower + "/var/lib/db/same": "old", lower + "/var/lib/db/hidden": "hidden", upper + "/var/lib/db/same": "new",
	} {
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 999, 998); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mknod(upper+"/var/lib/db/hidden", syscall.S_IFCHR, 0); err != nil { // a whiteout
		t.Fatal(err)
	}
	if err := os.Chown(upper+"/var/lib/db", 999, 998); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(upper+"/var/lib/db", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("lib", upper+"/var/data"); err != nil {
		t.Fatal(err)
	}
	return []string{upper, lower}
}

// listed is a directory and what is in it: names, modes, owners and texts.
func listed(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		text, _ := os.ReadFile(path) // of a directory, none
		st := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(dir, path)
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %d %d %s", name, info.Mode(), st.Uid, st.Gid, text)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

func TestAnEmptyVolumeGetsWhatTheImageHas(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const filled = ". drwxr-x--- 999 998\nbase -rw-r----- 999 998 base\nsame -rw-r----- 999 998 new"
	for name, c := range map[string]struct {
		mount  mayfly.VolumeMount
		volume mayfly.Volume
		before []string // files in it, each with its name as its text
		want   string
	}{
		"empty":           {mount: mayfly.VolumeMount{Target: "/var/lib/db", Copy: true}, want: filled},
		"by a link":       {mount: mayfly.VolumeMount{Target: "/var/data/db", Copy: true}, want: filled},
		"its own owner":   {mount: mayfly.VolumeMount{Target: "/var/lib/db", Copy: true}, volume: mayfly.Volume{Owner: "7:7", Mode: 0o700}, want: strings.Replace(filled, "drwxr-x--- 999 998", "drwx------ 7 7", 1)},
		"not asked for":   {mount: mayfly.VolumeMount{Target: "/var/lib/db"}, want: ". drwxr-xr-x 0 0"},
		"read-only":       {mount: mayfly.VolumeMount{Target: "/var/lib/db", Copy: true, ReadOnly: true}, want: ". drwxr-xr-x 0 0"},
		"nothing there":   {mount: mayfly.VolumeMount{Target: "/srv", Copy: true}, want: ". drwxr-xr-x 0 0"},
		"a file there":    {mount: mayfly.VolumeMount{Target: "/var/lib/db/base", Copy: true}, want: ". drwxr-xr-x 0 0"},
		"something in it": {mount: mayfly.VolumeMount{Target: "/var/lib/db", Copy: true}, before: []string{"mine"}, want: ". drwxr-xr-x 0 0\nmine -rw-r--r-- 0 0 mine"},
		"a daemon was killed while it copied": {
			mount: mayfly.VolumeMount{Target: "/var/lib/db", Copy: true}, before: []string{".mayfly-filling/part"}, want: filled,
		},
		"and another wrote to it since": {
			mount: mayfly.VolumeMount{Target: "/var/lib/db", Copy: true}, before: []string{".mayfly-filling/part", "mine"},
			want: ". drwxr-xr-x 0 0\nmine -rw-r--r-- 0 0 mine",
		},
		"a daemon was killed while it moved up": {
			mount: mayfly.VolumeMount{Target: "/var/lib/db", Copy: true}, before: []string{".mayfly-filled/base", ".mayfly-filled/same", "same"},
			want: ". drwxr-x--- 999 998\nbase -rw-r--r-- 0 0 .mayfly-filled/base\nsame -rw-r--r-- 0 0 same",
		},
		"and the image is another one": {
			mount: mayfly.VolumeMount{Target: "/srv", Copy: true}, before: []string{".mayfly-filled/base"},
			want: ". drwxr-xr-x 0 0\nbase -rw-r--r-- 0 0 .mayfly-filled/base",
		},
	} {
		t.Run(name, func(t *testing.T) {
			vs, end := openVolumes(t, t.TempDir())
			defer end()
			recoverVolumes(t, vs)
			c.volume.Name, c.mount.Volume = "data", "data"
			defineVolume(t, vs, c.volume)
			in := replica("i1", 1)
			volumes := []mayfly.VolumeMount{c.mount}
			mounts, err := vs.Claim(t.Context(), in, volumes)
			if err != nil {
				t.Fatal(err)
			}
			defer releaseAll(t, vs, "i1")
			for _, name := range c.before {
				path := filepath.Join(mounts[0].Source, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time it is not empty
				if err := vs.Fill(t.Context(), in, volumes, mounts, layers(t)); err != nil {
					t.Fatal(err)
				}
			}
			if got := listed(t, mounts[0].Source); got != c.want {
				t.Errorf("there is\n%s\nand should be\n%s", got, c.want)
			}
			if left, _ := os.ReadDir(vs.fills.dir); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// While a volume is filled, whoever else wants it waits for that, and nobody else.
func TestOnlyItsUsersWaitForAVolumeThatIsFilled(t *testing.T) {
	vs, end := openVolumes(t, t.TempDir())
	defer end()
	recoverVolumes(t, vs)
	for _, name := range []string{"slow", "other"} {
		defineVolume(t, vs, mayfly.Volume{Name: name, Shared: true})
	}
	claim := func(ctx context.Context, instance, volume string) error {
		_, err := vs.Claim(ctx, replica(instance, int(instance[1]-'0')), []mayfly.VolumeMount{{Volume: volume, Target: "/data"}})
		return err
	}
	if err := claim(t.Context(), "i1", "slow"); err != nil {
		t.Fatal(err)
	}
	filled, err := vs.held(store.Key{Space: "default", Name: "slow"}).beginFill(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := claim(t.Context(), "i2", "other"); err != nil {
		t.Errorf("another volume: %v", err)
	}
	if d, err := vs.GetVolume(t.Context(), "default", "slow"); err != nil || len(d.Users) != 1 {
		t.Errorf("it is shown as %+v, %v", d, err)
	}
	if _, err := vs.SnapshotVolume(t.Context(), "default", "slow", "s"); mayfly.KindOf(err) != mayfly.Busy {
		t.Errorf("a snapshot of it: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := claim(gone, "i3", "slow"); !errors.Is(err, context.Canceled) {
		t.Errorf("who goes away: %v", err)
	}
	claimed := make(chan error, 1)
	go func() { claimed <- claim(t.Context(), "i4", "slow") }()
	for len(vs.users(store.Key{Space: "default", Name: "slow"})) < 2 { // it has come so far
		runtime.Gosched()
	}
	select {
	case err := <-claimed:
		t.Errorf("it was claimed meanwhile: %v", err)
	default:
	}
	filled()
	if err := <-claimed; err != nil {
		t.Error(err)
	}
	for _, id := range []string{"i1", "i2", "i4"} {
		releaseAll(t, vs, id)
	}
}
