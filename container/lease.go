package container

import (
	"net"
	"sync"
)

// Lease is a sandbox in the hands of one run.
type Lease struct {
	*Sandbox

	// Program is what to start for the run. Its Argv is empty when the program
	// runs already and listens on Port.
	Program Program
	Port    uint16

	// Conn is a first connection to Port, or nil.
	Conn net.Conn

	once   sync.Once
	giveUp func(healthy bool)
}

// NewLease returns a lease that calls giveUp once, when it is given up.
func NewLease(s *Sandbox, giveUp func(healthy bool)) *Lease {
	return &Lease{Sandbox: s, giveUp: giveUp}
}

// GiveUp ends the lease. A sandbox that may serve several runs serves the next
// one if it is healthy; any other ends. It does not wait.
func (l *Lease) GiveUp(healthy bool) {
	l.once.Do(func() {
		l.EndRun()
		l.giveUp(healthy)
	})
}
