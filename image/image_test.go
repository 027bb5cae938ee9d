package image_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// open opens a store for the test, as root.
func open(t *testing.T, dir string, opts image.Options) *image.Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	s, err := image.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// entry is a file of a tar that a test makes.
type entry struct {
	name string
	typ  byte // regular file if zero
	body string
	link string
	mode int64 // 0644 if zero, 0755 for a directory
	uid  int
	gid  int
	pax  map[string]string
	dev  [2]int64
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		hdr := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.gid,
			PAXRecords: e.pax, Devmajor: e.dev[0], Devminor: e.dev[1], ModTime: time.Unix(1700000000, 0), Format: tar.FormatPAX}
		if hdr.Typeflag == 0 {
			hdr.Typeflag = tar.TypeReg
		}
		if hdr.Mode == 0 {
			hdr.Mode = 0o644
			if hdr.Typeflag == tar.TypeDir {
				hdr.Mode = 0o755
			}
		}
		if hdr.Typeflag == tar.TypeReg {
			hdr.Size = int64(len(e.body))
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestImportUseRemove(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	s := open(t, dir, image.Options{})
	root := makeTar(t, entry{name: "./", typ: tar.TypeDir, mode: 0o711}, entry{name: "./bin/hello", body: "hi", mode: 0o4755, uid: 7})
	img, err := s.Import(ctx, "hello", bytes.NewReader(root))
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != "hello:latest" || img.Layers != 1 || !strings.HasPrefix(img.Digest, "sha256:") {
		t.Fatalf("got %+v", img)
	}
	again, err := s.Import(ctx, "hello:2", bytes.NewReader(root))
	if err != nil || again.Digest != img.Digest {
		t.Fatalf("the same root gave %v, %v; want %s", again.Digest, err, img.Digest)
	}
	use, err := s.Use(ctx, img.Digest, "instance/1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(use.Lower[0], "bin/hello")); err != nil || string(got) != "hi" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := s.Remove(ctx, "hello:2", false); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "hello", false); mayfly.KindOf(err) != mayfly.Conflict {
		t.Fatalf("an image in use was removed: %v", err)
	}
	if err := s.Release(ctx, "instance/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, img.Digest[7:17], false); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Usage(ctx); err != nil || u.Total() != 0 {
		t.Fatalf("left over: %+v, %v", u, err)
	}
	if _, err := os.Stat(use.Lower[0]); !os.IsNotExist(err) {
		t.Fatalf("layer directory left: %v", err)
	}
}

func TestAddLayerIsReproducible(t *testing.T) {
	ctx := t.Context()
	s := open(t, t.TempDir(), image.Options{})
	base, err := s.Import(ctx, "base", bytes.NewReader(makeTar(t, entry{name: "bin/sh", mode: 0o755})))
	if err != nil {
		t.Fatal(err)
	}
	a := makeTar(t, entry{name: "main.py", body: "print()", uid: 1000, mode: 0o600}, entry{name: "run", body: "x", mode: 0o700})
	b := makeTar(t, entry{name: "./run", body: "x", mode: 0o755}, entry{name: "main.py", body: "print()", uid: 5})
	change := func(c *ocispec.ImageConfig) { c.WorkingDir = "/app" }
	one, err := s.AddLayer(ctx, base.Digest, "f:1", image.Layer{Tar: bytes.NewReader(a), Prefix: "/app"}, change)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.AddLayer(ctx, base.Digest, "f:2", image.Layer{Tar: bytes.NewReader(b), Prefix: "/app"}, change)
	if err != nil {
		t.Fatal(err)
	}
	if one.Digest != two.Digest {
		t.Fatalf("got %s and %s", one.Digest, two.Digest)
	}
	root, err := s.Use(ctx, one.Digest, "o")
	if err != nil {
		t.Fatal(err)
	}
	if len(root.Lower) != 2 || root.Config.WorkingDir != "/app" {
		t.Fatalf("got %+v", root)
	}
	under, err := s.Use(ctx, base.Digest, "o")
	if err != nil || root.Lower[1] != under.Lower[0] {
		t.Fatalf("the base was unpacked twice: %v and %v, %v", root.Lower, under.Lower, err)
	}
	fi, err := os.Stat(filepath.Join(root.Lower[0], "app/main.py"))
	if err != nil || fi.Mode() != 0o644 {
		t.Fatalf("got %v, %v", fi, err)
	}
}

// TestBadCode: what code may not hold.
func TestBadCode(t *testing.T) {
	s := open(t, t.TempDir(), image.Options{MaxEntries: 100})
	base, err := s.Import(t.Context(), "base", bytes.NewReader(makeTar(t, entry{name: "bin/sh", mode: 0o755})))
	if err != nil {
		t.Fatal(err)
	}
	many := make([]entry, 101)
	for i := range many {
		many[i].name = strings.Repeat("x", i+1)
	}
	for name, tt := range map[string]struct {
		data []byte
		kind mayfly.Kind
	}{
		"no tar":            {[]byte("print()"), mayfly.Invalid},
		"a device":          {makeTar(t, entry{name: "null", typ: tar.TypeChar, dev: [2]int64{1, 3}}), mayfly.Invalid},
		"a pipe":            {makeTar(t, entry{name: "p", typ: tar.TypeFifo}), mayfly.Invalid},
		"a whiteout":        {makeTar(t, entry{name: "a/.wh.b"}), mayfly.Invalid},
		"a link to nothing": {makeTar(t, entry{name: "a", typ: tar.TypeLink, link: "../../bin/sh"}), mayfly.Invalid},
		"a loop of links":   {makeTar(t, entry{name: "a", typ: tar.TypeLink, link: "b"}, entry{name: "b", typ: tar.TypeLink, link: "a"}), mayfly.Invalid},
		"a file as parent":  {makeTar(t, entry{name: "a"}, entry{name: "a/b"}), mayfly.Invalid},
		"a sparse file":     {sparseTar(t, entry{pax: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9"}, body: "0\n" + strings.Repeat("\x00", 510)}), mayfly.Invalid},
		"too many files":    {makeTar(t, many...), mayfly.TooLarge},
	} {
		_, err := s.AddLayer(t.Context(), base.Digest, "f", image.Layer{Tar: bytes.NewReader(tt.data), Prefix: "app"}, nil)
		if mayfly.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.AddLayer(t.Context(), "none", "f", image.Layer{Tar: bytes.NewReader(makeTar(t, entry{name: "a"}))}, nil); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("no base: %v", err)
	}
}
