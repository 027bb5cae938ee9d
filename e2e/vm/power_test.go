package vm_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly/e2e/vm"
)

// powerCuts is how often TestPowerCut cuts the power.
const powerCuts = 3

// TestPowerCut cuts a machine's power while tasks are submitted and run, boots
// it again from the same disk, and so on. Whatever was acknowledged is there and
// ends, and what had ended stays as it was.
func TestPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine several times")
	}
	temp := t.TempDir()
	disk, said, test := filepath.Join(temp, "disk"), filepath.Join(temp, "said"), filepath.Join(temp, "test")
	compile := exec.Command("go", "test", "-c", "-o", test, "github.com/mayfly-run/mayfly/e2e")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := vm.MakeDisk(t.Context(), disk, 512); err != nil {
		t.Fatal(err)
	}
	o := vm.Options{
		Programs: []string{"sh", "busybox"},
		Files:    map[string]string{build(t, "cmd/mayfly"): "/mayfly", build(t, "e2e/app"): "/app", test: "/test", said: "/said"},
		Env:      []string{"MAYFLY_BINARY=/mayfly", "MAYFLY_APP=/app", "MAYFLY_POWER_DIR=/data/node", "MAYFLY_POWER_SAID=/said"},
		Command:  []string{"/test", "-test.run=TestPowerCutInside", "-test.v"},
		Image:    disk,
		Memory:   2048,
	}
	var all []byte // lines that were said on all boots
	for boot, stuck := 0, 0; boot <= powerCuts; boot++ {
		if err := os.WriteFile(said, all, 0o600); err != nil {
			t.Fatal(err)
		}
		acks := 80 + rand.IntN(200)
		o.CutPower = func(out []byte) bool {
			return bytes.Contains(out, []byte("FAIL")) || bytes.Contains(out, []byte("checked")) && bytes.Count(out, []byte("ack ")) >= acks
		}
		if boot == powerCuts {
			o.Env = append(o.Env, "MAYFLY_POWER_LAST=1")
		}
		dir := filepath.Join(temp, fmt.Sprint(boot+stuck))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		r, err := vm.Boot(t.Context(), dir, o)
		if err != nil && (!errors.Is(err, vm.ErrStuck) || stuck == 2) {
			t.Fatal(err)
		}
		lines := spoken.FindAllString(strings.ReplaceAll(r.Output, "\r", ""), -1)
		if err != nil { // another cut of the power, at a moment of nobody's choice
			t.Logf("boot %d: %v", boot, vm.ErrStuck)
			all = append(all, strings.Join(lines, "")...)
			stuck++
			boot--
			continue
		}
		t.Logf("boot %d: %d lines, cut after %d acknowledgements", boot, len(lines), strings.Count(r.Output, "ack "))
		if !r.Cut != (boot == powerCuts) || !strings.Contains(r.Output, "checked") || strings.Contains(r.Output, "FAIL") || boot == powerCuts && !strings.Contains(r.Output, "over") {
			t.Fatalf("boot %d: cut %v, exit %d\n%s", boot, r.Cut, r.Exit, spoken.ReplaceAllString(r.Output, ""))
		}
		all = append(all, strings.Join(lines, "")...)
	}
}

// spoken is a whole line about a task. The last may have been cut short.
var spoken = regexp.MustCompile(`(?m)^(ack|end) .*\n`)
