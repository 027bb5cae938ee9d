package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// arena is a directory with a root to unpack into and things around it that no
// layer may touch.
type arena struct{ dir, root, lower string }

func newArena(t testing.TB) arena {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	dir := t.TempDir()
	a := arena{dir, filepath.Join(dir, "snapshots", "1", "fs"), filepath.Join(dir, "snapshots", "0", "fs")}
	for _, d := range []string{a.root, a.lower + "/etc", dir + "/etc", dir + "/proc", dir + "/snapshots/1/fs-secret"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"/etc/passwd", "/secret", "/snapshots/secret", "/snapshots/1/secret", "/snapshots/1/fs-secret/f", "/snapshots/0/fs/etc/passwd", "/snapshots/0/fs/secret"} {
		if err := os.WriteFile(dir+f, []byte("kept"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// outside lists everything of the arena but the root, with all that a tar could
// change of it.
func (a arena) outside(t testing.TB) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(a.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == a.root {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var body []byte
		if d.Type().IsRegular() {
			body, _ = os.ReadFile(path)
		}
		list := make([]byte, 4096)
		n, _ := unix.Llistxattr(path, list)
		mtime := st.Mtim.Nano()
		seen[path] = fmt.Sprintf("%o %d:%d links=%d dev=%d mtime=%d xattrs=%q %q", st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, mtime, list[:max(n, 0)], body)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// confined runs do on a thread of its own whose root is the arena. Should the
// unpacker ever fail to keep a tar in, it is the arena's /etc that suffers, where
// the test sees it, and not this machine's.
func (a arena) confined(t testing.TB, do func()) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here, and its mounts with it
		err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("/proc", filepath.Join(a.dir, "proc"), "", unix.MS_BIND, ""))
		if err == nil {
			err = errors.Join(unix.Chroot(a.dir), unix.Chdir("/"))
		}
		if err == nil { // the arena has this, and no machine does
			_, err = os.Lstat("/snapshots/1/fs-secret/f")
		}
		if err == nil {
			do()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatalf("confine the test: %v", err)
	}
}

// unpack applies the tars, one after the other.
func (a arena) unpack(t testing.TB, tars ...[]byte) (last error) {
	t.Helper()
	root, lower := strings.TrimPrefix(a.root, a.dir), strings.TrimPrefix(a.lower, a.dir)
	ctx := t.Context()
	a.confined(t, func() {
		for _, data := range tars {
			ap := &applier{dir: root, parents: []string{lower}, max: limits{bytes: 8 << 20, entries: 1000}}
			last = ap.apply(ctx, bytes.NewReader(data))
		}
	})
	return last
}

// unchanged runs do and fails the test if anything outside the root changed.
func (a arena) unchanged(t testing.TB, do func()) {
	t.Helper()
	before := a.outside(t)
	do()
	if after := a.outside(t); !maps.Equal(before, after) {
		for path, was := range before {
			if after[path] != was {
				t.Errorf("%s was %s, is %s", path, was, after[path])
			}
		}
		for path, is := range after {
			if before[path] == "" {
				t.Errorf("%s is new: %s", path, is)
			}
		}
	}
}

func hostileTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode |= 0o644
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			tw.Write([]byte("evil"))
		}
	}
	tw.Close()
	return buf.Bytes()
}

// hostile are tars that try to get out. ways lists them by what they try.
func hostile(t testing.TB) map[string][]byte {
	up := strings.Repeat("../", 12)
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	file := func(name string) tar.Header { return tar.Header{Name: name} }
	dir := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o777, Uid: 7}
	}
	xattr := map[string]string{"SCHILY.xattr.user.evil": "1", "SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y"}
	return map[string][]byte{
		"dotdot":                   hostileTar(t, file("../secret"), file(up+"etc/passwd"), file("a/../../secret")),
		"absolute":                 hostileTar(t, file("/etc/passwd"), file("//secret")),
		"names of the root":        hostileTar(t, file("."), file(".."), dir("/"), dir(".."), dir("../.."), link(".", "/etc"), hard("..", "secret")),
		"through a symlink":        hostileTar(t, link("out", up), file("out/secret"), file("out/etc/passwd")),
		"through an absolute one":  hostileTar(t, link("out", "/"), file("out/etc/passwd"), dir("out/snapshots")),
		"through two":              hostileTar(t, link("a", "../.."), link("b", "a/../.."), file("b/secret"), dir("b/etc")),
		"over a symlink":           hostileTar(t, link("passwd", up+"etc/passwd"), file("passwd"), dir("passwd"), link("passwd", "/")),
		"a loop":                   hostileTar(t, link("a", "b"), link("b", "a"), file("a/x")),
		"hard link up":             hostileTar(t, hard("h", "../secret"), file("h")),
		"hard link dotdot":         hostileTar(t, hard("h", ".."), hard("i", "a/.."), file("h")),
		"hard link absolute":       hostileTar(t, hard("h", "/etc/passwd"), file("h")),
		"hard link through":        hostileTar(t, link("out", "../../../etc"), hard("h", "out/passwd"), file("h")),
		"hard link to a symlink":   hostileTar(t, link("s", "../../../secret"), hard("h", "s"), tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "s", Mode: 0o777, Uid: 9, PAXRecords: xattr}),
		"a sibling of like name":   hostileTar(t, hard("h", "../fs-secret/f"), file("../fs-secret/f"), dir("../fs-secret")),
		"whiteout of dot":          hostileTar(t, file(".wh.."), file("a/.wh..")),
		"whiteout of dotdot":       hostileTar(t, file(".wh..."), file("a/.wh..."), file("a/.wh..wh.")),
		"whiteout of nothing":      hostileTar(t, file(".wh."), file("a/.wh.")),
		"whiteout through":         hostileTar(t, link("out", "../.."), file("out/.wh.secret"), file("out/.wh..wh..opq"), file("../.wh.secret")),
		"whiteout then symlink":    hostileTar(t, file(".wh.etc"), link("etc", "../../../etc"), file("etc/passwd"), dir("etc")),
		"opaque through":           hostileTar(t, link("etc", "../../../etc"), file("etc/.wh..wh..opq")),
		"xattrs of overlayfs":      hostileTar(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: xattr}),
		"device then file":         hostileTar(t, tar.Header{Name: "zero", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5}, file("zero")),
		"pipe then file":           hostileTar(t, tar.Header{Name: "p", Typeflag: tar.TypeFifo}, file("p")),
		"a file as a parent":       hostileTar(t, file("f"), file("f/g")),
		"directory then symlink":   hostileTar(t, dir("d"), link("d", "../../../etc"), dir("d"), link("d", "/"), file("d/secret")),
		"directory times":          hostileTar(t, dir("d/"), file("d/x"), link("d", "../../../etc")),
		"lower symlink":            hostileTar(t, file("etc/passwd"), file("etc/.wh.passwd"), dir("etc")),
		"long name":                hostileTar(t, file(strings.Repeat("a/", 1800)+"x"), file(strings.Repeat("n", 300))),
		"strange names":            hostileTar(t, file("new\nline"), file("\x01\xff\xfe"), file(" "), file("-rf"), file("*"), file("a\\..\\b")),
		"global header of a file":  hostileTar(t, file("g"), tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}),
		"large device numbers":     hostileTar(t, tar.Header{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 1 << 20, Devminor: 1 << 20}),
		"file over the root's dir": hostileTar(t, link("x", "."), link("x/y", "../.."), file("x/y/secret")),
	}
}

func TestNothingLandsOutside(t *testing.T) {
	for name, data := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			a := newArena(t)
			a.unchanged(t, func() {
				if err := a.unpack(t, data); err != nil {
					t.Logf("refused: %v", err)
				}
			})
		})
	}
}

// FuzzApply looks for a tar that changes something outside its root.
func FuzzApply(f *testing.F) {
	for name, data := range hostile(f) {
		if name != "long name" { // too slow to be varied
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := newArena(t)
		a.unchanged(t, func() { a.unpack(t, data) })
	})
}

// headersFrom reads bytes as a program of tar entries over few names, so that
// they meet each other: links over links, whiteouts of links, files in what was
// a directory.
func headersFrom(program []byte) []tar.Header {
	parts := []string{"a", "b", "etc", "secret", "passwd", "..", ".", "", "/", ".wh.a", ".wh.etc", ".wh.secret", ".wh..wh..opq", ".wh...", "fs-secret", "snapshots"}
	links := []string{"..", "../..", "../../..", "/", "a", "b", "../b", "a/b", "/a", "/etc", "../../../etc", "../../../etc/passwd", "/proc/self/fd/3", "../fs-secret", ".", "b/../.."}
	types := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeFifo, tar.TypeSymlink, tar.TypeDir}
	var list []tar.Header
	for ; len(program) >= 4 && len(list) < 40; program = program[4:] {
		name := parts[program[1]>>4]
		if program[0]&0x40 != 0 {
			name += "/" + parts[program[1]&15]
		}
		if program[0]&0x80 != 0 {
			name += "/" + parts[program[2]>>4]
		}
		h := tar.Header{Name: name, Typeflag: types[program[0]&7], Mode: 0o777, Uid: int(program[3])}
		switch h.Typeflag {
		case tar.TypeSymlink, tar.TypeLink:
			h.Linkname = links[program[2]&15]
		case tar.TypeDir:
			h.Name += "/"
		}
		if h.Typeflag != tar.TypeDir {
			h.Name = strings.TrimRight(h.Name, "/")
		}
		if program[3]&1 != 0 {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.evil": "1"}
		}
		list = append(list, h)
	}
	return list
}

// FuzzTree looks for a sequence of entries that changes something outside its
// root. Every run of the tests tries the same 100 at random.
func FuzzTree(f *testing.F) {
	random := rand.NewChaCha8([32]byte{'m', 'a', 'y', 'f', 'l', 'y'})
	for range 100 {
		program := make([]byte, 160)
		random.Read(program)
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		a := newArena(t)
		// Entries that are refused end a tar; the rest goes on in the next.
		var tars [][]byte
		for _, h := range headersFrom(program) {
			tars = append(tars, hostileTar(t, h))
		}
		a.unchanged(t, func() { a.unpack(t, tars...) })
	})
}
