// Mayfly-init is the first process of every container. It waits on a socket
// for the daemon to say what to run, starts it, passes signals on, reaps
// orphans, copies what the programs write to the log, and records how each of
// them ended. It is confined as the container's programs are, so starting one
// is a plain fork and exec, and it goes on when the daemon is away: package
// container/wire has the protocol.
//
// It links as little as it can, for it stands in every waiting sandbox.
//
// As for the directives: Go would read the cgroup's processor limit for its
// number of threads, which is one in any case, and keep two files open for it.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/mayfly-run/mayfly/container/setup"
	"github.com/mayfly-run/mayfly/container/wire"
)

func main() {
	if os.Args[0] == setup.Name {
		setup.Main() // makes containers for the native driver and does not return
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(20) // a small heap is worth more here than speed
	if err := protect(); err != nil {
		fatal("protect", err)
	}
	in := newInit(os.NewFile(wire.ExitFD, "exits"), newLog(wire.LogFD0, wire.LogFD1))
	go in.reap()
	if err := in.listen(wire.ListenFD); err != nil {
		fatal("listen", err)
	}
}

// protect keeps the container's programs, which run as the same user, from
// reading or tracing this process, and from inheriting its descriptors.
func protect() error {
	const prSetDumpable = 4 // prctl(2)
	if _, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0); e != 0 {
		return e
	}
	for fd := wire.ListenFD; fd <= wire.ExitFD; fd++ {
		syscall.CloseOnExec(fd)
	}
	return nil
}

// fatal ends the container with the code that the daemon knows for a defect of
// init itself.
func fatal(what string, err error) {
	os.Stderr.WriteString("mayfly-init: " + what + ": " + err.Error() + "\n")
	os.Exit(125)
}
