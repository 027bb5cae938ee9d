package main

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly/container/wire"
)

// initd is the state of init: the programs that run and who wants to know.
type initd struct {
	log   *log
	exits *os.File
	chld  chan os.Signal

	mu       sync.Mutex // held from fork to registration, so that reap finds every child
	programs map[int]*program
	main     *program // set once, never cleared
	ending   bool     // the main program is dead: nothing is started any more
	conns    map[*conn]bool
}

// program is one process that the daemon asked for.
type program struct {
	number uint32
	pid    int
	pipes  sync.WaitGroup // copies to the log still under way
}

var (
	errStarted = errors.New("the main program was already started")
	errEnding  = errors.New("the container is ending")
)

func newInit(exits *os.File, l *log) *initd {
	in := &initd{
		log:      l,
		exits:    exits,
		chld:     make(chan os.Signal, 32),
		programs: make(map[int]*program),
		conns:    make(map[*conn]bool),
	}
	signal.Notify(in.chld)
	return in
}

// join registers a control connection and returns the main program's number.
func (in *initd) join(c *conn) uint32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.conns[c] = true
	if in.main == nil {
		return 0
	}
	return in.main.number
}

// leave forgets a connection and closes it, unless it is attached to the log.
func (in *initd) leave(c *conn) {
	in.mu.Lock()
	delete(in.conns, c)
	in.mu.Unlock()
	in.log.mu.Lock()
	defer in.log.mu.Unlock()
	for _, a := range in.log.attached {
		if a == c {
			return
		}
	}
	c.close()
}

// start runs a program and answers the request; a main program may be started
// once.
func (in *initd) start(c *conn, number uint32, p wire.Program, main bool) error {
	stdio, err := in.streams(c, p)
	if err != nil {
		return err
	}
	defer stdio.closeChildEnds()
	path, err := find(p.Argv[0], p.Env, p.Dir)
	if err != nil {
		stdio.closeOwnEnds()
		return err
	}
	pr := &program{number: number}

	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ending || main && in.main != nil {
		stdio.closeOwnEnds()
		if in.ending {
			return errEnding
		}
		return errStarted
	}
	pr.pid, err = syscall.ForkExec(path, p.Argv, &syscall.ProcAttr{
		Dir:   p.Dir,
		Env:   p.Env,
		Files: stdio.child[:],
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		stdio.closeOwnEnds()
		return err
	}
	in.programs[pr.pid] = pr
	if main {
		in.main = pr
	}
	for i, fd := range stdio.own {
		if fd >= 0 {
			pr.pipes.Add(1)
			go in.copy(pr, fd, byte(i))
		}
	}
	return c.reply(wire.Done, number, nil, -1)
}

// copy passes what a program writes to the log until every writer is gone.
func (in *initd) copy(p *program, fd int, stream byte) {
	defer p.pipes.Done()
	f := os.NewFile(uintptr(fd), "pipe")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n int
		var cerr error
		err := raw.Read(func(fd uintptr) bool {
			var ready bool
			n, ready, cerr = in.log.copy(int(fd), stream)
			return ready
		})
		if err != nil || cerr != nil || n == 0 {
			return
		}
	}
}

func (in *initd) kill(k wire.Kill) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for pid, p := range in.programs {
		if p.number == k.Process || k.Process == 0 && p == in.main {
			if k.Group {
				pid = -pid
			}
			return syscall.Kill(pid, syscall.Signal(k.Signal))
		}
	}
	return syscall.ESRCH
}

// reap collects children that ended, the orphans of others included, and
// passes on to the main program the signals that init itself is sent.
func (in *initd) reap() {
	for s := range in.chld {
		switch sig := s.(syscall.Signal); sig {
		case syscall.SIGCHLD:
			in.collect()
		case syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU:
			// the runtime's own, and those that are about init's descriptors
		default:
			in.kill(wire.Kill{Signal: uint8(sig), Group: true})
		}
	}
}

func (in *initd) collect() {
	for {
		in.mu.Lock()
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			in.mu.Unlock()
			continue
		}
		if err != nil || pid <= 0 {
			in.mu.Unlock()
			return
		}
		p := in.programs[pid]
		delete(in.programs, pid)
		main := in.main
		in.mu.Unlock()
		status := wire.Status{Wait: uint32(ws), Time: time.Now().UnixNano()}
		switch {
		case p == nil:
		case p == main:
			in.end(p, ws, status)
		default:
			go in.ended(p, status)
		}
	}
}

// orphanedPipes is how long the news of a program's end waits for others that
// hold its standard output or error open.
const orphanedPipes = time.Second

func (in *initd) ended(p *program, status wire.Status) {
	drained := make(chan struct{})
	go func() {
		p.pipes.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(orphanedPipes):
	}
	in.record(p, status)
}

// end is the end of the container: the main program's status becomes init's
// own once everybody else is dead and everything written is in the log.
func (in *initd) end(p *program, ws syscall.WaitStatus, status wire.Status) {
	in.mu.Lock()
	in.ending = true
	syscall.Kill(-1, syscall.SIGKILL)
	others := make(map[*program]wire.Status)
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			break
		}
		if o := in.programs[pid]; o != nil {
			others[o] = wire.Status{Wait: uint32(ws), Time: time.Now().UnixNano()}
		}
	}
	in.mu.Unlock()
	for o, s := range others {
		o.pipes.Wait()
		in.record(o, s)
	}
	p.pipes.Wait()
	in.record(p, status)
	os.Exit(exitCode(ws))
}

// record puts a status on disk and then tells every connection.
func (in *initd) record(p *program, status wire.Status) {
	status.Process = p.number
	body := status.Append(nil)
	in.exits.Write(body)
	in.mu.Lock()
	conns := make([]*conn, 0, len(in.conns))
	for c := range in.conns {
		conns = append(conns, c)
	}
	in.mu.Unlock()
	for _, c := range conns {
		c.reply(wire.Exited, p.number, body, -1)
	}
}

func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
