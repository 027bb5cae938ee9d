package seccomp

import (
	"runtime"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func BenchmarkDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Default(dockerCaps(), runtime.GOARCH)
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	profile := Default(dockerCaps(), runtime.GOARCH)
	var program []unix.SockFilter
	for b.Loop() {
		program, _ = Compile(profile)
	}
	b.ReportMetric(float64(len(program)), "instructions")
}

// onThread runs f on a thread of its own that ends with it, and with it the
// filters that f installs.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		f()
	}()
	<-done
}

func confine(tb testing.TB, profile *specs.LinuxSeccomp) {
	program, err := Compile(profile)
	if err != nil {
		tb.Error(err)
		return
	}
	flags, err := Flags(profile)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err == nil {
		err = Install(program, flags)
	}
	if err != nil {
		tb.Error(err)
	}
}

func BenchmarkInstall(b *testing.B) {
	program, err := Compile(Default(dockerCaps(), runtime.GOARCH))
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		b.StopTimer()
		onThread(func() {
			unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
			b.StartTimer()
			err := Install(program, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
			b.StopTimer()
			if err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkCall times a call that is allowed whatever its arguments, one
// whose arguments are looked at, and one that is denied.
func BenchmarkCall(b *testing.B) {
	calls := map[string][2]uintptr{"getpid": {unix.SYS_GETPID, 0}, "socket": {unix.SYS_SOCKET, 37}, "mount": {unix.SYS_MOUNT, 0}}
	for name, call := range calls {
		for _, filtered := range []bool{false, true} {
			b.Run(map[bool]string{true: name + "/with filter", false: name + "/without"}[filtered], func(b *testing.B) {
				onThread(func() {
					if filtered {
						confine(b, Default(dockerCaps(), runtime.GOARCH))
					}
					for b.Loop() {
						unix.RawSyscall(call[0], call[1], 255, 0)
					}
				})
			})
		}
	}
}

// TestInstallIsOfOneThread holds that a filter stays on its thread and does
// there what it says.
func TestInstallIsOfOneThread(t *testing.T) {
	errno := uint(unix.EXDEV)
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"sched_get_priority_max"}, Action: specs.ActErrno, ErrnoRet: &errno}}}
	ask := func() unix.Errno {
		_, _, errno := unix.RawSyscall(unix.SYS_SCHED_GET_PRIORITY_MAX, 0, 0, 0)
		return errno
	}
	onThread(func() {
		confine(t, profile)
		if got := ask(); got != unix.EXDEV {
			t.Errorf("the confined thread is told %v, want %v", got, unix.EXDEV)
		}
	})
	onThread(func() {
		if got := ask(); got != 0 {
			t.Errorf("another thread is told %v", got)
		}
	})
	if err := Install(nil, 0); err == nil {
		t.Error("an empty program: no error")
	}
}
