package containertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// memory: the limit holds, and a larger one may be set while it runs.
func memory(t *testing.T, b *Bed) {
	c := b.Config
	c.Resources.Memory = 64 << 20
	if r := b.execute(t, c, "/inside", "memory", fmt.Sprint(32<<20)); r.out != "taken\n" {
		t.Errorf("half of the limit: %+v", r)
	}
	if r := b.execute(t, c, "/inside", "memory", fmt.Sprint(128<<20)); r.exit.Reason != mayfly.OutOfMemory {
		t.Errorf("twice the limit: %+v", r)
	}
	s := b.create(t, c)
	if err := s.SetMemory(256 << 20); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Stats(); err != nil || st.MemoryMax != 256<<20 || st.Memory <= 0 || st.Pids < 1 {
		t.Errorf("%+v, %v", st, err)
	}
	r := start(t, s, "/inside", "memory", fmt.Sprint(128<<20))
	if out, err := r.output(); err != nil || out.out != "taken\n" {
		t.Errorf("below the new limit: %+v, %v", out, err)
	}
}

// outOfMemory is told apart from a program that is killed or exits with 137.
func outOfMemory(t *testing.T, b *Bed) {
	c := b.Config
	c.Resources.Memory = 32 << 20
	for _, tt := range []struct {
		script string
		code   int
		reason mayfly.Reason
	}{
		{"exec /inside memory 134217728", 137, mayfly.OutOfMemory},
		{"kill -9 $$", 137, mayfly.ExitedNonZero},
		{"exit 137", 137, mayfly.ExitedNonZero},
		{"/inside memory 134217728; exit 137", 137, mayfly.ExitedNonZero},
		{"/inside memory 134217728; exit 0", 0, mayfly.Succeeded},
	} {
		if e := b.shell(t, c, tt.script).exit; e.Code != tt.code || e.Reason != tt.reason {
			t.Errorf("%s: %+v", tt.script, e)
		}
	}
}

// processor: a program that wants more than its share is made to wait.
func processor(t *testing.T, b *Bed) {
	c := b.Config
	c.Resources.CPUs = 0.1
	s := b.create(t, c)
	begin(t, s, "/inside", "spin")
	for {
		st, err := s.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if st.Throttled > 0 && st.CPU > 0 {
			break
		}
	}
	s.Kill()
	<-s.Ended()
}

func processes(t *testing.T, b *Bed) {
	c := b.Config
	c.Resources.Pids = 40
	r := b.execute(t, c, "/inside", "threads")
	var n int
	if _, err := fmt.Sscan(r.out, &n); err != nil || n < 5 || n >= 40 || !strings.Contains(r.out, "resource temporarily unavailable") {
		t.Errorf("of 40 processes and threads: %+v, %v", r, err)
	}
}

func openFiles(t *testing.T, b *Bed) {
	c := b.Config
	c.Resources.Files = 50
	r := b.execute(t, c, "/inside", "files")
	var n int
	if _, err := fmt.Sscan(r.out, &n); err != nil || n < 30 || n >= 50 || !strings.Contains(r.out, "too many open files") {
		t.Errorf("of 50 files: %+v, %v", r, err)
	}
}

func tmpfs(t *testing.T, b *Bed) {
	c := b.Config
	c.Mounts = []mayfly.Mount{{Type: "tmpfs", Target: "/scratch", Size: 1 << 20}, {Type: "tmpfs", Target: "/new/place"}}
	c.User = container.User{UID: 1000, GID: 1000}
	r := b.shell(t, c, "dd if=/dev/zero of=/scratch/a bs=1024 count=512 2>&1 && dd if=/dev/zero of=/scratch/b bs=1024 count=1024 2>&1; echo x >/new/place/x && echo written")
	if r.exit.Code != 0 || !strings.Contains(r.out, "512+0 records out") || !strings.Contains(r.out, "No space left") || !strings.HasSuffix(r.out, "written\n") {
		t.Errorf("%+v", r)
	}
}
