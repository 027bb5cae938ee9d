package container

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// TestMountPoints looks at what making a container leaves in its writable
// layer, and at what its program finds, with images that have mount points,
// that have none, and that have something else in their place.
func TestMountPoints(t *testing.T) { withEachDriver(t, mountPoints) }

func mountPoints(t *testing.T, h *Host, c Config) {
	c.Hosts = []byte("127.0.0.1 here\n")
	for name, tt := range map[string]struct {
		image  func(t *testing.T, layer string) // on top of the plain one
		script string
		want   string
		made   []string // in the writable layer
	}{
		"plain": {
			script: "cat /etc/hosts; cat /etc/hostname; busybox ls -d /run/mayfly",
			want:   "127.0.0.1 here\nbox\n/run/mayfly\n",
		},
		"a link to what the image lacks": {
			image: func(t *testing.T, layer string) {
				must(t, os.Mkdir(layer+"/etc", 0o755))
				must(t, os.Symlink("../run/resolve/hosts", layer+"/etc/hosts"))
			},
			script: "busybox readlink /etc/hosts; cat /run/resolve/hosts",
			want:   "../run/resolve/hosts\n127.0.0.1 here\n",
			made:   []string{"run", "run/resolve", "run/resolve/hosts"},
		},
		"a directory that hides what is below": {
			image: func(t *testing.T, layer string) {
				must(t, os.Mkdir(layer+"/etc", 0o755))
				must(t, unix.Setxattr(layer+"/etc", "trusted.overlay.opaque", []byte("y"), 0))
			},
			script: "busybox ls /etc; cat /etc/hosts",
			want:   "hostname\nhosts\nresolv.conf\n127.0.0.1 here\n",
			made:   []string{"etc", "etc/hostname", "etc/hosts", "etc/resolv.conf"},
		},
		"run is a link": {
			image: func(t *testing.T, layer string) {
				must(t, os.Symlink("/tmp", layer+"/run"))
			},
			script: "busybox ls -d /tmp/mayfly; busybox ls /tmp",
			want:   "/tmp/mayfly\nmayfly\n",
			made:   []string{"tmp", "tmp/mayfly"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, layer := c, t.TempDir()
			if tt.image != nil {
				tt.image(t, layer)
			}
			c.Lower = append([]string{layer}, c.Lower...)
			s, err := h.Create(t.Context(), mayfly.NewID(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Remove()
			var made []string
			must(t, filepath.WalkDir(s.dir+"/upper", func(path string, _ os.DirEntry, err error) error {
				if rel := strings.TrimPrefix(path, s.dir+"/upper"); rel != "" {
					made = append(made, rel[1:])
				}
				return err
			}))
			if d := cmp.Diff(tt.made, made); d != "" {
				t.Errorf("the writable layer has (-want +have):\n%s", d)
			}
			r, w, err := os.Pipe()
			must(t, err)
			defer r.Close()
			_, err = s.Start(t.Context(), Program{Argv: []string{"sh", "-c", tt.script}, Stdout: w})
			w.Close()
			must(t, err)
			if out, err := io.ReadAll(r); err != nil || string(out) != tt.want {
				t.Errorf("output %q, %v, want %q", out, err, tt.want)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
