// Mayfly-init is the first process of every container. It waits on a socket
// for the daemon to say what to run, starts it, passes signals on, reaps
// orphans, copies what the programs write to the log, and records how each of
// them ended. It is confined as the container's programs are, so starting one
// is a plain fork and exec, and it goes on when the daemon is away: package
// container/wire has the protocol.
//
// It stands in every waiting sandbox and starts anew for every run, so it is
// Go without Go's runtime: one thread and one loop, which cost a tenth of what
// the runtime's threads, heap and signal handlers do, and need no process more
// than one when a program has used up the container's limit. The price is that
// nothing here may allocate, start a goroutine, use a map, or read a variable
// of a package that is set when the program starts; bare_test.go looks through
// the machine code for what the compiler would call. All state is in one
// variable, and so is all memory that system calls are given.
//
// The binary has another use: run as setup.Name it makes containers for the
// native driver, with the runtime. Its first instruction, in entry_*.s, tells
// the two apart. It is linked with -E main.entry.
package main

import (
	"os"

	"github.com/mayfly-run/mayfly/container/setup"
)

// main is where the runtime comes to.
func main() {
	if os.Args[0] == setup.Name {
		setup.Main() // does not return
	}
	os.Stderr.WriteString("mayfly-init: this is the first process of Mayfly's containers; link it with -E main.entry\n")
	os.Exit(codeDefect)
}
