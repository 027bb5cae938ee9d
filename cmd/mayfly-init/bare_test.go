package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInitDoesWithoutTheRuntime follows the calls in the machine code from
// where init begins. What the compiler adds to Go code is allowed where it
// needs nothing that the runtime would have set up, or never happens.
func TestInitDoesWithoutTheRuntime(t *testing.T) {
	may := map[string]string{
		"runtime.memmove":                 "copies",
		"runtime.memclrNoHeapPointers":    "clears",
		"runtime.memequal":                "compares",
		"runtime.duffzero":                "clears",
		"runtime.duffcopy":                "copies",
		"runtime.morestack_noctxt":        "never happens: the bound is 0",
		"runtime.gcWriteBarrier1":         "never happens: there is no collection",
		"runtime.gcWriteBarrier2":         "never happens: there is no collection",
		"runtime.wbMove":                  "never happens: there is no collection",
		"runtime.wbZero":                  "never happens: there is no collection",
		"runtime.panicBounds":             "a defect, which ends init",
		"runtime.panicunsafeslicelen":     "a defect, which ends init",
		"runtime.panicunsafeslicenilptr":  "a defect, which ends init",
		"runtime.panicunsafestringlen":    "a defect, which ends init",
		"runtime.panicunsafestringnilptr": "a defect, which ends init",
	}
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			calls := machineCalls(t, arch)
			if len(calls["main.start"]) == 0 || len(calls["main.child"]) == 0 {
				t.Fatal("the code was not found")
			}
			if calls["main.init"] != nil {
				t.Error("a variable of init's is set when the program starts, which nobody does")
			}
			seen := map[string]bool{}
			var follow func(name, by string)
			follow = func(name, by string) {
				if seen[name] {
					return
				}
				seen[name] = true
				if plain := strings.TrimSuffix(name, ".abi0"); strings.HasPrefix(plain, "runtime.") {
					if may[plain] == "" {
						t.Errorf("%s calls %s", by, name)
					}
					return
				}
				for _, callee := range calls[name] {
					follow(callee, name)
				}
			}
			follow("main.start", "entry")
			follow("main.child", "fork")
			if !seen["syscall.RawSyscall6"] {
				t.Error("no system call was found, so the rest was not found either")
			}
		})
	}
}

// machineCalls builds init for a machine and returns which function has which
// others in its code.
func machineCalls(t *testing.T, arch string) map[string][]string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-ldflags", "-E main.entry", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	code, err := exec.Command("go", "tool", "objdump", binary).Output()
	if err != nil {
		t.Fatalf("objdump: %v", err)
	}
	calls := map[string][]string{}
	function := regexp.MustCompile(`^TEXT (\S+)\(SB\)`)
	jump := regexp.MustCompile(`\b(?:CALL|JMP|J[A-Z]+|BL?|BEQ|BNE)\s+(\S+)\(SB\)`)
	current := ""
	for line := range bytes.Lines(code) {
		if m := function.FindSubmatch(line); m != nil {
			current = string(m[1])
		} else if m := jump.FindSubmatch(line); m != nil {
			calls[current] = append(calls[current], string(m[1]))
		}
	}
	return calls
}
