package containertest

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"golang.org/x/sys/unix"
)

// logOf is what each program of a sandbox wrote, by name.
func logOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := container.ReadLog(t.Context(), dir, mayfly.LogOptions{Tail: -1}, nil, func(e mayfly.LogEntry) error {
		got[e.Process] += string(e.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func named(t testing.TB, s *container.Sandbox, name string, argv ...string) *container.Process {
	t.Helper()
	p, err := s.Spawn(t.Context(), container.Program{Name: name, Argv: argv})
	if err != nil {
		t.Fatalf("spawn %q as %s: %v", argv, name, err)
	}
	return p
}

// namedPrograms: what a program with a name writes is marked with it, in the
// log, for who is attached, and where the log is kept.
func namedPrograms(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	begun, passed := make(chan struct{}), make(chan map[string]string, 1)
	go func() {
		got := map[string]string{}
		s.Attach(t.Context(), func() { close(begun) }, func(e mayfly.LogEntry) error {
			got[e.Process] += string(e.Data)
			return nil
		})
		passed <- got
	}()
	<-begun
	for _, p := range []*container.Process{
		named(t, s, "web", "sh", "-c", "echo web; echo bad >&2"),
		named(t, s, "cron", "sh", "-c", "echo cron; exit 4"),
		named(t, s, "", "echo", "neither"),
	} {
		<-p.Done()
	}
	again := named(t, s, "web", "echo", "again")
	<-again.Done()
	if _, err := s.Spawn(t.Context(), container.Program{Name: "two\nlines", Argv: []string{"true"}}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a name of two lines: %v", err)
	}
	r := start(t, s, "sh", "-c", "echo main >/proc/self/fd/2")
	r.in.Close()
	<-s.Ended()
	kept := t.TempDir() + "/kept"
	at := <-passed
	before := logOf(t, s.Dir())
	if err := s.KeepLog(kept); err != nil {
		t.Fatal(err)
	}
	for where, got := range map[string]map[string]string{"attached": at, "log": before, "kept": logOf(t, kept)} {
		for name, want := range map[string]string{"web": "web\nbad\nagain\n", "cron": "cron\n", "": "neither\n"} {
			if name == "web" && strings.HasPrefix(got[name], "bad\nweb\n") {
				want = "bad\nweb\nagain\n" // two pipes
			}
			if got[name] != want {
				t.Errorf("%s: %q wrote %q, want %q", where, name, got[name], want)
			}
		}
	}
}

// onlySpawned: a container without a main program lives until it is stopped, a
// later daemon knows which of its programs run and how others ended, can end
// them, and is told.
func onlySpawned(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	named(t, s, "lives", "sh", "-c", "trap 'exit 7' TERM; echo up; while true; do sleep 0.1; done")
	named(t, s, "other", "sleep", "1000")
	named(t, s, "", "sleep", "1000")
	<-named(t, s, "gone", "sh", "-c", "exit 3").Done()
	<-named(t, s, "gone", "sh", "-c", "exit 4").Done()
	<-named(t, s, "", "sh", "-c", "exit 5").Done()

	next := b.open(t)
	stop := b.run(next)
	defer stop()
	a, err := next.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if a.Main() != nil {
		t.Error("there is a main program")
	}
	found := map[string]*container.Process{}
	for _, p := range a.Spawned() {
		if found[p.Name()] != nil {
			t.Errorf("%q is there twice", p.Name())
		}
		found[p.Name()] = p
	}
	for _, name := range []string{"lives", "other", ""} {
		select {
		case <-found[name].Done():
			t.Errorf("%q has ended", name)
		default:
		}
	}
	<-found["gone"].Done()
	if e := found["gone"].Exit(); e.Code != 4 || e.Time.IsZero() {
		t.Errorf("ended before: %+v", e)
	}
	if err := a.Signal(t.Context(), found["other"], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-found["other"].Done()
	if e := found["other"].Exit(); e.Signal != int(unix.SIGKILL) {
		t.Errorf("killed by the second daemon: %+v", e)
	}
	<-named(t, a, "other", "true").Done()
	a.Blame(mayfly.Cancelled, "it was stopped")
	a.Stop(t.Context(), unix.SIGTERM, time.Hour)
	<-a.Ended()
	<-s.Ended()
	if e := found["lives"].Exit(); e.Code != 7 {
		t.Errorf("asked to end: %+v", e)
	}
	if e := a.Exit(); e.Reason != mayfly.Cancelled {
		t.Errorf("the container's exit: %+v", e)
	}
	late, err := b.open(t).Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	<-late.Ended()
	ends := map[string]int{}
	for _, p := range late.Spawned() {
		ends[p.Name()] = p.Exit().Code
	}
	if len(ends) != 3 || ends["lives"] != 7 || ends["other"] != 0 || ends["gone"] != 4 {
		t.Errorf("seen late: %v", ends)
	}
	if e := late.Exit(); e.Reason != mayfly.Lost {
		t.Errorf("the container's exit, seen late: %+v", e)
	}
	late.Remove()
}

// joined: a container in the network of another meets it there, keeps the
// network when the other ends, and is adopted like any other.
func joined(t *testing.T, b *Bed) {
	c := b.Config
	c.NetNS = netNS(t)
	first := b.create(t, c)
	begin(t, first, "/inside", "listen", "127.0.0.1:8080", "hi")
	file, err := first.NetNS()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := namespace(t, file), namespace(t, c.NetNS); got != want {
		t.Fatalf("the file is of %s, the container is in %s", got, want)
	}
	c.NetNS, c.Hostname = file, "beside"
	second := b.create(t, c)
	file.Close()
	begin(t, second, "sleep", "1000")
	next := b.open(t)
	stop := b.run(next)
	defer stop()
	a, err := next.Adopt(second.ID)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := a.Dial(t.Context(), 8080, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "hi" {
		t.Errorf("%q, %v", got, err)
	}
	first.Kill()
	<-first.Ended()
	if _, err := first.NetNS(); err == nil {
		t.Error("the namespace of a container that has ended was opened")
	}
	if e := spawn(t, a, "true"); e.Code != 0 {
		t.Errorf("beside a container that has ended: %+v", e)
	}
	a.Remove()
	<-a.Ended()
	<-second.Ended()
}

// otherUsers: root's container runs a program as anybody, without root's
// capabilities, and another's only as that one.
func otherUsers(t *testing.T, b *Bed) {
	const script = "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Amb)|NoNewPrivs' /proc/self/status; echo to-its-stream >/proc/self/fd/1; kill -0 1 && echo may kill init"
	s := b.create(t, b.Config)
	ann, err := s.LookupUser("ann")
	if err != nil || ann.UID != 1000 || len(ann.Groups) != 1 {
		t.Fatalf("%+v, %v", ann, err)
	}
	r, w, err := container.PipeFor(ann, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := s.Spawn(t.Context(), container.Program{Argv: []string{"sh", "-c", script}, User: &ann, Stdout: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	out, err := io.ReadAll(r)
	const want = "1000\n1000\n1000 44\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nto-its-stream\n"
	if err != nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
	if _, err := s.LookupUser("nobody-there"); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a user who is not there: %v", err)
	}
	if e := spawn(t, s, "sh", "-c", "busybox rm /etc/passwd && busybox mkfifo /etc/passwd"); e.Code != 0 {
		t.Errorf("no fifo: %+v", e)
	} else if _, err := s.LookupUser("ann"); mayfly.KindOf(err) != mayfly.Invalid { // and it does not wait for the fifo
		t.Errorf("users in a fifo: %v", err)
	}
	c := b.Config
	c.User = ann
	s = b.create(t, c)
	for _, u := range []container.User{{}, {UID: 1000}, {UID: 7, GID: 7}} {
		if _, err := s.Spawn(t.Context(), container.Program{Argv: []string{"true"}, User: &u}); mayfly.KindOf(err) != mayfly.Denied {
			t.Errorf("ann's program as %+v: %v", u, err)
		}
	}
	own, err := s.Spawn(t.Context(), container.Program{Argv: []string{"true"}, User: &ann})
	if err != nil {
		t.Fatal(err)
	}
	<-own.Done()
}
