package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func TestImageOf(t *testing.T) {
	base := mayfly.StackSpec{Packages: []string{"hello"}, Env: map[string]string{"A": "1", "B": "2"}}
	name := ImageOf("greeter", &base)
	if !strings.HasPrefix(name, "stack/greeter-") || ImageOf("greeter", nil) != "stack/greeter" {
		t.Errorf("got %s", name)
	}
	text := base
	text.Description = "says hello"
	if ImageOf("greeter", &text) != name {
		t.Error("what is for people only made another stack")
	}
	for what, other := range map[string]mayfly.StackSpec{
		"packages": {Packages: []string{"hello", "sl"}, Env: base.Env}, "env": {Packages: base.Packages},
		"variant": {Packages: base.Packages, Env: base.Env, Variant: "minbase"},
	} {
		if ImageOf("greeter", &other) == name {
			t.Errorf("%s: the same image for different stacks", what)
		}
	}
}

// A stack that a workload describes is built once for its content, and a daemon
// of its packages is not started.
func TestEnsureOf(t *testing.T) {
	store := openStore(t)
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap: apt-get install mmdebstrap")
	}
	stacks := NewStacks(store, Options{TempDir: t.TempDir()})
	base := &mayfly.StackSpec{Description: "a daemon", Packages: []string{"cron"}, Env: map[string]string{"WHO": "me"}}
	var said strings.Builder
	img, err := stacks.EnsureOf(t.Context(), "own", base, &said)
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	built := said.Len()
	same := *base
	same.Description = "told otherwise"
	again, err := stacks.EnsureOf(t.Context(), "own", &same, &said)
	if err != nil || again.Digest != img.Digest || said.Len() != built {
		t.Errorf("built again: %v, %s", err, said.String()[built:])
	}
	if img.Name != ImageOf("own", base)+":latest" || !strings.Contains(strings.Join(img.Config.Config.Env, " "), "WHO=me") {
		t.Errorf("the image %s has the environment %q", img.Name, img.Config.Config.Env)
	}
	stack, err := stacks.ShowOf(t.Context(), "own", base)
	if err != nil || stack.Image != img.Digest || stack.Description.Description != "a daemon" {
		t.Errorf("ShowOf: %+v, %v", stack, err)
	}
	layers := lowers(t, store, img)
	root := layers[len(layers)-1]
	if _, err := os.Stat(filepath.Join(root, "usr/sbin/cron")); err != nil {
		t.Error(err)
	}
	for _, trace := range []string{"run/crond.pid", "var/run/crond.pid", "usr/sbin/policy-rc.d"} {
		if _, err := os.Lstat(filepath.Join(root, trace)); err == nil {
			t.Errorf("%s: a daemon was started, or what forbids it is in the image", trace)
		}
	}
	_, err = stacks.EnsureOf(t.Context(), "own", &mayfly.StackSpec{Packages: []string{"no-such-package-as-this"}}, &said)
	want := "building stack own: mmdebstrap: Unable to locate package no-such-package-as-this"
	if err == nil || err.Error() != want || mayfly.KindOf(err) != mayfly.Failed {
		t.Errorf("a package that is none: %v", err)
	}
}

// What came of it is one line, whatever a maintainer's script did.
func TestBuildReason(t *testing.T) {
	tests := []struct{ said, want string }{
		{"I: begin\nE: Unable to locate package x\nE: run_progress failed: 100\n", "Unable to locate package x"},
		{"Setting up x (1) ...\ndpkg: error processing package x (--configure):\n installed x package post-installation script subprocess returned error exit status 1\nErrors were encountered while processing:\n x\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n",
			"dpkg: error processing package x (--configure): installed x package post-installation script subprocess returned error exit status 1"},
		{"nothing special\n", "nothing special"},
		{"", "exit status 1"},
	}
	for _, tt := range tests {
		w := lineWriter{to: &strings.Builder{}}
		w.Write([]byte(tt.said))
		if got := w.reason(errExit{}); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.said, got, tt.want)
		}
	}
}

type errExit struct{}

func (errExit) Error() string { return "exit status 1" }
