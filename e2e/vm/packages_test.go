package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly/e2e/vm"
)

// TestPackagesUnderCgroup2 runs the tests of the packages that speak to the
// kernel once more, under the kernel and the cgroups that most users have.
func TestPackagesUnderCgroup2(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine for each package")
	}
	// What the tests of containers need of a host, their programs included: there
	// is no Go in the machine to build them with.
	containers := vm.Options{
		Programs: []string{"sh", "busybox", "runc", "crun"},
		Files:    map[string]string{build(t, "cmd/mayfly-init", "-E main.entry"): "/mayfly-init", build(t, "container/containertest/inside"): "/inside"},
		Env:      []string{"MAYFLY_INIT=/mayfly-init", "MAYFLY_INSIDE=/inside"},
		Memory:   2048,
		Disk:     512,
	}
	// Docker's rules are made with both kinds of iptables, whose extensions are
	// libraries of their own.
	networks := vm.Options{
		Programs: []string{"sh", "cat", "ls", "ip", "nft", "nsenter", "sysctl", "iptables-nft", "iptables-legacy"},
		Files:    map[string]string{"/usr/lib/x86_64-linux-gnu/xtables": "/usr/lib/x86_64-linux-gnu/xtables"},
		Modules:  []string{"iptable_filter", "iptable_nat", "xt_conntrack", "xt_addrtype", "xt_comment", "xt_MASQUERADE", "xt_nat", "xt_tcpudp"},
	}
	// The whole platform: make init has put init where cmd/mayfly embeds it.
	platform := vm.Options{
		Programs: []string{"sh", "busybox"},
		Files:    map[string]string{build(t, "cmd/mayfly"): "/mayfly", build(t, "e2e/app"): "/app"},
		Env:      []string{"MAYFLY_BINARY=/mayfly", "MAYFLY_APP=/app"},
		Memory:   2048,
		Disk:     1024,
	}
	cases := []struct {
		pkg     string
		options vm.Options
		args    []string
	}{
		{"cmd/mayfly", vm.Options{}, []string{"-test.run=Doctor|Trials|DataDir"}},
		// Making thousands of networks to look for leaks takes too long in emulation.
		{"network", networks, []string{"-test.skip=NothingIsLeftOver"}},
		// What a power cut leaves is the same under any cgroups.
		{"image", vm.Options{Disk: 512}, []string{"-test.skip=ImagesAreOnDisk"}},
		{"container/seccomp", vm.Options{}, []string{"-test.run=Install|KernelVersions"}},
		{"container/cgroup", vm.Options{Programs: []string{"sh", "busybox"}}, nil},
		{"container", containers, nil},
		{"e2e", platform, []string{"-test.run=Functions$|FunctionsRequireServices|ServicesFindEachOther|DaemonKilled|TestTasks$|TasksOutlive"}},
		{"container/containertest", containers, []string{"-test.run=(Drivers|Escapes)/^native$"}},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.pkg, "/", "-"), func(t *testing.T) {
			vm.GoTest(t, "github.com/mayfly-run/mayfly/"+c.pkg, c.options, c.args...)
		})
	}
}

func build(t *testing.T, pkg string, link ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", strings.Join(append(link, "-s -w"), " "), "-o", out, "github.com/mayfly-run/mayfly/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, said)
	}
	return out
}
