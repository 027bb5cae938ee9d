package seccomp

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// attempt is what testdata/probe reads.
type attempt struct {
	ABI    string
	Number uint64
	Args   [6]uint64
}

const minus1 = math.MaxUint64

// everyCall attempts all numbers to beyond the newest, on amd64, x32 and i386,
// with arguments that make no call do anything, and the calls with conditions
// with telling arguments. vfork is left out, whose child would run on the
// probe's stack, and sync, which takes as long as the disk.
func everyCall() []attempt {
	var list []attempt
	none := [6]uint64{minus1, minus1, minus1, minus1, minus1, minus1}
	for n := range uint64(1024) {
		if n != 58 && n != 162 { // vfork, sync
			list = append(list, attempt{"amd64", n, none}, attempt{"amd64", n | x32Mark, none})
		}
		if n != 190 && n != 36 { // vfork, sync
			list = append(list, attempt{"i386", n, none})
		}
	}
	for _, n := range []uint64{1 << 29, x32Mark - 1, 2*x32Mark - 1, 2 * x32Mark, 3 * x32Mark, math.MaxUint32 - 1} {
		list = append(list, attempt{"amd64", n, none}, attempt{"i386", n, none})
	}
	for _, flag := range []uint64{0, unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER,
		unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWUSER | 1<<40, 1 << 40, unix.CLONE_NEWTIME} {
		args := [6]uint64{flag | uint64(unix.SIGCHLD)}
		list = append(list, attempt{"amd64", unix.SYS_CLONE, args}, attempt{"amd64", unix.SYS_CLONE | x32Mark, args},
			attempt{"i386", 120, args}, attempt{"amd64", unix.SYS_UNSHARE, [6]uint64{flag}})
	}
	for family := range uint64(48) { // type 255: an allowed call fails with EINVAL
		for _, high := range []uint64{0, 1 << 32} {
			args := [6]uint64{family | high, 255}
			list = append(list, attempt{"amd64", unix.SYS_SOCKET, args}, attempt{"amd64", unix.SYS_SOCKET | x32Mark, args}, attempt{"i386", 359, args})
		}
		list = append(list, attempt{"i386", 102, [6]uint64{family, minus1}}, attempt{"i386", 117, [6]uint64{family, minus1, minus1, minus1, minus1}})
	}
	for _, persona := range []uint64{0, 1, 8, 9, 0x20000, 0x20008, 0x20009, math.MaxUint32, 1 << 32, 1<<32 | 8, minus1} {
		args := [6]uint64{persona}
		list = append(list, attempt{"amd64", unix.SYS_PERSONALITY, args}, attempt{"amd64", unix.SYS_PERSONALITY | x32Mark, args}, attempt{"i386", 136, args})
	}
	return list
}

// comparing attempts the calls on which the profile "operators" puts
// conditions, with arguments around its values.
func comparing() []attempt {
	var list []attempt
	const high = 1 << 32
	edges := []uint64{0, nobody - 1, nobody, nobody + 1, high, high | nobody - 1, high | nobody, high | nobody + 1, 2 * high, 2*high | nobody, math.MaxUint32, minus1}
	for _, name := range append(operatorCalls(), "getpriority", "setpriority", "getrusage", "ioprio_get", "mlock", "munlock") {
		for _, arch := range []specs.Arch{specs.ArchX86_64, specs.ArchX32, specs.ArchX86} {
			number, _ := Number(arch, name)
			for _, a := range edges {
				for _, b := range []uint64{0, 7, 8} {
					abi := map[bool]string{true: "i386", false: "amd64"}[arch == specs.ArchX86]
					list = append(list, attempt{abi, uint64(number), [6]uint64{a, b}})
				}
			}
		}
	}
	return list
}

// nobody is a process id beyond the largest that Linux gives out.
const nobody = 1<<28 | 5

func operatorCalls() []string {
	return []string{"getsid", "getpgid", "sched_getscheduler", "sched_getparam", "sched_get_priority_max", "sched_get_priority_min", "umask"}
}

// operatorProfile lets all through but where a condition holds; each rule
// answers with an errno of its own. One argument twice is tried for equality
// only: with >= and <= libseccomp 2.5.4 also denies a value that neither names.
func operatorProfile() *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: allArchs()}
	rule := func(name string, args ...specs.LinuxSeccompArg) {
		errno := uint(100 + len(p.Syscalls))
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &errno, Args: args})
	}
	const value = 1<<32 | nobody
	for i, op := range []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan} {
		rule(operatorCalls()[i], specs.LinuxSeccompArg{Index: 0, Value: value, Op: op})
	}
	rule("umask", specs.LinuxSeccompArg{Index: 0, Value: 1<<32 | 4 | 1<<28, ValueTwo: value, Op: specs.OpMaskedEqual})
	// two arguments; one argument twice; masks of one half; an order of rules
	rule("getpriority", specs.LinuxSeccompArg{Index: 0, Value: value, Op: specs.OpEqualTo}, specs.LinuxSeccompArg{Index: 1, Value: 7, Op: specs.OpGreaterThan})
	rule("setpriority", specs.LinuxSeccompArg{Index: 0, Value: value, Op: specs.OpEqualTo}, specs.LinuxSeccompArg{Index: 0, Value: nobody - 1, Op: specs.OpEqualTo})
	rule("getrusage", specs.LinuxSeccompArg{Index: 0, Value: 1 << 32, ValueTwo: 1 << 32, Op: specs.OpMaskedEqual})
	rule("ioprio_get", specs.LinuxSeccompArg{Index: 0, Value: math.MaxUint32, ValueTwo: nobody, Op: specs.OpMaskedEqual})
	rule("mlock", specs.LinuxSeccompArg{Index: 0, Value: nobody, Op: specs.OpEqualTo})
	rule("mlock")
	rule("munlock")
	rule("munlock", specs.LinuxSeccompArg{Index: 0, Value: nobody, Op: specs.OpEqualTo})
	return p
}

func allArchs() []specs.Arch {
	return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
}

// actionProfile gives each action to one call.
func actionProfile() *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: allArchs()}
	for i, action := range []specs.LinuxSeccompAction{specs.ActKill, specs.ActKillThread, specs.ActKillProcess, specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActLog} {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{operatorCalls()[i]}, Action: action})
	}
	return p
}

// oldEnough leaves out the names that runc's library may not know yet
// (libseccomp 2.5.4 stops at Linux 5.17), and makes denials tell themselves
// from the kernel's own errors.
func oldEnough(p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(p.Syscalls[i].Names, func(name string) bool {
			number, ok := Number(specs.ArchAARCH64, name) // one numbering for all since 424
			return name == "uretprobe" || name == "map_shadow_stack" || ok && number > 450
		})
	}
	denied := uint(77)
	p.DefaultErrnoRet = &denied
	return p
}

// TestSameAsRunc installs each profile once by runc and once by Install, in
// containers that are otherwise the same, and lets the probe try every call.
func TestSameAsRunc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the probe's i386 and x32 calls need an amd64 machine")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc")
	}
	o := newOracle(t, runc)
	nativeOnly := oldEnough(Default(dockerCaps(), "amd64"))
	nativeOnly.Architectures = []specs.Arch{specs.ArchX86_64}
	noX32 := oldEnough(Default(dockerCaps(), "amd64"))
	noX32.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86}
	admin := append(dockerCaps(), "CAP_SYS_ADMIN", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYSLOG", "CAP_BPF", "CAP_SYS_TIME")
	for _, test := range []struct {
		name     string
		profile  *specs.LinuxSeccomp
		attempts []attempt
	}{
		{"docker", oldEnough(Default(dockerCaps(), "amd64")), everyCall()},
		{"more capabilities", oldEnough(Default(admin, "amd64")), everyCall()},
		{"amd64 only", nativeOnly, everyCall()},
		{"no x32", noX32, everyCall()},
		{"operators", operatorProfile(), comparing()},
		{"actions", actionProfile(), comparing()},
	} {
		t.Run(test.name, func(t *testing.T) {
			theirs, ours := o.compare(t, test.profile, test.attempts)
			if len(theirs) != len(ours) || len(ours) < len(test.attempts) {
				t.Fatalf("runc's probe said %d lines, ours %d, of %d calls", len(theirs), len(ours), len(test.attempts))
			}
			different := 0
			for i := range theirs {
				if allowed(theirs[i]) != allowed(ours[i]) {
					if different++; different <= 20 {
						t.Errorf("runc: %s\nours: %s", theirs[i], ours[i])
					}
				}
			}
			t.Logf("%d lines compared, %d different", len(ours), different)
		})
	}
}

// oracle is a bundle whose only program is the probe.
type oracle struct{ runc, dir string }

func newOracle(t testing.TB, runc string) oracle {
	o := oracle{runc, t.TempDir()}
	rootfs := filepath.Join(o.dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(rootfs, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(rootfs, "probe"), "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build probe: %v\n%s", err, out)
	}
	return o
}

func (o oracle) compare(t *testing.T, profile *specs.LinuxSeccomp, attempts []attempt) (theirs, ours []string) {
	o.write(t, "attempts", attempts)
	theirs = strings.Split(o.run(t, profile, "/probe"), "\n")
	program, err := Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := Flags(profile)
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, "filter", map[string]any{"Program": program, "Flags": flags})
	return theirs, strings.Split(o.run(t, nil, "/probe", "-filter", "/filter"), "\n")
}

func (o oracle) write(t testing.TB, name string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err == nil {
		err = os.WriteFile(filepath.Join(o.dir, "rootfs", name), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run runs the probe in a container and returns what it printed.
func (o oracle) run(t testing.TB, profile *specs.LinuxSeccomp, argv ...string) string {
	t.Helper()
	id := "mayfly-seccomp-" + strconv.Itoa(os.Getpid())
	caps := dockerCaps()
	spec := specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs"}, Hostname: "probe",
		Process: &specs.Process{Args: argv, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{Seccomp: profile, CgroupsPath: "/" + id, Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}},
	}
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(o.dir, "config.json"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(o.runc, "--root", filepath.Join(o.dir, "state"), "run", "--bundle", o.dir, id)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, &stderr)
	}
	return strings.TrimSpace(stdout.String())
}

// allowed makes one of the two answers that getpriority and setpriority give
// when the filter lets them through: whether there is a process 7 at this moment
// is chance.
func allowed(line string) string {
	call, noProcess := strings.CutSuffix(line, ": errno 3")
	for _, priority := range []string{"amd64 0x8c ", "amd64 0x8d ", "i386 0x60 ", "i386 0x61 "} {
		if noProcess && strings.HasPrefix(call, priority) {
			return call + ": ok"
		}
	}
	return line
}
