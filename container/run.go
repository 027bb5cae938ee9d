package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Run is what a sandbox is told of the run that it serves, in
// /run/mayfly/run.json.
type Run struct {
	ID       string `json:"run"`
	Attempt  int    `json:"attempt"`
	Deadline int64  `json:"deadline"` // ms since 1970; 0: none
	Workload string `json:"workload,omitempty"`
	Space    string `json:"space"`
	Release  int    `json:"release,omitempty"`
	Task     bool   `json:"task,omitempty"` // it waited its turn, and ID is the task's

	// CloudEvent has the attributes of the event that the run is a delivery of, by
	// their names; nil where it is none.
	CloudEvent map[string]string `json:"cloudevent,omitempty"`
}

// SetDeadline notes when the run is to end; never, if the time is zero.
func (r *Run) SetDeadline(t time.Time) {
	if !t.IsZero() {
		r.Deadline = t.UnixMilli()
	}
}

// Environment is the run as a program is told that is started for it.
func (r Run) Environment() []string {
	env := make([]string, 0, 5)
	r.each(func(name, value string) { env = append(env, "MAYFLY_"+strings.ToUpper(name)+"="+value) })
	for name, value := range r.CloudEvent {
		env = append(env, "CE_"+strings.ToUpper(name)+"="+value)
	}
	return env
}

// Headers gives the headers in which a program is told of the run that was
// started before it.
func (r Run) Headers(set func(name, value string)) {
	r.each(func(name, value string) { set("X-Mayfly-"+name, value) })
}

// each gives what there is of a run, for programs.
func (r Run) each(give func(name, value string)) {
	give("Run", r.ID)
	give("Attempt", strconv.Itoa(r.Attempt))
	if r.Deadline != 0 {
		give("Deadline", strconv.FormatInt(r.Deadline, 10))
	}
	if r.Workload != "" {
		give("Workload", r.Workload)
	}
	give("Space", r.Space)
}

const runName = "run.json"

// SetRun says which run the sandbox serves from now on: to its programs, and to
// whoever asks Run. A later daemon that adopts the sandbox knows it too.
func (s *Sandbox) SetRun(r Run) error {
	if err := s.PutFile(runName, mustJSON(r)); err != nil {
		return err
	}
	s.Serve(r)
	return nil
}

// Serve is SetRun for a sandbox that serves many runs, each of which is told
// its identity with its input: there is no file, and whoever asks Run knows.
func (s *Sandbox) Serve(r Run) { s.run.Store(&r) }

// EndRun says that the sandbox serves none, until the next SetRun. The file
// stays as it was.
func (s *Sandbox) EndRun() { s.run.Store(nil) }

// Run is what the sandbox serves now; nil while that is none.
func (s *Sandbox) Run() *Run { return s.run.Load() }

// recallRun finds out what a sandbox serves that an earlier daemon handed over.
func (s *Sandbox) recallRun() {
	var r Run
	if data, err := s.ReadFile(runName); err == nil && json.Unmarshal(data, &r) == nil && r.ID != "" {
		s.run.Store(&r)
	}
}

// PutResults puts what the tasks that a run came after returned, by their ids,
// into /run/mayfly/results, for its programs.
func (s *Sandbox) PutResults(results map[string][]byte) error {
	for id, result := range results {
		if err := s.PutFile("results/"+id, result); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile reads a file of /run/mayfly, which only the daemon can write.
func (s *Sandbox) ReadFile(name string) ([]byte, error) {
	return os.ReadFile(s.files + "/" + name)
}

// Listen makes a socket in /run/mayfly, in place of one that an earlier daemon
// left, to which every program of the container can connect. The descriptor
// does not block. It and what connects to it are the caller's; the file goes
// with the sandbox.
func (s *Sandbox) Listen(name string) (fd int, err error) {
	dir, err := openDir(s.files)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	at := &unix.SockaddrUnix{Name: socketPath(dir, name)}
	err = unix.Bind(fd, at)
	if errors.Is(err, unix.EADDRINUSE) {
		unix.Unlinkat(dir, name, 0)
		err = unix.Bind(fd, at)
	}
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err == nil {
		err = unix.Fchmodat(dir, name, 0o666, 0)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on %s: %w", name, err)
	}
	return fd, nil
}
