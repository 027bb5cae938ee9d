package container

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// Process is a program that was started in a sandbox.
type Process struct {
	name   string
	number uint32
	done   chan struct{}
	status wire.Status
	lost   bool
}

func newProcess(name string) *Process { return &Process{name: name, done: make(chan struct{})} }

func (p *Process) end(s wire.Status) { p.status = s; close(p.done) }
func (p *Process) lose()             { p.lost = true; close(p.done) }

// Name is what the program was spawned under; empty if that was none.
func (p *Process) Name() string { return p.name }

// Done is closed when the process has ended and all it wrote is in the log, or
// when its container is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Exit is how the process ended. It is valid after Done. A process whose
// container was killed is reported as killed.
func (p *Process) Exit() mayfly.Exit {
	if p.lost {
		return exitOf(uint32(syscall.SIGKILL), time.Now())
	}
	return exitOf(p.status.Wait, time.Unix(0, p.status.Time))
}

// exitOf translates a status of wait4(2).
func exitOf(wait uint32, at time.Time) mayfly.Exit {
	ws := syscall.WaitStatus(wait)
	e := mayfly.Exit{Code: ws.ExitStatus(), Time: at, Reason: mayfly.ExitedNonZero}
	if ws.Signaled() {
		e.Signal = int(ws.Signal())
		e.Code = 128 + e.Signal
		e.Detail = "killed by " + unix.SignalName(ws.Signal())
	}
	if e.Code == 0 {
		e.Reason = mayfly.Succeeded
	}
	return e
}

// mainStatus finds the record of the main program in the file of statuses.
// Number 0 is the last that has no label.
func mainStatus(path string, number uint32) (st wire.Status, ok bool) {
	for r := range statuses(path) {
		if r.Label == 0 && (number == 0 || r.Process == number) {
			st, ok = r, true
		}
	}
	return st, ok
}

// statuses gives what is in the file of statuses, oldest first.
func statuses(path string) func(yield func(wire.Status) bool) {
	return func(yield func(wire.Status) bool) {
		data, err := os.ReadFile(path)
		for err == nil && len(data) >= wire.StatusLen {
			var r wire.Status
			if r.Decode(data[:wire.StatusLen]) == nil && !yield(r) {
				return
			}
			data = data[wire.StatusLen:]
		}
	}
}

// Program is what to start in a sandbox.
type Program struct {
	Argv []string
	Env  []string // whole; nil keeps the sandbox's
	Dir  string   // "/" if empty; a relative one begins where the container's programs start

	// User is whom it runs as; nil: the container's. Only a container whose user
	// is root can run a program as another.
	User *User

	// Name marks what a spawned program writes to the log, and a later daemon
	// finds the program by it. At most 63 different ones in a sandbox, without
	// line breaks. Start has no use for it.
	Name string

	// Standard streams: a file is given to the program; nil is /dev/null for
	// stdin and the log for the others.
	Stdin, Stdout, Stderr *os.File
}

// Start runs the main program; its end is the container's. A second Start is
// an error, for a sandbox serves one run. The files may be closed afterwards.
// A program that cannot be executed fails with the errno of execve(2).
func (s *Sandbox) Start(ctx context.Context, p Program) (*Process, error) {
	pr := newProcess("")
	s.mu.Lock()
	first := s.main == nil
	if first {
		s.main = pr // before its end can be noticed
	}
	s.mu.Unlock()
	err := s.execute(ctx, wire.Start, p, 0, pr)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.Started = time.Now()
		return pr, nil
	}
	if first {
		s.main = nil
	}
	return nil, err
}

// Spawn runs a program beside the main one, or where there is none: then the
// container goes on until Stop, Kill or Remove. Fails like Start.
func (s *Sandbox) Spawn(ctx context.Context, p Program) (*Process, error) {
	label, err := s.label(p.Name)
	if err != nil {
		return nil, err
	}
	pr := newProcess(p.Name)
	if err := s.execute(ctx, wire.Spawn, p, label, pr); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notice(pr)
	return pr, nil
}

// Spawned are the programs that Spawn started and that run, and for each name
// the one that ended last unless one runs. It is the same after Adopt, but for
// programs without a name that ended meanwhile: they are forgotten.
func (s *Sandbox) Spawned() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spawned = current(s.spawned)
	return slices.Clone(s.spawned)
}

// notice keeps a program for Spawned. s.mu is held, or s is not shared yet.
func (s *Sandbox) notice(p *Process) { s.spawned = append(current(s.spawned), p) }

// current drops what has ended and is not the last of its name.
func current(list []*Process) []*Process {
	var kept []*Process
	for i, p := range list {
		later := func(o *Process) bool { return o.name == p.name }
		if !p.ended() || p.name != "" && !slices.ContainsFunc(list[i+1:], later) {
			kept = append(kept, p)
		}
	}
	return kept
}

// endedPrograms are those with a name that are on record as ended.
func (s *Sandbox) endedPrograms() (ended []*Process) {
	for r := range statuses(s.dir + "/" + exitsName) {
		if r.Label > 0 {
			p := newProcess(s.nameOf(r.Label))
			p.number = r.Process
			p.end(r)
			ended = append(ended, p)
		}
	}
	return current(ended)
}

// label is the number that stands for a name, which is written down first.
func (s *Sandbox) label(name string) (uint8, error) {
	if name == "" {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.names, name); i >= 0 {
		return uint8(i + 1), nil
	}
	if len(s.names) == wire.MaxLabel || strings.ContainsAny(name, "\r\n") {
		return 0, mayfly.Errorf(mayfly.Invalid, "%q cannot be one more name of a program in container %s", name, s.ID).
			WithHint("use at most %d names, each of one line", wire.MaxLabel)
	}
	names := append(slices.Clone(s.names), name)
	if err := s.putOwn(namesName, []byte(strings.Join(names, "\n")+"\n")); err != nil {
		return 0, err
	}
	s.names = names
	return uint8(len(names)), nil
}

func (s *Sandbox) nameOf(label uint8) string { return nameOf(s.names, label) }

func nameOf(names []string, label uint8) string {
	if label == 0 || int(label) > len(names) {
		return ""
	}
	return names[label-1]
}

func (s *Sandbox) hasNames() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names) > 0
}

// readNames reads the names of a sandbox's programs; there need not be any.
func readNames(dir string) (names []string) {
	data, err := os.ReadFile(dir + "/" + namesName)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		names = append(names, strings.TrimSuffix(line, "\n"))
	}
	return names
}

func (s *Sandbox) execute(ctx context.Context, t wire.Type, p Program, label uint8, pr *Process) error {
	if p.Env == nil {
		p.Env = s.env
	}
	w := wire.Program{Argv: p.Argv, Env: p.Env, Dir: p.Dir, Stdout: wire.Log, Stderr: wire.Log, Label: label}
	if w.Dir == "" {
		w.Dir = "/"
	}
	var err error
	if w.As, err = s.become(p.User); err != nil {
		return err
	}
	var files []*os.File
	for _, f := range []struct {
		file *os.File
		to   *wire.Stream
	}{{p.Stdin, &w.Stdin}, {p.Stdout, &w.Stdout}, {p.Stderr, &w.Stderr}} {
		if f.file != nil {
			*f.to = wire.Passed
			files = append(files, f.file)
		}
	}
	if s.conn == nil {
		return errInitGone
	}
	return s.conn.do(ctx, t, w.Append(nil), files, pr)
}

// become is what init has to do for a program to run as u; nil if nothing.
func (s *Sandbox) become(u *User) (*wire.User, error) {
	if u == nil || u.UID == s.User.UID && u.GID == s.User.GID && slices.Equal(u.Groups, s.User.Groups) {
		return nil, nil
	}
	if s.User.UID != 0 {
		return nil, mayfly.Errorf(mayfly.Denied, "container %s runs as user %d, who cannot become user %d", s.ID, s.User.UID, u.UID).
			WithHint("name no user, or run the container as root")
	}
	if len(u.Groups) > wire.MaxGroups {
		return nil, mayfly.Errorf(mayfly.Invalid, "user %d is in more than %d groups", u.UID, wire.MaxGroups)
	}
	if s.conn != nil && s.conn.version < 3 {
		return nil, mayfly.Errorf(mayfly.Unavailable, "container %s was made by an earlier version and cannot change users", s.ID).
			WithHint("restart it")
	}
	return &wire.User{UID: u.UID, GID: u.GID, Groups: u.Groups}, nil
}

// Signal sends a signal to a program and everything in its process group; a
// nil p is the main one.
func (s *Sandbox) Signal(ctx context.Context, p *Process, sig syscall.Signal) error {
	k := wire.Kill{Signal: uint8(sig), Group: true}
	if p != nil {
		k.Process = p.number
	}
	if s.conn == nil {
		return errInitGone
	}
	return s.conn.do(ctx, wire.Signal, k.Append(nil), nil, nil)
}

// Stop asks the main program to end with sig, or where there is none all that
// were spawned, and kills the container if it is still there after grace. A
// container without a main program is killed as soon as those have ended. It reports
// false when ctx ended before: the container was asked, and may go on.
func (s *Sandbox) Stop(ctx context.Context, sig syscall.Signal, grace time.Duration) bool {
	patient, cancel := context.WithTimeout(ctx, grace) // init may not answer
	defer cancel()
	asked := true
	if s.Main() != nil {
		asked = s.Signal(patient, nil, sig) == nil
	} else {
		s.stopSpawned(patient, sig)
		asked = false
	}
	if !asked && ctx.Err() == nil {
		s.Kill()
	}
	select {
	case <-s.ended:
		return true
	case <-patient.Done():
	}
	if ctx.Err() != nil {
		return false
	}
	s.Kill()
	return true
}

// stopSpawned sends sig to every spawned program, and waits until all have ended
// or ctx has.
func (s *Sandbox) stopSpawned(ctx context.Context, sig syscall.Signal) {
	var asked []*Process
	for _, p := range s.Spawned() {
		if !p.ended() && s.Signal(ctx, p, sig) == nil {
			asked = append(asked, p)
		}
	}
	for _, p := range asked {
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
	}
}
