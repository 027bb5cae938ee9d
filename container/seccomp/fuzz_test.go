package seccomp

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzCompile reads profiles as they come in an OCI config: whatever they
// hold, there is an error or a program that the kernel accepts.
func FuzzCompile(f *testing.F) {
	for _, profile := range []*specs.LinuxSeccomp{Default(dockerCaps(), "amd64"), Default(nil, "arm64"), operatorProfile(), actionProfile(), {}} {
		text, err := json.Marshal(profile)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`null`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read",""],"action":"SCMP_ACT_KILL"}]}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4294967296,"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"op":"SCMP_CMP_MASKED_EQ"},{"index":1,"value":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var profile *specs.LinuxSeccomp
		if json.Unmarshal(text, &profile) != nil {
			return
		}
		for _, goarch := range []string{"amd64", "arm64"} {
			program, err := CompileFor(profile, goarch)
			if err == nil {
				newMachine(t, program)
			}
		}
	})
}

// TestLongPrograms has jumps beyond the reach of one instruction, up to the
// kernel's limit and past it.
func TestLongPrograms(t *testing.T) {
	for _, test := range []struct {
		rules int
		fits  bool
	}{{10, true}, {100, true}, {600, true}, {1100, false}} {
		profile := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		for i := range test.rules {
			errno := uint(i%100 + 1)
			profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{
				Names: []string{"read", "lseek", "mseal"}[i%3 : i%3+1], Action: specs.ActErrno, ErrnoRet: &errno,
				Args: []specs.LinuxSeccompArg{{Index: 2, Value: uint64(i)<<32 | 1, Op: specs.OpEqualTo}},
			})
		}
		program, err := CompileFor(profile, "amd64")
		if (err == nil) != test.fits {
			t.Fatalf("%d rules: %d instructions, %v", test.rules, len(program), err)
		}
		if err != nil {
			continue
		}
		m := newMachine(t, program)
		for i := range test.rules + 3 {
			for _, number := range []uint32{0, 8, 462, 463, 1} {
				for low := range uint64(2) {
					d := data{arch: specs.ArchX86_64, number: number, args: [6]uint64{2: uint64(i)<<32 | low}}
					if got, want := m.run(t, d), expect(profile, "amd64", d); got != want {
						t.Fatalf("%d rules, call %d, %x: answer %#x, want %#x", test.rules, number, d.args, got, want)
					}
				}
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	call := func(c specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{c}}
	}
	for name, profile := range map[string]*specs.LinuxSeccomp{
		"no profile":           nil,
		"no default action":    {},
		"unknown architecture": {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_VAX"}},
		"notify by default":    {DefaultAction: specs.ActNotify},
		"notify":               call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}),
		"unknown action":       call(specs.LinuxSyscall{Names: []string{"read"}, Action: "SCMP_ACT_MAYBE"}),
		"unknown operator":     call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_MAYBE"}}}),
		"seventh argument":     call(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		"empty name":           call(specs.LinuxSyscall{Names: []string{""}, Action: specs.ActTrap}),
	} {
		if program, err := CompileFor(profile, "amd64"); err == nil {
			t.Errorf("%s: %d instructions and no error", name, len(program))
		}
	}
	if _, err := CompileFor(call(specs.LinuxSyscall{}), "vax"); err == nil {
		t.Error("a machine that nobody knows: no error")
	}
	if _, err := Flags(&specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_MAYBE"}}); err == nil {
		t.Error("a flag that nobody knows: no error")
	}
}

// TestCompileIsPure holds that a profile always gives the same program.
func TestCompileIsPure(t *testing.T) {
	first, err := Compile(Default(dockerCaps(), "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, _ := Compile(Default(dockerCaps(), "amd64")); !slices.Equal(first, again) {
			t.Fatal("a different program for the same profile")
		}
	}
}
