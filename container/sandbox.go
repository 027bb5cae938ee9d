package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// Sandbox is one container, from the moment in which its init waits for work.
// Its methods may be called at once from several goroutines.
type Sandbox struct {
	ID      string
	Address string        // on the node's network; empty without one
	Ports   []mayfly.Port // published
	Groups  []string      // of the network
	User    User          // of its programs
	Started time.Time     // when the main program was started; zero before

	host   *Host
	dir    string
	files  string   // the directory that is /run/mayfly in the container
	env    []string // of its programs
	state  state
	pid    int // of its first process, while pidfd is not readable
	pidfd  *os.File
	conn   *initConn // nil when adopted after its end
	run    atomic.Pointer[Run]
	crowd  atomic.Pointer[Crowd] // of one that serves many runs; or nil
	ended  chan struct{}
	buried chan struct{} // closed when the host was told of the end
	exit   mayfly.Exit   // valid once ended is closed

	replacing sync.Mutex // one mounted file at a time

	mu       sync.Mutex
	main     *Process // nil before Start
	names    []string // of spawned programs: labels 1, 2, 3...
	spawned  []*Process
	reason   mayfly.Reason
	detail   string
	failed   *mayfly.Exit // the program could not be executed
	starved  bool         // a program of it was killed for want of memory
	released bool         // the driver has deleted it
	removed  bool         // Remove was called
}

// state is what a later daemon needs to know, in the sandbox's directory.
type state struct {
	ID      string        `json:"id"`
	Driver  string        `json:"driver"`
	Cgroup  string        `json:"cgroup"`
	Address string        `json:"address,omitempty"`
	Ports   []mayfly.Port `json:"ports,omitempty"`
	Groups  []string      `json:"groups,omitempty"`
	LogMax  int64         `json:"logMax"` // bytes
	Boot    string        `json:"boot"`   // the kernel's boot_id
	Env     []string      `json:"env,omitempty"`
	User    User          `json:"user"`
}

const (
	socketName = "init.sock"
	logName0   = "log.0"
	logName1   = "log.1"
	exitsName  = "exits"
	pidName    = "pid"
	stateName  = "state.json"
	noteName   = "note"
	namesName  = "names"
)

// begin notes the new container's first process and greets init.
func (s *Sandbox) begin(ctx context.Context, child *Child) error {
	var err error
	if s.pidfd, err = openPidfd(child.PID); err != nil {
		return err
	}
	s.pid = child.PID
	ticks, err := startTicks(child.PID)
	if err != nil {
		return err
	}
	if err := put(unix.AT_FDCWD, s.dir+"/"+pidName, fmt.Appendf(nil, "%d %d", child.PID, ticks), 0o600); err != nil {
		return err
	}
	s.conn, _, err = dialInit(ctx, s.dir, s.state.LogMax)
	if err != nil {
		return err
	}
	go s.conn.serve()
	return nil
}

// adopt connects to the init of an earlier daemon's container, or finds that
// it has ended.
func (s *Sandbox) adopt() (wait func() (uint32, error), err error) {
	s.names = readNames(s.dir)
	s.pidfd, err = s.openProcess()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mayfly.Errorf(mayfly.NotFound, "sandbox %s was never started", s.ID)
	}
	if err != nil && !errors.Is(err, errNoProcess) {
		return nil, err
	}
	var conn *initConn
	var hello wire.Greeting
	if err == nil {
		if conn, hello, err = dialInit(context.Background(), s.dir, s.state.LogMax); err != nil {
			s.Kill() // it may be ending just now
		}
	}
	s.spawned = s.endedPrograms() // only now: each that ended before init answered is on record
	if err != nil {
		s.main = newProcess("") // told by watch
		return nil, nil
	}
	s.conn = conn
	if hello.Main != 0 {
		s.main = newProcess("")
		s.main.number = hello.Main
		conn.exits[hello.Main] = s.main
	}
	for _, r := range hello.Running {
		p := newProcess(s.nameOf(r.Label))
		p.number = r.Number
		conn.exits[r.Number] = p
		s.notice(p)
	}
	go conn.serve()
	return nil, nil
}

var errNoProcess = errors.New("the process is gone")

// openProcess finds the first process of a sandbox by what begin wrote down.
func (s *Sandbox) openProcess() (*os.File, error) {
	data, err := os.ReadFile(s.dir + "/" + pidName)
	if err != nil {
		return nil, err
	}
	if s.state.Boot != s.host.boot {
		return nil, errNoProcess // numbers and starts count from the machine's start
	}
	var pid int
	var ticks uint64
	if _, err := fmt.Sscanf(string(data), "%d %d", &pid, &ticks); err != nil {
		return nil, errNoProcess // cut short by a crash: it never got work
	}
	f, err := openPidfd(pid)
	if err != nil {
		return nil, errNoProcess
	}
	if now, err := startTicks(pid); err != nil || now != ticks {
		f.Close()
		return nil, errNoProcess // somebody else's process has the number now
	}
	s.pid = pid
	return f, nil
}

// startTicks is when a process started, field 22 of proc_pid_stat(5).
func startTicks(pid int) (uint64, error) {
	var buf [1024]byte
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	n, err := unix.Read(fd, buf[:])
	unix.Close(fd)
	if err != nil {
		return 0, err
	}
	data := string(buf[:n])
	f := strings.Fields(data[strings.LastIndexByte(data, ')')+1:])
	if len(f) < 20 {
		return 0, errors.New("short /proc/PID/stat")
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// watch waits for the container's end, finds out how it ended and hands it to
// the host for cleaning up.
func (s *Sandbox) watch(reap func() (uint32, error)) {
	if s.pidfd != nil {
		waitPidfd(s.pidfd)
	}
	if reap != nil {
		reap()
	}
	s.exit = s.finalExit()
	close(s.ended)
	s.host.bury(s)
	close(s.buried)
}

// drainTimeout is how long what a dead init has sent may take to be read.
const drainTimeout = 5 * time.Second

// finalExit puts together what init recorded, what the kernel counted and what
// Stop was told.
func (s *Sandbox) finalExit() mayfly.Exit {
	e := exitOf(uint32(syscall.SIGKILL), time.Now())
	if s.conn != nil {
		// What init sent is here already. Should something still hold the other
		// end of the socket, its end would not be noticed.
		s.conn.conn.SetReadDeadline(time.Now().Add(drainTimeout))
		<-s.conn.done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.conn != nil
	if s.main != nil {
		if st, ok := mainStatus(s.dir+"/"+exitsName, s.main.number); ok {
			e, told = exitOf(st.Wait, time.Unix(0, st.Time)), true
		}
	}
	switch {
	case s.failed != nil:
		return *s.failed
	case s.state.Boot != s.host.boot:
		e.Reason, e.Detail = mayfly.Lost, "the machine was restarted"
	case s.reason != "" && e.Reason != mayfly.Succeeded:
		e.Reason, e.Detail = s.reason, s.detail
	case e.Signal != int(syscall.SIGKILL) && e.Reason == mayfly.ExitedNonZero:
		s.starved = s.oomKilled()
	case e.Signal == int(syscall.SIGKILL) && s.oomKilled():
		s.starved = true
		e.Reason, e.Detail = mayfly.OutOfMemory, "the memory limit was reached"
	case !told:
		e.Reason, e.Detail = mayfly.Lost, "it ended while there was no daemon, and left no word"
	}
	return e
}

// Ended is closed when every process of the container is dead.
func (s *Sandbox) Ended() <-chan struct{} { return s.ended }

// Exit is how the container ended. It is valid after Ended.
func (s *Sandbox) Exit() mayfly.Exit { return s.exit }

// Starved reports of a container that failed whether a program of it, not
// necessarily the main one, was killed because the memory limit was reached. It is
// valid after Ended.
func (s *Sandbox) Starved() bool { return s.starved }

// Env is the environment that programs get which name none.
func (s *Sandbox) Env() []string { return s.env }

// KeepPrivate adds variables, NAME=VALUE each, that are written down nowhere: a
// later daemon has to add them again. It is called before any program is started.
func (s *Sandbox) KeepPrivate(vars []string) {
	if len(vars) > 0 {
		s.env = WithEnv(s.env, vars)
	}
}

// Main is the main program, nil before Start.
func (s *Sandbox) Main() *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.main
}

// Kill ends every process of the container at once.
func (s *Sandbox) Kill() {
	if s.pidfd == nil {
		return
	}
	if raw, err := s.pidfd.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	}
}

// ExecFailure is the exit code that a shell would give for a program that could
// not be executed, and why: 127 when it is not there, else 126.
func ExecFailure(program string, err error) (code int, detail string) {
	code = 126
	if errors.Is(err, syscall.ENOENT) {
		code = 127
	}
	return code, "cannot execute " + program + ": " + err.Error()
}

// Fail ends a sandbox whose program could not be executed, with the exit code
// that a shell would give.
func (s *Sandbox) Fail(code int, detail string) {
	s.mu.Lock()
	s.failed = &mayfly.Exit{Code: code, Reason: mayfly.ExitedNonZero, Detail: detail, Time: time.Now()}
	s.mu.Unlock()
	s.Kill()
}

// Blame sets the reason that the coming end will have, unless the main program
// succeeds all the same. The first call counts.
func (s *Sandbox) Blame(r mayfly.Reason, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		s.reason, s.detail = r, detail
	}
}

// Dial connects to a port that a program in the container listens on, waiting
// up to timeout for it to do so. The connection is the kernel's own, made
// inside the container: no bytes go through init.
func (s *Sandbox) Dial(ctx context.Context, port uint16, timeout time.Duration) (net.Conn, error) {
	if s.conn == nil {
		return nil, errInitGone
	}
	d := wire.Dialing{Port: port, Timeout: uint32(timeout.Milliseconds())}
	fd, err := s.conn.call(ctx, wire.Dial, d.Append(nil), nil, nil)
	if err != nil {
		return nil, err
	}
	if fd < 0 {
		return nil, wire.ErrMalformed
	}
	f := os.NewFile(uintptr(fd), "dialed")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		return nil, wire.ErrMalformed
	}
	tcp.SetNoDelay(true)
	return tcp, nil
}

// Attach passes what the programs write from now on to fn, until the container
// has ended. It calls ready once nothing more is missed. A slow fn makes the
// programs wait.
func (s *Sandbox) Attach(ctx context.Context, ready func(), fn func(mayfly.LogEntry) error) error {
	return attach(ctx, s.dir, ready, func(c wire.Chunk) error {
		e := logEntry(c)
		s.mu.Lock()
		e.Process = s.nameOf(c.Label)
		s.mu.Unlock()
		return fn(e)
	})
}

// KeepLog moves the log of an ended sandbox to dir, unless nothing was written
// to it.
func (s *Sandbox) KeepLog(dir string) error {
	if !HasLog(s.dir) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := move(s.dir+"/"+logName1, dir+"/"+logName1)
	if s.hasNames() {
		err = errors.Join(err, move(s.dir+"/"+namesName, dir+"/"+namesName))
	}
	return errors.Join(err, move(s.dir+"/"+logName0, dir+"/"+logName0))
}

// Dir is where the sandbox's log lies, for ReadLog.
func (s *Sandbox) Dir() string { return s.dir }

// Pipe returns the two ends of a pipe for a program's standard stream, which
// belongs to the container's user, so that the program can open it anew by
// name (/dev/stdout). Theirs is to be closed once the program was started.
func (s *Sandbox) Pipe(input bool) (ours, theirs *os.File, err error) { return PipeFor(s.User, input) }

// PipeFor is Pipe for a program that runs as u.
func PipeFor(u User, input bool) (ours, theirs *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	ours, theirs = r, w
	if input {
		ours, theirs = w, r
	}
	if u.UID != 0 {
		err = theirs.Chown(int(u.UID), int(u.GID))
	}
	if err != nil {
		r.Close()
		w.Close()
	}
	return ours, theirs, err
}

// PutFile puts a file into /run/mayfly, whole or not at all. Its name may be
// FOLDER/NAME; the folder is made.
func (s *Sandbox) PutFile(name string, data []byte) error {
	path := s.files
	if folder, file, ok := strings.Cut(name, "/"); ok {
		path, name = path+"/"+folder, file
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	dir, err := openDir(path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return replace(dir, name, data, 0o644)
}

// SetNote leaves word for a later daemon that adopts the sandbox.
func (s *Sandbox) SetNote(data []byte) error { return s.putOwn(noteName, data) }

// putOwn puts a file into the sandbox's directory, which the container does not
// see, whole or not at all.
func (s *Sandbox) putOwn(name string, data []byte) error {
	dir, err := openDir(s.dir)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return replace(dir, name, data, 0o600)
}

// OpenFile opens a file that PutFile has put, as a program's standard input.
func (s *Sandbox) OpenFile(name string) (*os.File, error) {
	return os.Open(s.files + "/" + name)
}

// Remove kills the container if it is still there and has its directory
// deleted, the log included. It does not wait.
func (s *Sandbox) Remove() {
	s.mu.Lock()
	again := s.released && !s.removed
	s.removed = true
	s.mu.Unlock()
	s.Kill()
	if again {
		s.host.bury(s)
	}
}

// release takes back what the container had, and its directory if it was
// removed. It reports whether this was the first time.
func (s *Sandbox) release(ctx context.Context) (first bool) {
	s.mu.Lock()
	first = !s.released
	s.mu.Unlock()
	if first {
		if err := s.host.driver.Delete(ctx, s.ID, s.dir); err != nil {
			s.host.opts.Log.Error("delete container", "id", s.ID, "err", err)
		}
		if s.pidfd != nil {
			s.pidfd.Close()
		}
		if err := s.removeFiles(); err != nil {
			s.host.opts.Log.Error("remove the files of a container", "id", s.ID, "err", err)
		}
	}
	s.mu.Lock()
	s.released = true
	removed := s.removed
	s.mu.Unlock()
	if removed {
		if err := removeDir(s.dir); err != nil {
			s.host.opts.Log.Error("remove sandbox", "id", s.ID, "err", err)
		}
		s.host.mu.Lock()
		delete(s.host.sandboxes, s.ID)
		s.host.mu.Unlock()
	}
	return first
}

// removeFiles removes the files of a sandbox that has ended, where they are not
// in its own directory.
func (s *Sandbox) removeFiles() error {
	if s.files == s.dir+"/run" {
		return nil
	}
	return removeDir(s.files)
}

func owner(st fs.FileInfo) (uid, gid int) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0
	}
	return int(sys.Uid), int(sys.Gid)
}
