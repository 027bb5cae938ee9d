// Probe makes system calls from inside a container and prints what came of
// each: "ok", an errno, or how the call ended the process. Each call runs in a
// forked child of its own. With -filter it first installs a program.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"github.com/mayfly-run/mayfly/container/seccomp"
	"golang.org/x/sys/unix"
)

// An attempt is one call; ABI is "amd64" (x32 by its mark) or "i386".
type attempt struct {
	ABI    string
	Number uint64
	Args   [6]uint64
}

func main() {
	log.SetFlags(0)
	filter := flag.String("filter", "", "file with a program and its flags")
	attempts := flag.String("attempts", "/attempts", "file with the calls")
	getpid := flag.Int("getpid", 0, "only time this many getpid calls")
	flag.Parse()
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	if *filter != "" {
		install(*filter)
	}
	if *getpid > 0 {
		start := time.Now()
		for range *getpid {
			unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
		}
		fmt.Println(time.Since(start).Nanoseconds())
		return
	}
	for _, signal := range []unix.Signal{unix.SIGALRM, unix.SIGSEGV, unix.SIGSYS, unix.SIGILL, unix.SIGBUS, unix.SIGTRAP} {
		var byDefault [4]uint64 // struct sigaction
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	status, _ := os.ReadFile("/proc/thread-self/status")
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Seccomp") || strings.HasPrefix(line, "Specul") || strings.HasPrefix(line, "NoNewPrivs") {
			fmt.Fprint(out, line)
		}
	}
	var list []attempt
	read(*attempts, &list)
	page, err := unix.Mmap(-1, 0, len(list)*int(unsafe.Sizeof(outcome{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		log.Fatal(err)
	}
	outcomes := unsafe.Slice((*outcome)(unsafe.Pointer(&page[0])), len(list))
	for i, a := range list {
		fmt.Fprintf(out, "%s %#x %x: %s\n", a.ABI, a.Number, a.Args, try(a, &outcomes[i]))
	}
}

func read(name string, into any) {
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func install(name string) {
	var filter struct {
		Program []unix.SockFilter
		Flags   uint
	}
	read(name, &filter)
	if err := seccomp.Install(filter.Program, filter.Flags); err != nil {
		log.Fatal(err)
	}
}

// outcome is shared with the child. Each attempt has its own, because a call
// that forks leaves a second writer behind.
type outcome struct{ done, value uint64 }

func try(a attempt, result *outcome) string {
	pid, errno := child(a, result)
	if errno != 0 {
		log.Fatal("fork: ", errno)
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
	case result.done == 0:
		return fmt.Sprint("exited with ", status.ExitStatus())
	case int64(result.value) < 0 && int64(result.value) > -4096:
		return fmt.Sprintf("errno %d", -int64(result.value))
	}
	return "ok"
}

// child forks; in the child nothing but system calls happens. An alarm ends
// a call that waits.
//
//go:norace
//go:noinline
func child(a attempt, result *outcome) (uintptr, unix.Errno) {
	alarm := [4]int64{0, 0, 0, 500_000} // struct itimerval: once, in 0.5 s
	i386 := a.ABI == "i386"
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	unix.RawSyscall(unix.SYS_SETITIMER, unix.ITIMER_REAL, uintptr(unsafe.Pointer(&alarm)), 0)
	if i386 {
		result.value = uint64(int64(int32(int80(uint32(a.Number), uint32(a.Args[0]), uint32(a.Args[1]), uint32(a.Args[2]), uint32(a.Args[3]), uint32(a.Args[4])))))
	} else {
		value, _, errno := unix.RawSyscall6(uintptr(a.Number), uintptr(a.Args[0]), uintptr(a.Args[1]), uintptr(a.Args[2]), uintptr(a.Args[3]), uintptr(a.Args[4]), uintptr(a.Args[5]))
		result.value = uint64(value)
		if errno != 0 {
			result.value = -uint64(errno)
		}
	}
	result.done = 1
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// int80 makes an i386 system call from a 64-bit process.
//
//go:noescape
func int80(number, a, b, c, d, e uint32) uint32
