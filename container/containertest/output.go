package containertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

const tenMB = 10 << 20

// flooded checks what "inside flood" wrote on stream n: all of it, or with
// tail only that what there is ends as it should and has no holes.
func flooded(t testing.TB, got []byte, n, size int, tail bool) {
	t.Helper()
	count := size / 64
	first := 0
	if tail {
		if i := bytes.IndexByte(got, '\n'); i >= 0 && i != 63 {
			got = got[i+1:]
		}
		first = count - len(got)/64
	}
	if len(got)%64 != 0 || len(got) < 64 || !tail && len(got) != size {
		t.Errorf("stream %d: %d bytes of %d", n, len(got), size)
		return
	}
	for i := first; i < count; i++ {
		if want := fmt.Sprintf("%d %-61d\n", n, i); !bytes.HasPrefix(got, []byte(want)) {
			t.Errorf("stream %d, line %d: %q", n, i, got[:64])
			return
		}
		got = got[64:]
	}
}

// streams: the standard streams are kept apart, and nothing is lost.
func streams(t *testing.T, b *Bed) {
	r := b.execute(t, b.Config, "/inside", "flood", fmt.Sprint(tenMB))
	flooded(t, []byte(r.out), 1, tenMB, false)
	flooded(t, []byte(r.err), 2, tenMB, false)

	s := b.create(t, b.Config)
	p := start(t, s, "cat")
	in := bytes.Repeat([]byte("all of what is written arrives\n"), 100_000)
	go func() {
		p.in.Write(in)
		p.in.Close()
	}()
	out, err := io.ReadAll(p.out)
	if err != nil || !bytes.Equal(out, in) {
		t.Errorf("%d bytes of %d came back, %v", len(out), len(in), err)
	}
	<-s.Ended()

	if r := b.shell(t, b.Config, "cat; echo out; echo err >&2; echo named >/dev/stderr"); r.out != "out\n" || r.err != "err\nnamed\n" {
		t.Errorf("%+v", r)
	}
	user := b.Config
	user.User = container.User{UID: 1000, GID: 1000}
	if r := b.shell(t, user, "echo out >/dev/stdout; echo err >/proc/self/fd/2"); r.out != "out\n" || r.err != "err\n" {
		t.Errorf("by name, as a user: %+v", r)
	}
}

// readLog gives what is in a log, by stream.
func readLog(t testing.TB, dir string, o mayfly.LogOptions, ended <-chan struct{}) map[string]string {
	t.Helper()
	all := make(map[string]string)
	var b = map[string]*bytes.Buffer{"stdout": {}, "stderr": {}}
	err := container.ReadLog(t.Context(), dir, o, ended, func(e mayfly.LogEntry) error {
		b[e.Stream].Write(e.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for s, text := range b {
		all[s] = text.String()
	}
	return all
}

// begin starts a main program whose output is logged.
func begin(t testing.TB, s *container.Sandbox, argv ...string) *container.Process {
	t.Helper()
	p, err := s.Start(t.Context(), container.Program{Argv: argv})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func logged(t *testing.T, b *Bed) {
	c := b.Config
	c.LogMax = 64 << 20
	s := b.create(t, c)
	begin(t, s, "/inside", "flood", fmt.Sprint(tenMB))
	<-s.Ended()
	got := readLog(t, s.Dir(), mayfly.LogOptions{Tail: -1}, nil)
	flooded(t, []byte(got["stdout"]), 1, tenMB, false)
	flooded(t, []byte(got["stderr"]), 2, tenMB, false)
	last := readLog(t, s.Dir(), mayfly.LogOptions{Tail: 3}, nil)
	if n := strings.Count(last["stdout"], "\n") + strings.Count(last["stderr"], "\n"); n != 3 {
		t.Errorf("the last 3 lines are %d", n)
	}
	kept := t.TempDir() + "/kept"
	if err := s.KeepLog(kept); err != nil {
		t.Fatal(err)
	}
	if again := readLog(t, kept, mayfly.LogOptions{Tail: -1}, nil); again["stdout"] != got["stdout"] {
		t.Error("the log that was kept is another")
	}
	quiet := b.create(t, c)
	begin(t, quiet, "true")
	<-quiet.Ended()
	if err := quiet.KeepLog(kept + "2"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept + "2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty log was kept: %v", err)
	}
}

// logBounds: however much is written, the log takes no more than LogMax, and
// holds the newest.
func logBounds(t *testing.T, b *Bed) {
	c := b.Config
	c.LogMax = 512 << 10
	s := b.create(t, c)
	begin(t, s, "sh", "-c", "/inside flood 4194304 2>/dev/null")
	<-s.Ended()
	var size int64
	for _, f := range []string{"/log.0", "/log.1"} {
		st, err := os.Stat(s.Dir() + f)
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	if size > c.LogMax {
		t.Errorf("the log takes %d bytes of at most %d", size, c.LogMax)
	}
	got := readLog(t, s.Dir(), mayfly.LogOptions{Tail: -1}, nil)["stdout"]
	if len(got) < int(c.LogMax)/3 {
		t.Errorf("only %d bytes are left of a log that may have %d", len(got), c.LogMax)
	}
	flooded(t, []byte(got), 1, 4<<20, true)
}

func followed(t *testing.T, b *Bed) {
	c := b.Config
	c.LogMax = 64 << 20
	s := b.create(t, c)
	begin(t, s, "/inside", "flood", "1048576")
	got := readLog(t, s.Dir(), mayfly.LogOptions{Tail: -1, Follow: true}, s.Ended())
	flooded(t, []byte(got["stdout"]), 1, 1<<20, false)
	flooded(t, []byte(got["stderr"]), 2, 1<<20, false)

	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	waits := b.create(t, c)
	begin(t, waits, "sh", "-c", "echo one; sleep 1000")
	err := container.ReadLog(ctx, waits.Dir(), mayfly.LogOptions{Tail: -1, Follow: true}, waits.Ended(), func(e mayfly.LogEntry) error {
		cancel(enough)
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("following ended with %v", err)
	}
}

// attached: who attaches before the start misses nothing.
func attached(t *testing.T, b *Bed) {
	s := b.create(t, b.Config)
	ready, result := make(chan struct{}), make(chan error, 1)
	var out, errs bytes.Buffer
	go func() {
		result <- s.Attach(t.Context(), func() { close(ready) }, func(e mayfly.LogEntry) error {
			if e.Stream == "stderr" {
				errs.Write(e.Data)
			} else {
				out.Write(e.Data)
			}
			return nil
		})
	}()
	<-ready
	begin(t, s, "/inside", "flood", fmt.Sprint(tenMB))
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	flooded(t, out.Bytes(), 1, tenMB, false)
	flooded(t, errs.Bytes(), 2, tenMB, false)
}
