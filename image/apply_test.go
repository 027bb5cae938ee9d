package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// dockerArchive makes a docker-archive of the layers, bottom first.
func dockerArchive(t testing.TB, layers ...[]byte) []byte {
	t.Helper()
	var parts []entry
	var names, ids []string
	for i, l := range layers {
		name := fmt.Sprintf("%d/layer.tar", i)
		names = append(names, fmt.Sprintf("%q", name))
		ids = append(ids, fmt.Sprintf("%q", digestOf(l)))
		parts = append(parts, entry{name: name, body: string(l)})
	}
	config := fmt.Sprintf(`{"architecture":%q,"os":"linux","rootfs":{"type":"layers","diff_ids":[%s]},"config":{"Healthcheck":{"Test":["x"]}}}`,
		goarch, strings.Join(ids, ","))
	manifest := fmt.Sprintf(`[{"Config":"config.json","RepoTags":["app:1"],"Layers":[%s]}]`, strings.Join(names, ","))
	parts = append(parts, entry{name: "config.json", body: config}, entry{name: "manifest.json", body: manifest})
	return makeTar(t, parts...)
}

// merged mounts the image's layers as a container would and lists what is seen:
// each path with its content, or its type where it is no regular file.
func merged(t *testing.T, root image.Root) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(dir, "merged")
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", strings.Join(root.Lower, ":"), dir, dir)
	if err := unix.Mount("overlay", at, "overlay", 0, opts); err != nil {
		t.Fatalf("mount %s: %v", opts, err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
	}()
	seen := map[string]string{}
	err := filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(at, path)
		switch {
		case rel == ".":
		case d.Type().IsRegular():
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			seen[rel] = string(body)
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			seen[rel] = "-> " + to
		default:
			seen[rel] = d.Type().String()[:1]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func dirEntry(name string) entry { return entry{name: name, typ: tar.TypeDir} }

// TestLayersMergeAsTheSpecificationSays is by the kernel's own judgement: the
// layers are mounted and looked at.
func TestLayersMergeAsTheSpecificationSays(t *testing.T) {
	base := []entry{dirEntry("d/"), {name: "d/a", body: "1"}, {name: "d/b", body: "1"}, dirEntry("d/sub/"), {name: "d/sub/x", body: "1"}, {name: "f", body: "1"}}
	wh := func(name string) entry { return entry{name: name} }
	for _, tt := range []struct {
		name   string
		layers [][]entry
		want   map[string]string
	}{
		{"a whiteout hides a file", [][]entry{base, {dirEntry("d/"), wh("d/.wh.a")}},
			map[string]string{"d": "d", "d/b": "1", "d/sub": "d", "d/sub/x": "1", "f": "1"}},
		{"a whiteout hides a directory", [][]entry{base, {wh(".wh.d")}}, map[string]string{"f": "1"}},
		{"twice is once", [][]entry{base, {wh(".wh.d"), wh(".wh.d")}}, map[string]string{"f": "1"}},
		{"of nothing is nothing", [][]entry{base, {wh(".wh.none"), wh("d/sub/.wh.none"), dirEntry("new/"), wh("new/.wh.a")}},
			map[string]string{"d": "d", "d/a": "1", "d/b": "1", "d/sub": "d", "d/sub/x": "1", "f": "1", "new": "d"}},
		{"in the lowest layer is nothing", [][]entry{{{name: "f", body: "1"}, wh(".wh.g"), wh("d/.wh.h")}}, map[string]string{"f": "1", "d": "d"}},
		{"a file over its own whiteout", [][]entry{base, {wh(".wh.f"), {name: "f", body: "2"}, wh(".wh.d")}}, map[string]string{"f": "2"}},
		{"a whiteout after its own file", [][]entry{base, {{name: "f", body: "2"}, wh(".wh.f"), wh(".wh.d")}}, map[string]string{"f": "2"}},
		{"a directory over its own whiteout", [][]entry{base, {wh(".wh.d"), dirEntry("d/"), {name: "d/n", body: "2"}}},
			map[string]string{"d": "d", "d/n": "2", "f": "1"}},
		{"without an entry of its own", [][]entry{base, {wh(".wh.d"), {name: "d/deep/n", body: "2"}}},
			map[string]string{"d": "d", "d/deep": "d", "d/deep/n": "2", "f": "1"}},
		{"a whiteout after its own directory", [][]entry{base, {dirEntry("d/"), {name: "d/n", body: "2"}, wh(".wh.d")}},
			map[string]string{"d": "d", "d/n": "2", "f": "1"}},
		{"opaque", [][]entry{base, {dirEntry("d/"), wh("d/.wh..wh..opq"), {name: "d/n", body: "2"}}},
			map[string]string{"d": "d", "d/n": "2", "f": "1"}},
		{"opaque after its files", [][]entry{base, {dirEntry("d/"), {name: "d/n", body: "2"}, wh("d/.wh..wh..opq")}},
			map[string]string{"d": "d", "d/n": "2", "f": "1"}},
		{"the root opaque", [][]entry{base, {wh(".wh..wh..opq"), {name: "n", body: "2"}}}, map[string]string{"n": "2"}},
		{"whited out in between", [][]entry{base, {wh(".wh.f"), wh("d/.wh.a")}, {{name: "f", body: "3"}}},
			map[string]string{"d": "d", "d/b": "1", "d/sub": "d", "d/sub/x": "1", "f": "3"}},
		{"a directory over a file", [][]entry{base, {dirEntry("f/"), {name: "f/x", body: "2"}, wh(".wh.d")}}, map[string]string{"f": "d", "f/x": "2"}},
		{"a file over a directory", [][]entry{base, {{name: "d", body: "2"}}}, map[string]string{"d": "2", "f": "1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, t.TempDir(), image.Options{})
			var layers [][]byte
			for _, l := range tt.layers {
				layers = append(layers, makeTar(t, l...))
			}
			img, err := s.Import(t.Context(), "app", bytes.NewReader(dockerArchive(t, layers...)))
			if err != nil {
				t.Fatal(err)
			}
			root, err := s.Use(t.Context(), img.Digest, "test")
			if err != nil {
				t.Fatal(err)
			}
			if got := merged(t, root); !maps.Equal(got, tt.want) {
				t.Errorf("got  %v\nwant %v", sorted(got), sorted(tt.want))
			}
		})
	}
}

func sorted(m map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return out
}

// TestParentsKeepTheirAttributes: a layer that names only a file must not
// change the directories above it.
func TestParentsKeepTheirAttributes(t *testing.T) {
	s := open(t, t.TempDir(), image.Options{})
	base := makeTar(t, entry{name: "./", typ: tar.TypeDir, mode: 0o751, uid: 3}, entry{name: "tmp/", typ: tar.TypeDir, mode: 0o1777, uid: 5, gid: 6})
	img, err := s.Import(t.Context(), "app", bytes.NewReader(dockerArchive(t, base, makeTar(t, entry{name: "tmp/f"}))))
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.Use(t.Context(), img.Digest, "test")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"": "751 3 0", "tmp": "1777 5 6"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root.Lower[0], path), &st); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%o %d %d", st.Mode&0o7777, st.Uid, st.Gid); got != want {
			t.Errorf("%q is %s, want %s", path, got, want)
		}
	}
}

func TestBombsAreRefused(t *testing.T) {
	zeros := strings.Repeat("\x00", 3<<20)
	many := make([]entry, 200)
	for i := range many {
		many[i] = entry{name: fmt.Sprint(i)}
	}
	sparse := entry{name: "s", pax: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "99999999999"},
		body: "1\n0\n0\n" + strings.Repeat("\x00", 506)}
	for _, tt := range []struct {
		name  string
		layer []byte
	}{
		{"a large file", makeTar(t, entry{name: "z", body: zeros})},
		{"many files", makeTar(t, many...)},
		{"a sparse file", sparseTar(t, sparse)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, t.TempDir(), image.Options{MaxUnpacked: 1 << 20, MaxEntries: 100})
			for kind, data := range map[string][]byte{"plain": tt.layer, "gzip": gzipped(t, tt.layer), "zstd": zstded(t, tt.layer)} {
				if _, err := s.Import(t.Context(), "bomb", bytes.NewReader(data)); mayfly.KindOf(err) != mayfly.TooLarge {
					t.Errorf("%s: got %v", kind, err)
				}
			}
			if _, _, err := s.Prune(t.Context(), image.PruneOptions{}); err != nil {
				t.Fatal(err)
			}
			if u, err := s.Usage(t.Context()); err != nil || u.Total() != 0 {
				t.Fatalf("left over: %+v, %v", u, err)
			}
		})
	}
}
