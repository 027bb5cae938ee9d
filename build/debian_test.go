package build

import (
	"archive/tar"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

func TestServesRelease(t *testing.T) {
	tests := []struct {
		text string
		want bool
	}{
		{"deb http://a.example/debian bookworm main\n", true},
		{"deb [signed-by=/x] http://a.example/debian bookworm-updates main\n", true},
		{"Types: deb\nURIs: http://a.example\nSuites: bookworm bookworm-updates\n", true},
		{"deb http://a.example/security bookworm/updates main\n", true},
		{"# deb http://a.example/debian bookworm main\n", false},
		{"deb http://a.example/node nodistro main\n", false},
		{"deb http://a.example/x sdk-bookworm main\n", false},
		{"", false},
	}
	for _, tt := range tests {
		if got := servesRelease(tt.text, "bookworm"); got != tt.want {
			t.Errorf("servesRelease(%q) = %v", tt.text, got)
		}
	}
}

func TestAptSources(t *testing.T) {
	dir := write(t,
		"sources.list", "# moved to sources.list.d\n", "sources.list.d/debian.sources", "Suites: trixie trixie-updates\n",
		"sources.list.d/a.list", "deb http://a.example/debian trixie main\n", "sources.list.d/other.list", "deb http://a.example x main\n",
		"sources.list.d/off.disabled", "deb http://a.example trixie main\n",
	)
	got, err := aptSources(dir, "trixie")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "sources.list.d/a.list"), filepath.Join(dir, "sources.list.d/debian.sources")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadRelease(t *testing.T) {
	dir := write(t, "deb", "ID=debian\nVERSION_CODENAME=bookworm\n", "quoted", "ID=\"debian\"\nVERSION_CODENAME='trixie'\n", "none", "ID=arch\n")
	for name, want := range map[string]string{"deb": "bookworm", "quoted": "trixie", "none": "", "absent": ""} {
		r, err := readRelease(filepath.Join(dir, name))
		if r.Codename != want || (err == nil) != (want != "") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if err != nil && mayfly.KindOf(err) != mayfly.Unavailable {
			t.Errorf("%s: kind %s", name, mayfly.KindOf(err))
		}
	}
}

// With a program in mmdebstrap's place: what a user sees of its failures, and
// that it and its children are gone when the caller is.
func TestMmdebstrapFails(t *testing.T) {
	store := openStore(t)
	run := func(ctx context.Context, t *testing.T, script string, opts Options) error {
		dir := t.TempDir()
		if script != "" {
			if err := os.WriteFile(filepath.Join(dir, "mmdebstrap"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
		opts.TempDir = t.TempDir()
		if err := os.Mkdir(filepath.Join(opts.TempDir, "mayfly-stack-left"), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := NewStacks(store, opts).Build(ctx, "debian", nil)
		left, readErr := os.ReadDir(opts.TempDir)
		if readErr != nil || len(left) != 0 {
			t.Errorf("left in the folder for the build: %v, %v", left, readErr)
		}
		return err
	}
	t.Run("missing", func(t *testing.T) {
		err := run(t.Context(), t, "", Options{})
		if want := "building stack debian needs mmdebstrap; apt-get install mmdebstrap"; err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
	})
	t.Run("says why", func(t *testing.T) {
		err := run(t.Context(), t, "echo I: begin >&2\necho E: no space left >&2\necho I: end >&2\nexit 1", Options{})
		if want := "building stack debian: mmdebstrap: no space left"; err == nil || err.Error() != want || mayfly.KindOf(err) != mayfly.Failed {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no tar", func(t *testing.T) {
		err := run(t.Context(), t, "echo this is no tar", Options{})
		if mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		fifo := filepath.Join(t.TempDir(), "started")
		started := make(chan []byte, 1)
		if out, err := exec.Command("/usr/bin/mkfifo", fifo).CombinedOutput(); err != nil {
			t.Fatalf("mkfifo: %v: %s", err, out)
		}
		go func() {
			data, _ := os.ReadFile(fifo) // empty where it fails, which the test sees
			started <- data
			cancel()
		}()
		// A child of the child outlives neither, in a session of its own.
		err := run(ctx, t, "/usr/bin/setsid /bin/sh -c 'read -r pid rest </proc/self/stat; echo $pid > "+fifo+"; exec /bin/sleep 1000' &\nwait", Options{})
		if err != context.Canceled {
			t.Errorf("got %v", err)
		}
		gone(t, strings.TrimSpace(string(<-started)))
	})
	t.Run("too long", func(t *testing.T) {
		err := run(t.Context(), t, "exec /bin/sleep 1000", Options{Timeout: 50 * time.Millisecond})
		if want := "building stack debian took longer than 50ms"; err == nil || err.Error() != want || mayfly.KindOf(err) != mayfly.TimedOut {
			t.Errorf("got %v", err)
		}
	})
}

// gone waits for the end of a process. One that nobody kills keeps the test
// from ending.
func gone(t *testing.T, text string) {
	t.Helper()
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

// A real Debian, from the mirror that this machine uses.
func TestBuildDebian(t *testing.T) {
	store := openStore(t)
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap: apt-get install mmdebstrap")
	}
	stacks := NewStacks(store, Options{TempDir: t.TempDir()})
	var said strings.Builder
	img, err := stacks.Ensure(t.Context(), "debian", &said)
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	built := said.Len()
	again, err := stacks.Ensure(t.Context(), "debian", &said)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != img.Digest || said.Len() != built {
		t.Errorf("built again: %s", said.String()[built:])
	}
	stack, err := stacks.Show(t.Context(), "debian")
	if err != nil || stack.Image != img.Digest || stack.Description.Description == "" {
		t.Errorf("Show: %+v, %v", stack, err)
	}
	layers := lowers(t, store, img)
	cmd := within(t, layers, "/usr/bin/dpkg-query", "-W", "-f", "${Status}\n", "apt")
	cmd.Args[2] = strings.Replace(cmd.Args[2], `mount --bind -o ro /usr "$2/usr" && `, "", 1) // it has a /usr of its own
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "install ok installed\n" {
		t.Errorf("dpkg-query: %v: %s", err, out)
	}
	for _, name := range []string{"app", "dev", "proc", "run", "sys"} { // in the last layer, above all others
		if info, err := os.Stat(filepath.Join(layers[0], name)); err != nil || !info.IsDir() {
			t.Errorf("/%s is missing: %v", name, err)
		}
	}
	base := layers[len(layers)-1]
	for _, name := range []string{"etc/hostname", "etc/resolv.conf"} {
		if data, err := os.ReadFile(filepath.Join(base, name)); err != nil || len(data) > 0 {
			t.Errorf("%s is this machine's: %q, %v", name, data, err)
		}
	}
	if _, err := os.Stat(filepath.Join(base, "usr/share/doc/apt/copyright")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"dev/null", "usr/share/man/man1", "usr/share/doc/apt/README.md.gz", "usr/share/doc/apt/changelog.Debian.gz"} {
		for _, dir := range layers {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				t.Errorf("%s is in the image", name)
			}
		}
	}
}

func TestStacks(t *testing.T) {
	store := openStore(t)
	stacks := NewStacks(store, Options{})
	all, err := stacks.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
		if s.Description.Description == "" || s.Image != "" {
			t.Errorf("%+v", s)
		}
	}
	if diff := cmp.Diff(strings.Fields("bash debian elixir ffmpeg go host java lua mono node perl php python r ruby static tcl"), names); diff != "" {
		t.Error(diff)
	}
	_, err = stacks.Ensure(t.Context(), "cobol", nil)
	want := `no stack "cobol"; there are bash, debian, elixir, ffmpeg, go, host, java, lua, mono, node, perl, php, python, r, ruby, static, tcl; or import an image and name it stack/cobol`
	if err == nil || err.Error() != want || mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("got %v", err)
	}
	own, err := store.Import(t.Context(), "stack/own", strings.NewReader(string(tarOf(t, &tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}))))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stacks.Ensure(t.Context(), "own", nil); err != nil || got.Digest != own.Digest {
		t.Errorf("a stack that was imported: %v, %v", got.Digest, err)
	}
}
