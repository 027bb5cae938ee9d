package main

import (
	"fmt"
	"math"
	"os/signal"
	"runtime"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// answer is shared with the child that makes a call.
type answer struct{ done, value uint64 }

// newest is the highest number of a system call that is tried.
const newest = 480

// calls makes every system call with arguments that do nothing, each in a
// process of its own, and says what the kernel or the filter answered.
func calls() (all []string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer signal.Reset()
	signal.Reset()
	size := newest * int(unsafe.Sizeof(answer{}))
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return []string{outcome(err)}
	}
	answers := unsafe.Slice((*answer)(unsafe.Pointer(&page[0])), newest)
	const minus1 = math.MaxUint64
	for n := range uint64(newest) {
		if runtime.GOARCH == "amd64" && (n == 58 || n == 162) || runtime.GOARCH == "arm64" && n == 81 {
			continue // vfork, which would share our stack; sync, which takes as long as the disk
		}
		all = append(all, fmt.Sprintf("%d: %s", n, try(n, [3]uint64{minus1, minus1, minus1}, &answers[n])))
	}
	return append(all, telling()...)
}

// telling makes calls whose arguments the filter looks at.
func telling() (all []string) {
	page, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return []string{outcome(err)}
	}
	answers := unsafe.Slice((*answer)(unsafe.Pointer(&page[0])), 1<<16/int(unsafe.Sizeof(answer{})))
	add := func(name string, n uint64, args [3]uint64) {
		all = append(all, fmt.Sprintf("%s %x: %s", name, args, try(n, args, &answers[len(all)])))
	}
	for _, f := range []uint64{0, unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWTIME} {
		add("unshare", unix.SYS_UNSHARE, [3]uint64{f})
		add("clone", unix.SYS_CLONE, [3]uint64{f | uint64(unix.SIGCHLD)})
	}
	for family := range uint64(48) {
		for _, kind := range []uint64{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW} {
			add("socket", unix.SYS_SOCKET, [3]uint64{family, kind})
		}
	}
	for _, persona := range []uint64{0, 8, 0x20000, 0x20008, 0x0040000, math.MaxUint32} {
		add("personality", unix.SYS_PERSONALITY, [3]uint64{persona})
	}
	return all
}

func try(n uint64, args [3]uint64, a *answer) string {
	pid, errno := child(n, args, a)
	if errno != 0 {
		return "fork: " + errno.Error()
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(int(pid), &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	switch {
	case status.Signaled():
		return "died of " + status.Signal().String()
	case a.done == 0:
		return fmt.Sprint("exited with ", status.ExitStatus())
	case int64(a.value) < 0 && int64(a.value) > -4096:
		return unix.Errno(-int64(a.value)).Error()
	}
	return "ok"
}

// child forks; in the child nothing but system calls happens. An alarm ends a
// call that waits.
//
//go:norace
//go:noinline
func child(n uint64, args [3]uint64, a *answer) (uintptr, unix.Errno) {
	alarm := [4]int64{0, 0, 0, 200_000} // struct itimerval: once, in 0.2 s
	var byDefault [4]uint64             // struct sigaction
	rest := uintptr(math.MaxUint64)
	if args[2] == 0 {
		rest = 0
	}
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	for sig := uintptr(1); sig < 32; sig++ {
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	}
	unix.RawSyscall(unix.SYS_SETITIMER, unix.ITIMER_REAL, uintptr(unsafe.Pointer(&alarm)), 0)
	value, _, errno := unix.RawSyscall6(uintptr(n), uintptr(args[0]), uintptr(args[1]), uintptr(args[2]), rest, rest, rest)
	a.value = uint64(value)
	if errno != 0 {
		a.value = -uint64(errno)
	}
	a.done = 1
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
