// Package container makes and keeps the containers of this machine.
//
// A sandbox is a container that is ready but has not begun: namespaces,
// cgroup, root, network and confinement are in place, and mayfly-init, its
// first process, waits on a socket to be told what to run. Making one costs
// milliseconds, using one that waits about as much as a fork. A Pool keeps
// some waiting.
//
//	Create ──▶ waiting ──Start──▶ running ──▶ ended ──Remove──▶ gone
//	              └────────Kill────────┴────────▲
//
// A container does not depend on the process that made it: its log, its
// sockets and how it ended are kept by init in files of the sandbox's
// directory, so that after a kill -9 the next daemon adopts it. What the
// caller does not adopt it must Discard. The package promises that a sandbox
// whose Create failed leaves nothing behind, and that Remove leaves nothing
// behind once Host.Run has had its turn. Images, networks and volumes are
// composed by the caller, a Maker.
package container
