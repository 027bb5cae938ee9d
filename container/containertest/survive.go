package containertest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// adopted: what a daemon has made, the next one goes on with: a container that
// runs, one that ended meanwhile, one that waits.
func adopted(t *testing.T, b *Bed) {
	c := b.Config
	c.Env = []string{"COLOR=blue"}
	s := b.create(t, c)
	r := start(t, s, "sh", "-c", "echo begun >/proc/self/fd/2; cat; exit 3")
	next := b.open(t)
	stop := b.run(next)
	defer stop()
	a, err := next.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if a.Main() == nil {
		t.Fatal("the main program is not known")
	}
	if e := spawn(t, a, "sh", "-c", "test $COLOR = blue && exit 8"); e.Code != 8 {
		t.Errorf("spawned by the second daemon: %+v", e)
	}
	ready := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		result <- a.Attach(t.Context(), func() { close(ready) }, func(mayfly.LogEntry) error { return nil })
	}()
	<-ready
	if _, err := r.in.WriteString("piped\n"); err != nil {
		t.Fatal(err)
	}
	if out, err := r.output(); err != nil || out.out != "piped\n" {
		t.Errorf("%+v, %v", out, err)
	}
	for _, one := range []*container.Sandbox{s, a} {
		<-one.Ended()
		if one.Exit().Code != 3 {
			t.Errorf("exit %+v", one.Exit())
		}
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	third := b.open(t)
	late, err := third.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	<-late.Ended()
	if late.Exit().Code != 3 || late.Exit().Reason != mayfly.ExitedNonZero {
		t.Errorf("exit, seen late: %+v", late.Exit())
	}
	b.adoptWaiting(t)
	a.Remove()
}

func (b *Bed) adoptWaiting(t *testing.T) {
	s := b.create(t, b.Config)
	next := b.open(t)
	stop := b.run(next)
	defer stop()
	a, err := next.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if a.Main() != nil {
		t.Error("a sandbox that waits has a main program")
	}
	p, err := a.Start(t.Context(), container.Program{Argv: []string{"sh", "-c", "exit 6"}})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	<-s.Ended()
	<-a.Ended()
	if a.Exit().Code != 6 {
		t.Errorf("exit %+v", a.Exit())
	}
	if _, err := next.Adopt("never-made"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("what was never made: %v", err)
	}
}

// discarded: a later daemon gets rid of what it does not want.
func discarded(t *testing.T, b *Bed) {
	waits, runs, ended := b.create(t, b.Config), b.create(t, b.Config), b.create(t, b.Config)
	begin(t, runs, "sleep", "1000")
	begin(t, ended, "true")
	<-ended.Ended()
	b.stop() // the earlier daemon is no more
	defer func() { b.stop = b.run(b.Host) }()
	next := b.open(t)
	for _, s := range []*container.Sandbox{waits, runs, ended} {
		if err := next.Discard(s.ID); err != nil {
			t.Errorf("discard: %v", err)
		}
		<-s.Ended()
		if _, err := os.Stat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory is still there: %v", err)
		}
		if err := next.Discard(s.ID); err != nil {
			t.Errorf("discard again: %v", err)
		}
	}
}

// halfMade: of a sandbox that cannot be made nothing is left.
func halfMade(t *testing.T, b *Bed) {
	mount := func(m mayfly.Mount) func(*container.Config) {
		return func(c *container.Config) { c.Mounts = []mayfly.Mount{m} }
	}
	file := b.dir + "/image/plain"
	for name, change := range map[string]func(*container.Config){
		"no such mount source":      mount(mayfly.Mount{Type: "bind", Source: "/not/there", Target: "/data"}),
		"a file for a directory":    mount(mayfly.Mount{Type: "bind", Source: file, Target: "/etc"}),
		"a mount below a file":      mount(mayfly.Mount{Type: "tmpfs", Target: "/plain/below"}),
		"a mount over a process":    mount(mayfly.Mount{Type: "bind", Source: b.dir, Target: "/proc/self"}),
		"a mount that is too small": mount(mayfly.Mount{Type: "tmpfs", Target: "/data", Size: -1 << 40}),
		"a file to work in":         func(c *container.Config) { c.WorkDir = "/plain" },
		"no layers":                 func(c *container.Config) { c.Lower = nil },
		"no such layer":             func(c *container.Config) { c.Lower = []string{"/not/there"} },
		"no such layer below":       func(c *container.Config) { c.Lower = append(c.Lower[:1:1], "/not/there") },
		"a layer that is a file":    func(c *container.Config) { c.Lower = append(c.Lower[:1:1], file) },
		"a very long name":          func(c *container.Config) { c.Hostname = strings.Repeat("x", 100) },
		"no memory":                 func(c *container.Config) { c.Resources.Memory = 4096 },
		"a file with a path":        func(c *container.Config) { c.Files = map[string][]byte{"no/such/path": nil} },
		"a closed network":          func(c *container.Config) { c.NetNS = closed(t) },
	} {
		c := b.Config
		change(&c)
		s, err := b.Host.Create(t.Context(), mayfly.NewID(), c)
		if err == nil {
			known := name == "a mount that is too small" || // the kernel takes it as none
				name == "a mount over a process" && b.Driver.Name() == "crun" // it mounts on procfs
			if !known {
				t.Errorf("%s: created", name)
			}
			s.Remove()
			<-s.Ended()
			continue
		}
		if ctxErr := t.Context().Err(); ctxErr != nil {
			t.Fatal(ctxErr)
		}
	}
	b.settle()
	for _, what := range b.left(t) {
		t.Errorf("left over: %s", what)
	}
}

// closed is a file that is no namespace any more.
func closed(t *testing.T) *os.File {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// settle waits until what was removed is gone: the host does it when it stops.
func (b *Bed) settle() {
	b.stop()
	b.stop = b.run(b.Host)
}

// cancelled: a Create that is given up leaves nothing behind either.
func cancelled(t *testing.T, b *Bed) {
	for i := range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		if i == 0 {
			cancel()
		} else {
			go cancel()
		}
		if s, err := b.Host.Create(ctx, mayfly.NewID(), b.Config); err == nil {
			s.Remove()
			<-s.Ended()
		}
		cancel()
	}
	b.settle()
	for _, what := range b.left(t) {
		t.Errorf("left over: %s", what)
	}
}

// churn: many containers, one after the other, leave nothing behind.
func churn(t *testing.T, b *Bed) {
	n := 200
	if b.Driver.Name() != "native" {
		n = 25 // a runtime takes its time
	}
	descriptors := openDescriptors(t)
	for range n {
		s, err := b.Host.Create(t.Context(), mayfly.NewID(), b.Config)
		if err != nil {
			t.Fatal(err)
		}
		begin(t, s, "true")
		s.Remove()
		<-s.Ended()
	}
	b.settle()
	for _, what := range b.left(t) {
		t.Errorf("left over: %s", what)
	}
	if now := openDescriptors(t); now > descriptors+5 {
		t.Errorf("%d descriptors are open, %d were before", now, descriptors)
	}
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// atOnce: containers that are made at the same time do not mix.
func atOnce(t *testing.T, b *Bed) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 4 {
				id := mayfly.NewID()
				c := b.Config
				c.Hostname = "h" + id
				s, err := b.Host.Create(t.Context(), id, c)
				if err != nil {
					t.Error(err)
					return
				}
				p, err := s.Start(t.Context(), container.Program{Argv: []string{"sh", "-c", "hostname >&2; hostname >/mine; cat /mine"}})
				if err != nil {
					t.Error(err)
					return
				}
				<-p.Done()
				var out bytes.Buffer
				err = container.ReadLog(t.Context(), s.Dir(), mayfly.LogOptions{Tail: -1}, nil, func(e mayfly.LogEntry) error {
					out.Write(e.Data)
					return nil
				})
				if want := strings.Repeat(c.Hostname+"\n", 2); err != nil || out.String() != want {
					t.Errorf("%q, %v; want %q", out.String(), err, want)
				}
				s.Remove()
			}
		})
	}
	wg.Wait()
}
