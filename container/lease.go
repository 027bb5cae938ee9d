package container

import (
	"net"
	"sync"
)

// Lease is a sandbox in the hands of one run, or a place in one that serves
// several at once.
type Lease struct {
	*Sandbox

	// Program is what to start for the run. Its Argv is empty when the program
	// runs already and listens on Port.
	Program Program
	Port    uint16

	// Conn is a first connection to Port, or nil. What is there when the lease is
	// given up is used again.
	Conn net.Conn

	crowd  *Crowd // nil: the sandbox serves this run alone, and no other
	run    *Run   // that it serves, where it may serve others meanwhile
	once   sync.Once
	giveUp func(well bool)
}

// NewLease returns a lease that calls giveUp once, when it is given up.
func NewLease(s *Sandbox, giveUp func(well bool)) *Lease {
	return &Lease{Sandbox: s, giveUp: giveUp}
}

// GiveUp ends the lease. A sandbox that may serve several runs serves the next
// one if it is well; any other ends. It does not wait.
func (l *Lease) GiveUp(well bool) {
	l.once.Do(func() {
		if l.crowd != nil {
			l.crowd.leave(l, well)
		} else if l.Conn != nil {
			l.Conn.Close()
		}
		if !l.Shared() {
			l.EndRun()
		}
		l.giveUp(well)
	})
}

// Shared reports whether other runs may be in the sandbox meanwhile.
func (l *Lease) Shared() bool { return l.crowd != nil && l.crowd.each > 1 }

// Serve says which run it is, to whoever asks the sandbox. It is for sandboxes
// that serve many runs, each of which is told its identity with its input: there
// is no file.
func (l *Lease) Serve(r Run) {
	if !l.Shared() {
		l.Sandbox.Serve(r)
		return
	}
	l.crowd.mu.Lock()
	defer l.crowd.mu.Unlock()
	l.run = &r
}

// Crowd is the runs that are in one sandbox, and the connections to its program
// that none of them uses.
type Crowd struct {
	each int

	mu      sync.Mutex
	in      []*Lease // in the order in which they came
	culprit *Lease   // for whose sake the sandbox ended, or ends
	conns   []net.Conn
}

// NewCrowd returns the crowd of a sandbox that serves so many runs at once.
// Through conn, if there is one, its program can be reached.
func NewCrowd(s *Sandbox, each int, conn net.Conn) *Crowd {
	c := &Crowd{each: each}
	if conn != nil {
		c.conns = []net.Conn{conn}
	}
	s.crowd.Store(c)
	return c
}

// NewLease returns a lease of a place in the sandbox.
func (c *Crowd) NewLease(s *Sandbox, giveUp func(well bool)) *Lease {
	l := NewLease(s, giveUp)
	l.crowd = c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in = append(c.in, l)
	if n := len(c.conns); n > 0 {
		l.Conn, c.conns = c.conns[n-1], c.conns[:n-1]
	}
	return l
}

// mostConns is how many connections wait for a run.
const mostConns = 64

func (c *Crowd) leave(l *Lease, well bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, o := range c.in {
		if o == l {
			c.in = append(c.in[:i], c.in[i+1:]...)
			break
		}
	}
	switch {
	case l.Conn == nil:
	case well && len(c.conns) < min(c.each, mostConns):
		c.conns = append(c.conns, l.Conn)
	default:
		l.Conn.Close()
	}
	l.Conn = nil
}

// Close closes the connections that nobody uses.
func (c *Crowd) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// Condemn ends the sandbox for the sake of this run, which the others in it cannot
// help. The caller has said why, by Blame.
func (l *Lease) Condemn() {
	if l.crowd != nil {
		l.crowd.mu.Lock()
		if l.crowd.culprit == nil {
			l.crowd.culprit = l
		}
		l.crowd.mu.Unlock()
	}
	l.Kill()
}

// Innocent reports whether another run is why the sandbox ended before its time:
// the one for whose sake it was ended, and else the one that came last, because
// without that all was well. It is asked while the lease is held.
func (l *Lease) Innocent() bool {
	if l.crowd == nil {
		return false
	}
	l.crowd.mu.Lock()
	defer l.crowd.mu.Unlock()
	if l.crowd.culprit == nil && len(l.crowd.in) > 0 {
		l.crowd.culprit = l.crowd.in[len(l.crowd.in)-1]
	}
	return l.crowd.culprit != l
}

// RunOf is one of the runs that the sandbox serves just now, by its id; nil if it
// does not serve that one.
func (s *Sandbox) RunOf(id string) *Run {
	c := s.crowd.Load()
	if c == nil || id == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.in {
		if l.run != nil && l.run.ID == id {
			return l.run
		}
	}
	return nil
}
