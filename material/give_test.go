package material

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// openMemory opens what can be given: it is in memory until the test ends.
func openMemory(t *testing.T) *Store {
	t.Helper()
	s := openMaterial(t, t.TempDir())
	t.Cleanup(func() {
		if s.mounted() {
			unix.Unmount(s.dir, unix.MNT_DETACH)
		}
	})
	setSecret(t, s, "password", "hunter2")
	setConfig(t, s, "motd", "hello")
	return s
}

func TestFilesAreOfTheContainersUser(t *testing.T) {
	s := openMemory(t)
	mounts, own, err := s.Give("i1", resolve(t, s, user()), container.User{UID: 1000, GID: 1001})
	if err != nil {
		t.Fatal(err)
	}
	if len(own) != 1 || string(own["config/motd"]) != "hello" {
		t.Errorf("into /run/mayfly goes %q", own)
	}
	files := map[string]string{} // by where they are in the container
	for _, m := range mounts {
		if m.Type != "bind" || !m.ReadOnly {
			t.Errorf("it is mounted as %+v", m)
		}
		files[m.Target] = m.Source
	}
	files["/run/secrets"] += "/password"
	for at, want := range map[string]struct {
		value string
		mode  fs.FileMode
	}{"/run/secrets": {"hunter2", 0o400}, "/etc/password": {"hunter2", 0o440}, "/etc/motd": {"hello", 0o444}} {
		value, err := os.ReadFile(files[at])
		if err != nil || string(value) != want.value {
			t.Errorf("%s has %q, %v", at, value, err)
			continue
		}
		st, err := os.Stat(files[at])
		if err != nil {
			t.Fatal(err)
		}
		if owner := st.Sys().(*syscall.Stat_t); st.Mode() != want.mode || owner.Uid != 1000 || owner.Gid != 1001 {
			t.Errorf("%s has mode %v and is of %d:%d", at, st.Mode(), owner.Uid, owner.Gid)
		}
	}
	if len(mounts) != 3 {
		t.Errorf("mounts are %+v", mounts)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(files["/etc/password"], &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("the secret is on a disk: %v", err)
	}
}

func TestWhoNamesNothingIsGivenNothing(t *testing.T) {
	s := openMemory(t)
	mounts, own, err := s.Give("i1", resolve(t, s, mayfly.Workload{Space: "default"}), container.User{})
	if len(mounts)+len(own) > 0 || err != nil || s.mounted() {
		t.Errorf("%v, %q, %v, in memory: %t", mounts, own, err, s.mounted())
	}
}

func TestChangesAreToldUntilNoted(t *testing.T) {
	s, w := openMemory(t), user()
	if _, _, err := s.Give("i1", resolve(t, s, w), container.User{}); err != nil {
		t.Fatal(err)
	}
	changed := func(want ...string) {
		t.Helper()
		if got := slices.Compact(s.Changed("i1", &w)); !slices.Equal(got, want) {
			t.Errorf("changed is %q, not %q", got, want)
		}
	}
	changed()
	setConfig(t, s, "motd", "hello again")
	changed("config motd")
	setSecret(t, s, "password", "hunter3")
	changed("secret password", "config motd")
	if err := s.Note("i1", resolve(t, s, w)); err != nil {
		t.Fatal(err)
	}
	changed()
}

func TestWhatWasGivenIsTakenBack(t *testing.T) {
	s, w := openMemory(t), user()
	for _, id := range []string{"i1", "i2"} {
		if _, _, err := s.Give(id, resolve(t, s, w), container.User{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Recover(func(id string) bool { return id == "i2" }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir + "/i1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of an instance that ended: %v", err)
	}
	if err := s.Close(); err != nil || !s.mounted() {
		t.Errorf("it was closed under one that lives: %v", err)
	}
	if len(s.Changed("i2", &w)) > 0 {
		t.Error("it is not known what one that lives was given")
	}
	for range 2 { // once more is no error
		if err := s.Release("i2"); err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil || s.mounted() {
		t.Errorf("the memory was not given back: %v", err)
	}
}
