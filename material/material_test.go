package material

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openMaterial opens a record and the secrets and configs of node "here", in dir.
func openMaterial(t *testing.T, dir string) *Store {
	t.Helper()
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	record, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(record.Close)
	s, err := Open(dir, record, "here")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func setSecret(t *testing.T, s *Store, name, value string) mayfly.Secret {
	t.Helper()
	set, err := s.SetSecret(t.Context(), "default", name, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func setConfig(t *testing.T, s *Store, name, value string) mayfly.Config {
	t.Helper()
	set, err := s.SetConfig(t.Context(), "default", name, []byte(value), -1)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// deploy has a workload be one that is wanted.
func deploy(t *testing.T, s *Store, w mayfly.Workload) {
	t.Helper()
	rel, err := s.record.PutRelease(t.Context(), w, "sha256:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.record.SetWorkload(t.Context(), w.Space, w.Name, rel.Number, 0); err != nil {
		t.Fatal(err)
	}
}

func TestSecretsAreSealed(t *testing.T) {
	s := openMaterial(t, t.TempDir())
	if _, err := s.SetSecret(t.Context(), "default", "password", nil); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("an empty secret: %v", err)
	}
	if set := setSecret(t, s, "password", "hunter2"); set.Version != 1 || set.Sealed != nil {
		t.Errorf("it was set as %+v", set)
	}
	first, _ := s.record.Secrets.Find("default", "password")
	if len(first.Value.Sealed) == 0 || bytes.Contains(first.Value.Sealed, []byte("hunter2")) {
		t.Errorf("on record is %q", first.Value.Sealed)
	}
	setSecret(t, s, "password", "hunter2")
	if again, _ := s.record.Secrets.Find("default", "password"); again.Revision != first.Revision {
		t.Error("the same value changed it")
	}
	if set := setSecret(t, s, "password", "hunter3"); set.Version != 2 {
		t.Errorf("another value is version %d", set.Version)
	}
	list, err := s.ListSecrets(t.Context(), "default")
	if err != nil || len(list) != 1 || list[0].Sealed != nil || list[0].Version != 2 {
		t.Errorf("list: %+v, %v", list, err)
	}
}

func TestConfigsHaveAHistory(t *testing.T) {
	s := openMaterial(t, t.TempDir())
	const versions = keepConfigs + 2
	for i := range versions {
		setConfig(t, s, "motd", fmt.Sprint("value ", i+1))
	}
	if same := setConfig(t, s, "motd", fmt.Sprint("value ", versions)); same.Version != versions {
		t.Errorf("the same value is version %d", same.Version)
	}
	if _, err := s.SetConfig(t.Context(), "default", "motd", []byte("x"), versions-1); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("after another version than it was seen: %v", err)
	}
	if _, err := s.SetConfig(t.Context(), "default", "large", make([]byte, maxConfig+1), -1); mayfly.KindOf(err) != mayfly.TooLarge {
		t.Errorf("too large: %v", err)
	}
	kept, err := s.ConfigHistory(t.Context(), "default", "motd")
	if err != nil || len(kept) != keepConfigs || kept[0].Version != versions || kept[0].Value != nil {
		t.Errorf("history: %+v, %v", kept, err)
	}
	for version, want := range map[int]string{0: "value 12", 12: "value 12", 3: "value 3"} {
		if c, err := s.GetConfig(t.Context(), "default", "motd", version); err != nil || string(c.Value) != want {
			t.Errorf("version %d is %q, %v", version, c.Value, err)
		}
	}
	for _, version := range []int{2, versions + 1} {
		if _, err := s.GetConfig(t.Context(), "default", "motd", version); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("version %d: %v", version, err)
		}
	}
	if err := s.RemoveConfig(t.Context(), "default", "motd", false); err != nil {
		t.Error(err)
	}
	if left := s.record.Versions.List("default"); len(left) > 0 {
		t.Errorf("%d versions of what was removed are kept", len(left))
	}
}

func TestWhatIsNamedIsNotRemoved(t *testing.T) {
	s := openMaterial(t, t.TempDir())
	setSecret(t, s, "password", "hunter2")
	setConfig(t, s, "motd", "hello")
	deploy(t, s, mayfly.Workload{
		Space: "default", Name: "db",
		Secrets: []mayfly.SecretMount{{Secret: "password"}}, Configs: []mayfly.ConfigMount{{Config: "motd"}},
	})
	for what, remove := range map[string]func(force bool) error{
		"secret password": func(force bool) error { return s.RemoveSecret(t.Context(), "default", "password", force) },
		"config motd":     func(force bool) error { return s.RemoveConfig(t.Context(), "default", "motd", force) },
	} {
		if err := remove(false); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), what+" is named by workload db") {
			t.Errorf("%s: %v", what, err)
		}
		if err := remove(true); err != nil {
			t.Errorf("%s by force: %v", what, err)
		}
		if err := remove(true); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("%s once more: %v", what, err)
		}
	}
}
