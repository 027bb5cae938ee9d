package vm_test

import (
	"testing"

	"github.com/mayfly-run/mayfly/e2e/vm"
)

// TestClockSet sets a machine's clock a day on and back while tasks of all kinds
// are pending.
func TestClockSet(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	vm.GoTest(t, "github.com/mayfly-run/mayfly/e2e", vm.Options{
		Programs: []string{"sh", "busybox"},
		Files:    map[string]string{build(t, "cmd/mayfly"): "/mayfly", build(t, "e2e/app"): "/app"},
		Env:      []string{"MAYFLY_BINARY=/mayfly", "MAYFLY_APP=/app", "MAYFLY_SET_CLOCK=1"},
		Memory:   2048,
		Disk:     512,
	}, "-test.run=TestClockSetInside")
}
