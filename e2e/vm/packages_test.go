package vm_test

import (
	"testing"

	"github.com/mayfly-run/mayfly/e2e/vm"
)

// TestPackagesUnderCgroup2 runs the tests of the packages that speak to the
// kernel once more, under the kernel and the cgroups that most users have.
func TestPackagesUnderCgroup2(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine for each package")
	}
	cases := []struct {
		pkg     string
		options vm.Options
		args    []string
	}{
		{"cmd/mayfly", vm.Options{}, []string{"-test.run=Doctor|Trials|DataDir"}},
		{"network", vm.Options{Programs: []string{"sh", "ip", "nft", "nsenter"}}, nil},
		{"image", vm.Options{Disk: 512}, nil},
		{"container/seccomp", vm.Options{}, nil},
	}
	for _, c := range cases {
		t.Run(c.pkg, func(t *testing.T) {
			vm.GoTest(t, "github.com/mayfly-run/mayfly/"+c.pkg, c.options, c.args...)
		})
	}
}
