package containertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"golang.org/x/sys/unix"
)

// spawn runs a program beside the main one to its end. Its output is logged.
func spawn(t testing.TB, s *container.Sandbox, argv ...string) mayfly.Exit {
	t.Helper()
	p, err := s.Spawn(t.Context(), container.Program{Argv: argv})
	if err != nil {
		t.Fatalf("spawn %q: %v", argv, err)
	}
	<-p.Done()
	return p.Exit()
}

func exitCodes(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	for code := range 256 {
		e := spawn(t, s, "sh", "-c", fmt.Sprint("exit ", code))
		if e.Code != code || e.Signal != 0 || (e.Reason == mayfly.Succeeded) != (code == 0) {
			t.Errorf("exit %d: %+v", code, e)
		}
	}
	for _, code := range []int{0, 1, 125, 126, 127, 137, 143, 255} {
		if e := b.shell(t, b.Config, fmt.Sprint("exit ", code)).exit; e.Code != code || e.Signal != 0 || (e.Reason == mayfly.Succeeded) != (code == 0) {
			t.Errorf("exit %d of the main program: %+v", code, e)
		}
	}
}

func signals(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	for n := syscall.Signal(1); n <= 31; n++ {
		switch n {
		case unix.SIGQUIT: // the shell ignores it
			continue
		case unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
			continue // these do not end a process
		}
		e := spawn(t, s, "sh", "-c", fmt.Sprintf("kill -%d $$; exit 99", n))
		if e.Signal != int(n) || e.Code != 128+int(n) || e.Reason != mayfly.ExitedNonZero {
			t.Errorf("killed by %d: %+v", n, e)
		}
	}
	for _, n := range []syscall.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGSEGV} {
		if e := b.shell(t, b.Config, fmt.Sprintf("kill -%d $$", n)).exit; e.Signal != int(n) || e.Code != 128+int(n) || e.Reason != mayfly.ExitedNonZero {
			t.Errorf("main program killed by %d: %+v", n, e)
		}
	}
}

func cannotRun(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	for name, want := range map[string]syscall.Errno{
		"not-there": unix.ENOENT, "/bin/not-there": unix.ENOENT, "/plain": unix.EACCES, "/etc": unix.EACCES, "/plain/x": unix.ENOTDIR,
	} {
		_, err := s.Start(t.Context(), container.Program{Argv: []string{name}})
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	_, err := s.Start(t.Context(), container.Program{Argv: []string{"/bin/true"}, Dir: "/not-there"})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("a working directory that is not there: %v", err)
	}
	s.Fail(127, "no such program")
	<-s.Ended()
	if e := s.Exit(); e.Code != 127 || e.Signal != 0 || e.Detail != "no such program" {
		t.Errorf("exit %+v", e)
	}
}

// orphans: what is left to init when its parent ends is reaped.
func orphans(t *testing.T, b *Bed) {
	r := b.execute(t, b.Config, "/inside", "orphans", "20")
	if r.out != "orphaned 20\nreaped\n" || r.exit.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// reads waits until a program has written a line.
func (r *running) reads(t testing.TB, want string) {
	t.Helper()
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		k, err := r.out.Read(got[n:])
		if err != nil {
			t.Fatalf("%q, then %v; want %q", got[:n], err, want)
		}
		n += k
	}
	if string(got) != want {
		t.Fatalf("%q, want %q", got, want)
	}
}

// forwarded: a signal that init is sent reaches the main program.
func forwarded(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	r := start(t, s, "sh", "-c", "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while true; do sleep 0.01; done")
	r.reads(t, "ready\n")
	for _, c := range []struct {
		signal syscall.Signal
		says   string
	}{{unix.SIGHUP, "hup\n"}, {unix.SIGUSR1, "usr1\n"}, {unix.SIGTERM, "term\n"}} {
		if err := unix.Kill(pid(t, s), c.signal); err != nil {
			t.Fatal(err)
		}
		r.reads(t, c.says)
	}
	<-s.Ended()
	if s.Exit().Code != 9 {
		t.Errorf("exit %+v", s.Exit())
	}
}

func stopped(t *testing.T, b *Bed) {
	for _, c := range []struct {
		script string
		grace  time.Duration
		code   int
	}{
		{"trap 'exit 4' TERM; echo ready; while true; do sleep 0.01; done", time.Hour, 4},
		{"trap '' TERM; echo ready; cat", time.Millisecond, 137},
		{"echo ready; sleep 1000", time.Hour, 143},
	} {
		s := b.create(t, b.Config)
		r := start(t, s, "sh", "-c", c.script)
		r.reads(t, "ready\n")
		s.Blame(mayfly.Cancelled, "stopped")
		s.Stop(t.Context(), unix.SIGTERM, c.grace)
		<-s.Ended()
		if e := s.Exit(); e.Code != c.code || e.Reason != mayfly.Cancelled {
			t.Errorf("%s: %+v", c.script, e)
		}
		if s.Signal(t.Context(), nil, unix.SIGTERM) == nil {
			t.Error("a signal reached a sandbox that has ended")
		}
	}
	s := b.create(t, b.Config) // nothing was started in it
	s.Stop(t.Context(), unix.SIGTERM, time.Hour)
	<-s.Ended()

	s = b.create(t, b.Config) // who asks does not stay
	r := start(t, s, "sh", "-c", "trap 'echo asked' TERM; echo ready; while true; do sleep 0.01; done")
	r.reads(t, "ready\n")
	ctx, leave := context.WithCancel(t.Context())
	stayed := make(chan bool)
	go func() { stayed <- s.Stop(ctx, unix.SIGTERM, time.Hour) }()
	r.reads(t, "asked\n")
	leave()
	if <-stayed {
		t.Error("it is said to have ended")
	}
	if err := s.Signal(t.Context(), nil, unix.SIGTERM); err != nil {
		t.Errorf("it does not go on: %v", err)
	}
	r.reads(t, "asked\n")
	s.Kill()
	<-s.Ended()
}

// spawned: programs beside the main one have ends of their own, and do not
// outlive it.
func spawned(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	r := start(t, s, "sh", "-c", "echo ready; cat; exit 5")
	r.reads(t, "ready\n")
	if e := spawn(t, s, "sh", "-c", "exit 3"); e.Code != 3 {
		t.Errorf("spawned: %+v", e)
	}
	long, err := s.Spawn(t.Context(), container.Program{Argv: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	signalled, err := s.Spawn(t.Context(), container.Program{Argv: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(t.Context(), signalled, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-signalled.Done()
	if e := signalled.Exit(); e.Signal != int(unix.SIGTERM) {
		t.Errorf("signalled: %+v", e)
	}
	r.in.Close()
	<-s.Ended()
	<-long.Done()
	if e := long.Exit(); e.Signal != int(unix.SIGKILL) {
		t.Errorf("spawned and alive at the end: %+v", e)
	}
	if s.Exit().Code != 5 {
		t.Errorf("exit %+v", s.Exit())
	}
	if _, err := s.Spawn(t.Context(), container.Program{Argv: []string{"true"}}); err == nil {
		t.Error("a program was started in a container that has ended")
	}
}

func oneStart(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	if s.Main() != nil {
		t.Error("there is a main program before Start")
	}
	if _, err := s.Start(t.Context(), container.Program{Argv: []string{"sleep", "1000"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), container.Program{Argv: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "already started") {
		t.Errorf("a second start: %v", err)
	}
	if _, err := b.Host.Create(t.Context(), s.ID, b.Config); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second sandbox of the same name: %v", err)
	}
	s.Kill()
	<-s.Ended()
	if e := s.Exit(); e.Code != 137 || e.Signal != 9 || e.Reason != mayfly.ExitedNonZero {
		t.Errorf("killed: %+v", e)
	}
}
