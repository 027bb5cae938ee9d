package image_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// ociLayout writes a layout with the images and returns its directory.
func ociLayout(t *testing.T, images ...mutate.IndexAddendum) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, images...)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func anImage(t *testing.T, platform v1.Platform) v1.Image {
	t.Helper()
	img, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = platform.OS, platform.Architecture
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func hash(t *testing.T, img v1.Image) string {
	t.Helper()
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// tarOf makes a tar of the directory's regular files.
func tarOf(t *testing.T, dir string) []byte {
	t.Helper()
	var entries []entry
	for _, path := range files(t, dir) {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(dir, path)
		entries = append(entries, entry{name: rel, body: string(body)})
	}
	return makeTar(t, entries...)
}

func TestImportFindsOutWhatItIs(t *testing.T) {
	here := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	oci := anImage(t, here)
	ociDir := ociLayout(t, mutate.IndexAddendum{Add: oci})
	docker := dockerArchive(t, makeTar(t, entry{name: "bin/a"}), makeTar(t, entry{name: "bin/b"}))
	root := makeTar(t, dirEntry("bin"), entry{name: "bin/a"})
	rootDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(rootDir, "a"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		data   []byte
		dir    string
		layers int
		digest string // any if empty
	}{
		{"OCI layout", tarOf(t, ociDir), "", 2, hash(t, oci)},
		{"OCI layout directory", nil, ociDir, 2, hash(t, oci)},
		{"docker-archive", docker, "", 2, ""},
		{"root", root, "", 1, ""},
		{"root directory", nil, rootDir, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, t.TempDir(), image.Options{})
			check := func(how string, img image.Image, err error) string {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if img.Layers != tt.layers || tt.digest != "" && img.Digest != tt.digest {
					t.Fatalf("%s: got %+v", how, img)
				}
				return img.Digest
			}
			if tt.dir != "" {
				img, err := s.ImportPath(t.Context(), "x", tt.dir)
				check("directory", img, err)
				return
			}
			seen := map[string]bool{}
			for how, data := range map[string][]byte{"plain": tt.data, "gzip": gzipped(t, tt.data), "zstd": zstded(t, tt.data)} {
				img, err := s.Import(t.Context(), "x", bytes.NewReader(data))
				seen[check(how, img, err)] = true
				file := filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
				img, err = s.ImportPath(t.Context(), "x", file)
				seen[check(how+" file", img, err)] = true
			}
			if len(seen) != 1 {
				t.Errorf("the same image got the digests %v", seen)
			}
		})
	}
}

func TestImportChoosesThePlatformAndTheName(t *testing.T) {
	here, other := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, v1.Platform{OS: "linux", Architecture: "riscv64"}
	mine, theirs := anImage(t, here), anImage(t, other)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: theirs, Descriptor: v1.Descriptor{Platform: &other}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &here}})
	named := func(n string) v1.Descriptor {
		return v1.Descriptor{Annotations: map[string]string{"org.opencontainers.image.ref.name": n}}
	}
	s := open(t, t.TempDir(), image.Options{})
	img, err := s.ImportPath(t.Context(), "x", ociLayout(t, mutate.IndexAddendum{Add: index}))
	if err != nil || img.Digest != hash(t, mine) {
		t.Errorf("of an index: %v, %v", img.Digest, err)
	}
	two := ociLayout(t, mutate.IndexAddendum{Add: theirs, Descriptor: named("a")}, mutate.IndexAddendum{Add: mine, Descriptor: named("b")})
	if img, err = s.ImportPath(t.Context(), "b", two); err != nil || img.Digest != hash(t, mine) {
		t.Errorf("by name: %v, %v", img.Digest, err)
	}
	if _, err = s.ImportPath(t.Context(), "c", two); mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "a, b") {
		t.Errorf("neither name: %v", err)
	}
	only := ociLayout(t, mutate.IndexAddendum{Add: theirs, Descriptor: v1.Descriptor{Platform: &other}})
	if _, err = s.ImportPath(t.Context(), "d", only); mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("another platform: %v", err)
	}
}

// TestBadImports: each gives one clear error and leaves nothing.
func TestBadImports(t *testing.T) {
	good := anImage(t, v1.Platform{OS: "linux", Architecture: runtime.GOARCH})
	corrupt := ociLayout(t, mutate.IndexAddendum{Add: good})
	missing := ociLayout(t, mutate.IndexAddendum{Add: good})
	layers, err := good.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join("blobs/sha256", h.Hex)
	data, err := os.ReadFile(filepath.Join(corrupt, blob))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(filepath.Join(corrupt, blob), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(missing, blob)); err != nil {
		t.Fatal(err)
	}
	part := makeTar(t, entry{name: "bin/a", body: strings.Repeat("a", 9999)})
	escape := makeTar(t, entry{name: "manifest.json", body: `[{"Config":"c.json","Layers":["../../etc/x"]}]`},
		entry{name: "c.json", body: `{"rootfs":{"diff_ids":["` + digestOf(nil) + `"]}}`})
	for _, tt := range []struct {
		name, err string
		data      []byte
	}{
		{"nothing", "not an image", nil},
		{"text", "not an image", []byte("#!/bin/sh\necho hello\n")},
		{"zip", "unpack it", []byte("PK\x03\x04.............")},
		{"xz", "xz -d", []byte("\xfd7zXZ\x00............")},
		{"a program", "a tar or a directory", []byte("\x7fELF............")},
		{"half a gzip", "EOF", gzipped(t, part)[:40]},
		{"half a tar", "EOF", part[:3000]},
		{"gzip of text", "not an image", gzipped(t, []byte("hello"))},
		{"a corrupt layer", "corrupt", tarOf(t, corrupt)},
		{"a missing layer", h.Hex, tarOf(t, missing)},
		{"a docker layer outside", "/etc/x", escape},
		{"another diffID", "corrupt", makeTar(t, entry{name: "manifest.json", body: `[{"Config":"c.json","Layers":["l.tar"]}]`},
			entry{name: "c.json", body: `{"rootfs":{"diff_ids":["` + digestOf(nil) + `"]}}`}, entry{name: "l.tar", body: string(part)})},
		{"an artifact", "artifact", tarOf(t, ociLayout(t, mutate.IndexAddendum{Add: mutate.ConfigMediaType(good, "application/vnd.cncf.helm.config.v1+json")}))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, image.Options{})
			_, err := s.Import(t.Context(), "bad", bytes.NewReader(tt.data))
			if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("got kind %q: %v", mayfly.KindOf(err), err)
			}
			if list, err := s.List(t.Context()); err != nil || len(list) > 0 {
				t.Errorf("got %v, %v", list, err)
			}
			if _, _, err := s.Prune(t.Context(), image.PruneOptions{}); err != nil {
				t.Fatal(err)
			}
			if left := files(t, dir); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
	s := open(t, t.TempDir(), image.Options{})
	for _, name := range []string{"", "UPPER", "a b", "../x", "x:", strings.Repeat("n", 300)} {
		if _, err := s.Import(t.Context(), name, bytes.NewReader(part)); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

// TestNames: how images are found.
func TestNames(t *testing.T) {
	ctx := t.Context()
	s := open(t, t.TempDir(), image.Options{})
	a, b := randomImage(t, s, "a", 100), randomImage(t, s, "docker.io/library/b:1", 100)
	if _, err := s.Tag(ctx, "a", "registry.example/team/a:v1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a": a.Digest, "a:latest": a.Digest, "docker.io/library/a": a.Digest, "registry.example/team/a:v1": a.Digest,
		"b:1": b.Digest, a.Digest: a.Digest, a.Digest[7:]: a.Digest, b.Digest[7:19]: b.Digest, b.Digest[:19]: b.Digest,
	} {
		if got, err := s.Get(ctx, name); err != nil || got.Digest != want {
			t.Errorf("%s: %v, %v", name, got.Digest, err)
		}
	}
	for name, want := range map[string]mayfly.Kind{"b": mayfly.NotFound, "b:2": mayfly.NotFound, "sha256:00000": mayfly.NotFound,
		"sha256:" + strings.Repeat("0", 64): mayfly.NotFound, "no such": mayfly.Invalid} {
		if got, err := s.Get(ctx, name); mayfly.KindOf(err) != want {
			t.Errorf("%s: %v, %v", name, got.Digest, err)
		}
	}
	list, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	if got := strings.Join(names, " "); got != "a:latest b:1 registry.example/team/a:v1" {
		t.Errorf("got %s", got)
	}
	if err := s.Remove(ctx, a.Digest, false); err != nil { // both its names
		t.Fatal(err)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 1 || list[0].Name != "b:1" {
		t.Errorf("got %v, %v", list, err)
	}
}

// TestPruneKeepsWhatIsInUse, while imports, uses and prunes go on at once.
func TestPruneKeepsWhatIsInUse(t *testing.T) {
	ctx := t.Context()
	s := open(t, t.TempDir(), image.Options{})
	kept := threeLayers(t, s, "kept", 1000)
	if _, err := s.Use(ctx, kept.Digest, "keeper"); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for w := range 3 {
		go func() {
			for i := range 10 {
				name := fmt.Sprintf("w%d", w)
				img, err := s.Import(ctx, name, bytes.NewReader(makeTar(t, entry{name: "f", body: fmt.Sprint(w, i)})))
				if err != nil {
					errs <- err
					return
				}
				root, err := s.Use(ctx, img.Digest, name)
				if mayfly.KindOf(err) == mayfly.NotFound { // pruned between the two
					continue
				}
				if err == nil {
					_, err = os.Stat(filepath.Join(root.Lower[0], "f"))
				}
				if err == nil {
					_, _, err = s.Prune(ctx, image.PruneOptions{All: true})
				}
				if err == nil {
					_, err = os.Stat(filepath.Join(root.Lower[0], "f"))
				}
				if err == nil {
					err = s.Release(ctx, name)
				}
				if err != nil {
					errs <- fmt.Errorf("worker %d: %w", w, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	root, err := s.Use(ctx, kept.Digest, "keeper")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range root.Lower {
		if _, err := os.Stat(l); err != nil {
			t.Error(err)
		}
	}
	if err := s.Release(ctx, "keeper"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Prune(ctx, image.PruneOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Usage(ctx); err != nil || u.Total() != 0 {
		t.Errorf("left over: %+v, %v", u, err)
	}
}

// TestDirectoryRoundTrip imports a directory with one of everything.
func TestDirectoryRoundTrip(t *testing.T) {
	s := open(t, t.TempDir(), image.Options{})
	src := t.TempDir()
	long := strings.Repeat("n", 255)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(src, 0o711))
	must(os.MkdirAll(filepath.Join(src, long, long, "new\nline"), 0o750))
	must(os.WriteFile(filepath.Join(src, "set"), []byte("x"), 0o755))
	must(os.Chown(filepath.Join(src, "set"), 70000, 4_000_000))
	must(os.Chmod(filepath.Join(src, "set"), 0o755|os.ModeSetuid|os.ModeSetgid))
	must(unix.Setxattr(filepath.Join(src, "set"), "security.capability", capNetBind(), 0))
	must(os.Link(filepath.Join(src, "set"), filepath.Join(src, long, "hard")))
	must(os.Symlink("/etc/\xff odd", filepath.Join(src, "link")))
	must(unix.Mknod(filepath.Join(src, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(filepath.Join(src, "disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 300))))
	must(unix.Mkfifo(filepath.Join(src, "pipe"), 0o600))
	must(os.WriteFile(filepath.Join(src, "empty"), nil, 0))
	must(unix.Lutimes(filepath.Join(src, "link"), []unix.Timeval{{Sec: 5}, {Sec: 6}}))
	img, err := s.ImportPath(t.Context(), "all", src)
	must(err)
	root, err := s.Use(t.Context(), img.Digest, "test")
	must(err)
	compareTrees(t, src, root.Lower[0])
	again, err := s.ImportPath(t.Context(), "again", src)
	must(err)
	if again.Digest != img.Digest {
		t.Errorf("the same directory got another digest")
	}
}

// capNetBind is cap_net_bind_service=ep as the kernel keeps it.
func capNetBind() []byte {
	return []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}
