package main

// entry is the program's first instruction. It goes on in Go's runtime, or
// without it in start, by whether the program is run by a path.
func entry()

// fork runs child in a process that shares this one's memory but for the
// stack, and waits until that has executed a program or ended (vfork(2)). It
// returns what clone(2) does: a process number, or an errno below zero.
//
//go:noescape
func fork() int

// runtimeG stands for the runtime's description of the running goroutine. Go
// code compares the stack pointer with a bound in it when a function begins;
// the bound 0 is never reached, for the kernel makes the stack grow.
var runtimeG [64]uint64

// threadLocal is what the thread's register for such storage points behind: on
// amd64 Go finds runtimeG by the word in front.
var threadLocal [2]*[64]uint64

// childStack is the stack of child.
var childStack [16384]byte

// What the assembler's code alone names is used, whatever tools think.
var _ = [...]any{entry, start, child, &runtimeG, &threadLocal, &childStack}
