package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// TestManyLayers mounts roots whose options are more than the kernel takes as
// they stand, in a container's namespace and on the host.
func TestManyLayers(t *testing.T) {
	b := newBuilder(t)
	crun, err := NewOCI("crun", b.dir+"/runtime")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		layers int
		prefix string // of a layer's directory
	}{
		{"long names", 100, strings.Repeat("l", 200) + "/" + strings.Repeat("d", 200)},
		{"as many as there can be", maxLayers - 1, "snapshots/snapshots/"},
		{"names that mean something to overlayfs", 2, `a:b,c\d,upperdir=`},
	} {
		root := t.TempDir()
		var lower []string
		for i := range c.layers {
			dir := filepath.Join(root, c.prefix+strconv.Itoa(i))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string]string{"top": strconv.Itoa(i), "f" + strconv.Itoa(i): ""} {
				if err := os.WriteFile(dir+"/"+name, []byte(data), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			lower = append(lower, dir)
		}
		for _, d := range []Driver{b.native(t), crun} {
			t.Run(c.name+"/"+d.Name(), func(t *testing.T) {
				bundle := b.bundle(t, &Config{Hostname: "box"}, "cat /top >&3; echo >&3; /bin/busybox ls / | /bin/busybox grep -c '^f' >&3; echo > /new")
				bundle.Rootfs.Lower = append(lower, b.lower...)
				bundle.Rootfs.Volatile = true
				if out, _ := output(t, d, bundle); out != fmt.Sprintf("0\n%d\n", c.layers) {
					t.Errorf("output %q", out)
				}
				if _, err := os.Stat(bundle.Rootfs.Upper + "/new"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestTooManyLayers(t *testing.T) {
	for n, want := range map[int]string{
		0:             "no root filesystem",
		maxLayers + 1: "the image has 501 layers and the kernel mounts 500",
	} {
		_, _, err := Rootfs{Lower: make([]string, n)}.mountData(t.TempDir())
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%d layers: %v", n, err)
		}
	}
}
