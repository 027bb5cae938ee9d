// Package wire is the protocol between the daemon and mayfly-init, the first
// process of every container, over a unix stream socket that init listens on.
//
// A frame is a 4-byte big-endian length of what follows, a type byte, a 4-byte
// request number and a body. The daemon speaks first with Hello; init answers
// with Hello, its version and what it is running, so that a daemon that was
// restarted learns what happened meanwhile. After that the daemon sends
// requests, init answers each with Done or Error under the same number, and
// sends Exited, numbered by the request that started the process, when a
// process has ended and all it wrote is in the log. Descriptors travel as
// SCM_RIGHTS (unix(7)) on the first byte of the frame that they belong to.
//
// An Attach turns its connection into a one-way stream of Output frames.
//
// Version 2 has labels: the daemon numbers the names that it gives programs in
// one container from 1 on, init puts the number on what the program writes and
// on its status, and tells with its Hello which programs run. In version 3 a
// program may run as another user than init.
//
// Init runs without Go's runtime and reads what it is sent in place; of this
// package it uses what neither allocates nor needs a variable.
package wire

import (
	"encoding/binary"
	"errors"
)

// Version is sent in Hello. Init serves every version up to its own; a daemon
// that meets an older init speaks the older version.
const Version = 3

// MaxFrame is the largest frame in bytes: the kernel's ARG_MAX for argv and
// environment together (execve(2)) fits.
const MaxFrame = 4 << 20

// MaxFiles is the most descriptors that one frame carries.
const MaxFiles = 4

// Type is the kind of a frame.
type Type byte

// The frames.
const (
	Hello  Type = 1 + iota // both ways: Greeting
	Start                  // to init: Program; its end is the container's end
	Spawn                  // to init: Program; beside the main one
	Signal                 // to init: Kill
	Dial                   // to init: Dialing; answered by Done with a connected socket
	Attach                 // to init: no body; the connection becomes Output frames
	Done                   // to the daemon: the request was carried out
	Error                  // to the daemon: Failure
	Exited                 // to the daemon: Status
	Output                 // to the daemon: Chunk
)

// The descriptors that the daemon gives to init.
const (
	ListenFD = 3 // the listening control socket
	LogFD0   = 4 // first log segment
	LogFD1   = 5 // second log segment
	ExitFD   = 6 // where statuses are appended
)

// Stream says where a standard stream of a program comes from or goes to.
type Stream byte

// The streams.
const (
	Null   Stream = iota // /dev/null
	Log                  // a pipe that init copies to the log and to who is attached
	Passed               // the next descriptor that came with the frame
)

// ErrMalformed means that a frame's body is not what its type asks for.
var ErrMalformed = errors.New("wire: malformed frame")

// Greeting opens a connection.
type Greeting struct {
	Version uint16
	Main    uint32 // number of the Start that was served, 0 if none yet; init only
	LogMax  uint32 // bytes of one log segment before init changes over; daemon only, 0 keeps

	Running []Running // programs that were spawned and whose end is still to be told; init only
}

// Running is a program that a later daemon finds.
type Running struct {
	Number uint32 // of its Spawn
	Label  uint8
}

// MaxLabel is the largest label. 0 is that of a program without a name.
const MaxLabel = 63

// Program is what to run, in a session of its own, in Dir.
type Program struct {
	Argv   []string
	Env    []string
	Dir    string // init's own if empty
	Stdin  Stream
	Stdout Stream
	Stderr Stream
	Label  uint8
	As     *User // nil: init's own
}

// User is whom a program runs as. Only root can become another.
type User struct {
	UID, GID uint32
	Groups   []uint32 // at most MaxGroups
}

// MaxGroups is the most groups of a User.
const MaxGroups = 64

// Kill sends a signal.
type Kill struct {
	Process uint32 // number of its Start or Spawn; 0: the main one
	Signal  uint8
	Group   bool // the whole process group, not only the leader
}

// Dialing asks for a TCP connection to a port inside the container. Init tries
// 127.0.0.1 and then ::1, again and again until Timeout while nobody listens.
type Dialing struct {
	Port    uint16
	Timeout uint32 // milliseconds
}

// Failure is a refusal, with the errno of the system call that failed.
type Failure struct {
	Errno uint32
	Text  string
}

// Status is how a process ended. In the file are those of the main program and
// of programs with a label.
type Status struct {
	Process uint32
	Label   uint8
	Wait    uint32 // as wait4(2) gives it; 16 bits
	Time    int64  // Unix nanoseconds
}

// Chunk is what a process wrote.
type Chunk struct {
	Stream byte // 1: stdout, 2: stderr
	Label  uint8
	Time   int64
	Data   []byte
}

// HeaderLen is the length of a frame's header in bytes.
const HeaderLen = 9

// PutHeader writes a frame's header for a body of n bytes into b.
func PutHeader(b []byte, t Type, number uint32, n int) {
	binary.BigEndian.PutUint32(b, uint32(n+5))
	b[4] = byte(t)
	binary.BigEndian.PutUint32(b[5:], number)
}

// Header reads a frame's header, which must be there whole. It returns the
// length of the body, and false if there can be no such frame.
func Header(b []byte) (t Type, number uint32, n int, ok bool) {
	l := binary.BigEndian.Uint32(b)
	if l < 5 || l > MaxFrame {
		return 0, 0, 0, false
	}
	return Type(b[4]), binary.BigEndian.Uint32(b[5:]), int(l - 5), true
}
