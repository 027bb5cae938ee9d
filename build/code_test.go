package build

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

func hostStack(t *testing.T, store *image.Store) image.Image {
	t.Helper()
	img, err := NewStacks(store, Options{}).Ensure(t.Context(), "host", nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestCode(t *testing.T) {
	store := openStore(t)
	stack := hostStack(t, store)
	dir := write(t, "main.py", "def handle(event, context): pass\n", "lib/x.txt", "x")
	code := pack(t, dir)
	img, err := Code(t.Context(), store, stack, bytes.NewReader(code), CodeSpec{Name: "default/f", Handler: "main.handle"})
	if err != nil {
		t.Fatal(err)
	}
	config := img.Config.Config
	if diff := cmp.Diff([]string{"/usr/bin/python3", "-u", "-B", "/opt/mayfly/loader.py", "main.handle", "/app"}, config.Cmd); diff != "" {
		t.Error("Cmd (-want +got):\n" + diff)
	}
	if config.WorkingDir != "/app" || config.Labels[LabelHostMounts] != "/usr" {
		t.Errorf("working directory %q, labels %v", config.WorkingDir, config.Labels)
	}
	top := lowers(t, store, img)[0]
	for name, want := range map[string]string{
		"app/main.py": "def handle(event, context): pass\n", "app/lib/x.txt": "x", "opt/mayfly/loader.py": string(pythonLoader),
	} {
		if got, err := os.ReadFile(filepath.Join(top, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(top, "opt/mayfly/sdk/mayfly/__init__.py")); err != nil {
		t.Error("the handler has no client of the API:", err)
	}
	again, err := Code(t.Context(), store, stack, bytes.NewReader(code), CodeSpec{Name: "default/g", Handler: "main.handle"})
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != img.Digest {
		t.Error("the same code on the same stack gave another digest")
	}
	plain, err := Code(t.Context(), store, stack, bytes.NewReader(code), CodeSpec{Name: "default/h"})
	if err != nil {
		t.Fatal(err)
	}
	if plain.Config.Config.Cmd != nil {
		t.Errorf("without a handler the command is %q", plain.Config.Config.Cmd)
	}
}

func TestCodeErrors(t *testing.T) {
	store := openStore(t)
	stack := hostStack(t, store)
	file := func(name string) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}
	}
	tests := []struct {
		name    string
		code    []byte
		handler string
		want    string
	}{
		{"not a tar", bytes.Repeat([]byte("no tar"), 200), "", `the code is not a tar: archive/tar: invalid tar header`},
		{"cut", tarOf(t, &tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 2000, Mode: 0o644})[:1024], "", `code: "a" is cut short: unexpected EOF`},
		{"above", tarOf(t, file("../a")), "", `code: the name "../a" leaves the code's folder`},
		{"absolute", tarOf(t, file("/a")), "", `code: the name "/a" leaves the code's folder`},
		{"whiteout", tarOf(t, file("a/.wh.b")), "", `code: the name "a/.wh.b" is reserved; rename it`},
		{"twice", tarOf(t, file("a"), file("./a")), "", `code: "a" is in the tar twice`},
		{"file as folder", tarOf(t, file("a"), file("a/b")), "", `code: "a" is both a file and a folder`},
		{"link out", tarOf(t, &tar.Header{Name: "a/b", Linkname: "../../etc", Typeflag: tar.TypeSymlink}), "",
			`code: "a/b" is a link to "../../etc", which leaves the code's folder`},
		{"through a link", tarOf(t, &tar.Header{Name: "a", Linkname: ".", Typeflag: tar.TypeSymlink}, file("a/b")), "",
			`code: "a" is both a file and a folder`},
		{"hard link out", tarOf(t, &tar.Header{Name: "a", Linkname: "../opt/x", Typeflag: tar.TypeLink}), "",
			`code: "a" is a hard link to "../opt/x", which is not before it in the tar`},
		{"device", tarOf(t, &tar.Header{Name: "a", Typeflag: tar.TypeChar}), "", `code: "a" is neither file, folder nor link; leave it out`},
		{"no handler", tarOf(t, file("a.py")), "main.handle", `handler main.handle: the code has no main.py or main.mjs`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Code(t.Context(), store, stack, bytes.NewReader(tt.code), CodeSpec{Name: "default/f", Handler: tt.handler, TempDir: t.TempDir()})
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); got != tt.want || mayfly.KindOf(err) != mayfly.Invalid {
				t.Errorf("\n got %s (%s)\nwant %s", got, mayfly.KindOf(err), tt.want)
			}
		})
	}
	if _, err := store.Get(t.Context(), "default/f"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("a refused deploy left an image: %v", err)
	}
}

func TestPick(t *testing.T) {
	both := map[string]string{LabelLoader + "python": "/usr/bin/python3", LabelLoader + "node": "/usr/bin/node"}
	python := map[string]string{LabelLoader + "python": "/usr/bin/python3"}
	tests := []struct {
		handler, files string
		labels         map[string]string
		want           string
	}{
		{"main.handle", "main.py", both, "/usr/bin/python3 -u -B /opt/mayfly/loader.py main.handle /app"},
		{"index.handle", "index.mjs", both, "/usr/bin/node /opt/mayfly/loader.mjs index.handle /app"},
		{"src/index.handle", "src/index.js", both, "/usr/bin/node /opt/mayfly/loader.mjs src/index.handle /app"},
		{"pkg.handle", "pkg/__init__.py", both, "/usr/bin/python3 -u -B /opt/mayfly/loader.py pkg.handle /app"},
		{"index.handle", "index.mjs", python, "handler index.handle: the stack has no node for index.mjs; choose a stack that has it"},
		{"main.handle", "main.py", nil, "handler main.handle: the stack has no python for main.py; choose a stack that has it"},
		{"main.handle", "", nil, "handler main.handle: the stack has no language with a loader; use the stack python, node or host, or protocol http with a command"},
	}
	for _, tt := range tests {
		i, err := pick(tt.handler, map[string]bool{tt.files: true}, tt.labels)
		got := strings.Join(i.command(tt.handler), " ")
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("pick(%s, %s)\n got %s\nwant %s", tt.handler, tt.files, got, tt.want)
		}
	}
}

// Whatever a stranger's tar holds, what comes out is a layer whose every name
// is under app.
func FuzzCode(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "a/", Typeflag: tar.TypeDir}, {Name: "a/b", Typeflag: tar.TypeReg}, {Name: "c", Typeflag: tar.TypeSymlink, Linkname: "a/b"},
		{Name: "d", Typeflag: tar.TypeLink, Linkname: "a/b"},
	} {
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes())
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		l := layerWriter{w: tar.NewWriter(&out), seen: map[string]bool{}, dirs: map[string]bool{}, left: 1 << 20}
		if err := l.code(t.Context(), bytes.NewReader(data)); err != nil {
			if k := mayfly.KindOf(err); k != mayfly.Invalid && k != mayfly.TooLarge {
				t.Errorf("kind %s: %v", k, err)
			}
			return
		}
		if err := l.w.Close(); err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if name := clean(h.Name); name != "app" && !strings.HasPrefix(name, "app/") {
				t.Errorf("%q is not under app", h.Name)
			}
			if h.Typeflag == tar.TypeSymlink && !linkStays(strings.TrimPrefix(h.Name, "app/"), h.Linkname) {
				t.Errorf("%q leads out, to %q", h.Name, h.Linkname)
			}
		}
	})
}
