// Package setup is how the native driver and mayfly-init share the work of
// making a container. The daemon writes a Program: the system calls of one
// container as a flat list of steps, with everything decided. It hands it to a
// server, mayfly-init run by the name Name, which forks a stage into the new
// namespaces. The stage carries the steps out in their order and executes the
// container's first process in its own place.
//
// The stage knows nothing of OCI and decides nothing but how a path of the
// container is found: always beneath the container's root, following the
// links of an image but never a magic link of procfs, because what an image
// holds is hostile. Missing directories and files on such a path are made.
//
// A failing step ends the stage: what failed is written to the status pipe as
// a Report. The pipe closes when the first process is executed, and the first
// byte of the program, which is shared memory, says whether that was reached.
// A daemon that is gone by then is noticed, so a stage outlives nobody.
//
// The package links into mayfly-init, so it imports next to nothing.
package setup

import "encoding/binary"

// Name is argv[0] of the server.
const Name = "mayfly-setup"

// The first byte of a program tells the daemon how far the stage is.
const (
	Working   = 0 // not yet at the end of its steps
	Executing = 1 // execve(2) is the next system call, or has been made
)

// op is what a step does.
type op byte

const (
	opWrite op = 1 + iota
	opSetns
	opUnshare
	opKeyring
	opLoopback
	opPropagate
	opOverlay
	opEnter
	opMount
	opBind
	opChmod
	opMknod
	opSymlink
	opUnlink
	opPivot
	opNull
	opRemount
	opReadonly
	opMask
	opUmask
	opHostname
	opDomainname
	opPersonality
	opRlimit
	opNoNewPrivs
	opSeccomp
	opChdir
	opBounding
	opUser
	opCaps
	opHome
	opExec
)

var opNames = [...]string{
	opWrite: "write", opSetns: "join namespace", opUnshare: "unshare", opKeyring: "join session keyring",
	opLoopback: "bring up lo", opPropagate: "change propagation of /", opOverlay: "mount root", opEnter: "find",
	opMount: "mount", opBind: "bind", opChmod: "chmod", opMknod: "make device", opSymlink: "make link", opUnlink: "unlink",
	opPivot: "pivot_root", opNull: "open /dev/null", opRemount: "remount", opReadonly: "make read-only",
	opMask: "mask", opUmask: "set umask", opHostname: "set host name", opDomainname: "set domain name",
	opPersonality: "set personality", opRlimit: "set limit", opNoNewPrivs: "set no_new_privs", opSeccomp: "install seccomp filter",
	opChdir: "change directory", opBounding: "drop capabilities", opUser: "change user", opCaps: "set capabilities",
	opHome: "find home", opExec: "execute",
}

func (o op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return "carry out unknown step"
}

// Report is what the stage writes to the status pipe.
type Report struct {
	Warning bool   // the step was left out and the stage went on
	Errno   uint32 // of the system call that failed
	Text    string // what was tried
}

// reportMark starts a Report, so that a stack trace is told from one.
const reportMark = 0xfa

func (r Report) append(b []byte) []byte {
	w := byte(0)
	if r.Warning {
		w = 1
	}
	b = append(b, reportMark, w)
	b = binary.LittleEndian.AppendUint32(b, r.Errno)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Text)))
	return append(b, r.Text...)
}

// ParseReport reads the Report in front of b and returns what follows it. It
// returns false when there is none; then b is what the Go runtime wrote when
// it broke down, or empty.
func ParseReport(b []byte) (r Report, rest []byte, ok bool) {
	if len(b) < 8 || b[0] != reportMark {
		return Report{}, b, false
	}
	n := int(binary.LittleEndian.Uint16(b[6:]))
	if len(b) < 8+n {
		return Report{}, b, false
	}
	r = Report{Warning: b[1] != 0, Errno: binary.LittleEndian.Uint32(b[2:]), Text: string(b[8 : 8+n])}
	return r, b[8+n:], true
}
