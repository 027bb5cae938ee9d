package material

import (
	"reflect"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// user is a workload that takes a secret and a config as variables, and as files at
// their usual places and elsewhere.
func user() mayfly.Workload {
	return mayfly.Workload{
		Space: "default", Name: "db",
		Secrets: []mayfly.SecretMount{{Secret: "password", Env: "PASSWORD"}, {Secret: "password"}, {Secret: "password", Target: "/etc/db/../password", Mode: 0o440}},
		Configs: []mayfly.ConfigMount{{Config: "motd", Env: "MOTD"}, {Config: "motd"}, {Config: "motd", Target: "/etc/motd"}},
	}
}

func resolve(t *testing.T, s *Store, w mayfly.Workload) *Values {
	t.Helper()
	v, err := s.Resolve(w.Space, w.Secrets, w.Configs)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhatIsNotSetIsMissing(t *testing.T) {
	s, w := openMaterial(t, t.TempDir()), user()
	lacks := func(what string) {
		t.Helper()
		if got := s.Missing(&w); got != "it needs "+what+", which was not set" {
			t.Errorf("missing is %q", got)
		}
		if _, err := s.Resolve(w.Space, w.Secrets, w.Configs); mayfly.KindOf(err) != mayfly.NotFound || !strings.Contains(err.Error(), what) {
			t.Errorf("resolve: %v", err)
		}
	}
	lacks("secret password")
	setSecret(t, s, "password", "hunter2")
	lacks("config motd")
	setConfig(t, s, "motd", "hello")
	if got := s.Missing(&w); got != "" {
		t.Errorf("missing is %q", got)
	}
}

func TestVariables(t *testing.T) {
	s, w := openMaterial(t, t.TempDir()), user()
	setSecret(t, s, "password", "hunter2")
	setConfig(t, s, "motd", "hello")
	v := resolve(t, s, w)
	if !reflect.DeepEqual(v.Private, []string{"PASSWORD=hunter2"}) || !reflect.DeepEqual(v.Env, map[string]string{"MOTD": "hello"}) {
		t.Errorf("%q and %q", v.Private, v.Env)
	}
	setSecret(t, s, "password", "zero \x00")
	if _, err := s.Resolve(w.Space, w.Secrets, w.Configs); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a zero byte: %v", err)
	}
	if _, err := s.Resolve(w.Space, w.Secrets[1:], nil); err != nil {
		t.Errorf("a zero byte in a file: %v", err)
	}
}

func TestValuesThatChangedAreOutdated(t *testing.T) {
	s, w := openMaterial(t, t.TempDir()), user()
	setSecret(t, s, "password", "hunter2")
	setConfig(t, s, "motd", "hello")
	v := resolve(t, s, w)
	setSecret(t, s, "password", "hunter2")
	setConfig(t, s, "other", "hello")
	if s.Outdated(v, &w) {
		t.Error("they are, though nothing changed")
	}
	setConfig(t, s, "motd", "hello again")
	if !s.Outdated(v, &w) {
		t.Error("they are not, though a config changed")
	}
	v = resolve(t, s, w)
	if err := s.RemoveSecret(t.Context(), "default", "password", false); err != nil {
		t.Fatal(err)
	}
	if s.Outdated(v, &w) {
		t.Error("they are, because a secret was removed")
	}
}

// What is mounted twice is one change: what it asks for is done once.
func TestAChangeIsListedOnce(t *testing.T) {
	s, w := openMaterial(t, t.TempDir()), user()
	setSecret(t, s, "password", "hunter2")
	setConfig(t, s, "motd", "hello")
	w.Configs = append(w.Configs, mayfly.ConfigMount{Config: "motd", Target: "/etc/motd"})
	if got := s.Changed("of which nothing is known", &w); !reflect.DeepEqual(got, []string{"secret password", "config motd"}) {
		t.Errorf("got %q", got)
	}
}
