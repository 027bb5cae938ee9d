package containertest

import (
	"bytes"
	"os"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// replaced: a file that is mounted by itself is replaced as a whole while programs
// run, by a later daemon too; and a program that moves its directory, and lays a
// link in its place, has nothing else replaced or unmounted.
func replaced(t *testing.T, b *Bed) {
	file := b.dir + "/key"
	put := func(text string) func() error {
		return func() error {
			if err := os.WriteFile(file+".new", []byte(text), 0o440); err != nil {
				return err
			}
			return os.Rename(file+".new", file)
		}
	}
	if err := put("zero")(); err != nil {
		t.Fatal(err)
	}
	const at = "/etc/app/interrupts"
	c := b.Config
	c.Mounts = []mayfly.Mount{{Type: "bind", Source: file, Target: at, ReadOnly: true}}
	s := b.create(t, c)
	begin(t, s, "sleep", "1000")
	const show = "cat " + at + "; (echo x >" + at + ") 2>/dev/null && echo written; true"
	saysOf(t, s, show, "zero")
	for _, text := range []string{"one", "two, which is longer", "3"} {
		if err := s.ReplaceMounted(at, file, put(text)); err != nil {
			t.Fatal(err)
		}
		saysOf(t, s, show, text)
	}
	t.Logf("mounts there after three changes: %s", outputOf(t, s, "grep -c ' "+at+" ' /proc/self/mountinfo"))
	next := b.open(t)
	stop := b.run(next)
	defer stop()
	a, err := next.Adopt(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ReplaceMounted(at, file, put("late")); err != nil {
		t.Fatal(err)
	}
	saysOf(t, a, show, "late")

	const masked = "stat -c '%t:%T' /proc/interrupts; grep -c ' /proc/interrupts ' /proc/self/mountinfo"
	before := outputOf(t, a, masked)
	saysOf(t, a, "busybox mv /etc/app /etc/old && busybox ln -s /proc /etc/app && echo moved", "moved\n")
	if err := a.ReplaceMounted(at, file, put("lost")); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("replaced in a directory that was moved away: %v", err)
	}
	if after := outputOf(t, a, masked); after != before {
		t.Errorf("/proc/interrupts was %q and is %q", before, after)
	}
	saysOf(t, a, "cat /etc/old/interrupts", "late")
	a.Remove()
	<-a.Ended()
	<-s.Ended()
}

// outputOf is what a script writes that runs beside the main program.
func outputOf(t testing.TB, s *container.Sandbox, script string) string {
	t.Helper()
	r, w, err := s.Pipe(false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := s.Spawn(t.Context(), container.Program{Argv: []string{"sh", "-c", script}, Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	return out.String()
}

func saysOf(t testing.TB, s *container.Sandbox, script, want string) {
	t.Helper()
	if got := outputOf(t, s, script); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
