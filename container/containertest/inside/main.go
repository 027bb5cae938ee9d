// Inside is the program that containertest runs in containers. It looks
// around, uses things up and tries to get out, and says on its standard output
// what came of it. It is static and needs nothing of the image.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

func main() {
	if how, err := os.ReadFile("/run/mayfly/hostile"); err == nil && os.Getpid() == 1 {
		hostile(string(how))
	}
	if len(os.Args) < 2 {
		fail("usage: inside COMMAND [ARGUMENT...]")
	}
	switch args := os.Args[2:]; os.Args[1] {
	case "probe":
		probe()
	case "escape":
		escape(args)
	case "flood":
		flood(number(args))
	case "memory":
		memory(number(args))
	case "threads":
		threads()
	case "files":
		files()
	case "orphans":
		orphans(number(args))
	case "orphan":
		orphan()
	case "listen":
		listen(args[0], args[1])
	case "knock":
		knock(args[0])
	case "identity":
		for _, l := range lines("/proc/self/status") {
			if strings.HasPrefix(l, "CapEff") {
				fmt.Println(l)
			}
		}
		fmt.Println(os.Geteuid())
	case "spin":
		for n := 0; n >= 0; n++ { // as good as for ever
			runtime.KeepAlive(n)
		}
	default:
		fail("unknown command " + os.Args[1])
	}
}

func number(args []string) int {
	if len(args) == 0 {
		fail("a number is missing")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		fail(err)
	}
	return n
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, "inside:", why)
	os.Exit(99)
}
