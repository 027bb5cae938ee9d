package container

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// TestShowFile: a program reads a file of the host by its name and as its
// standard input, even when the host has unlinked it, and cannot change it.
func TestShowFile(t *testing.T) {
	withEachDriver(t, func(t *testing.T, h *Host, c Config) {
		for _, user := range []User{{}, {UID: 1000, GID: 1000}} {
			c.User = user
			path := filepath.Join(t.TempDir(), "large")
			data := bytes.Repeat([]byte("mayfly\n"), 300_000)
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := h.Create(t.Context(), mayfly.NewID(), c)
			if err != nil {
				t.Fatal(err)
			}
			in, err := s.ShowFile("payload", f)
			if err != nil {
				t.Fatal(err)
			}
			if user.UID != 0 {
				os.Remove(path)
			}
			script := `/bin/busybox cmp - /run/mayfly/payload || exit 1
echo x 2>/dev/null >>/run/mayfly/payload && exit 2
echo x 2>/dev/null >>/proc/self/fd/0 && exit 3
echo x 2>/dev/null 1<>/dev/stdin && exit 4
/bin/busybox rm -f /run/mayfly/payload 2>/dev/null && exit 5
/bin/busybox wc -c </run/mayfly/payload; /bin/busybox cat /dev/stdin | /bin/busybox wc -c`
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.Start(t.Context(), Program{Argv: []string{"sh", "-c", script}, Stdin: in, Stdout: w})
			w.Close()
			in.Close()
			if err != nil {
				t.Fatal(err)
			}
			out := new(bytes.Buffer)
			out.ReadFrom(r)
			r.Close()
			<-p.Done()
			if e := p.Exit(); e.Code != 0 || out.String() != "2100000\n2100000\n" {
				t.Errorf("as %+v: %+v, %q", user, e, out)
			}
			now, err := os.ReadFile(f.Name())
			if user.UID == 0 && (err != nil || !bytes.Equal(now, data)) {
				t.Errorf("the host's file changed: %d bytes, %v", len(now), err)
			}
			<-s.Ended()
			s.Remove()
			f.Close()
		}
	})
}
