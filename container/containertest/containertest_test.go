package containertest_test

import (
	"testing"

	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/container/containertest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func native(init, dir string) (container.Driver, error) {
	return container.NewNative(init, container.NativeOptions{})
}

func oci(runtime string) containertest.Maker {
	return func(init, dir string) (container.Driver, error) {
		return container.NewOCI(runtime, dir+"/runtime")
	}
}

func makers() map[string]containertest.Maker {
	return map[string]containertest.Maker{"native": native, "runc": oci("runc"), "crun": oci("crun")}
}

func TestDrivers(t *testing.T) {
	p := containertest.Build(t)
	for name, maker := range makers() {
		t.Run(name, func(t *testing.T) { containertest.Run(t, p, maker) })
	}
}

// TestNativeLooksLikeRunc is why the native driver may be the default.
func TestNativeLooksLikeRunc(t *testing.T) {
	for _, d := range containertest.Compare(t, containertest.Build(t), oci("runc"), native) {
		t.Errorf("%s: %s differs (-runc +native)\n%s", d.Config, d.Title, d.Diff)
	}
}

// TestCrunLooksLikeRunc only says what differs: it is theirs.
func TestCrunLooksLikeRunc(t *testing.T) {
	for _, d := range containertest.Compare(t, containertest.Build(t), oci("runc"), oci("crun")) {
		t.Logf("%s: %s differs (-runc +crun)\n%s", d.Config, d.Title, d.Diff)
	}
}

func TestNobodyEscapes(t *testing.T) {
	p := containertest.Build(t)
	for name, maker := range makers() {
		t.Run(name, func(t *testing.T) { containertest.Escape(t, p, maker) })
	}
}

func TestDaemonSurvivesAHostileInit(t *testing.T) {
	containertest.Hostile(t, containertest.Build(t), native)
}
