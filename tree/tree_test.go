package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openDir(t testing.TB, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func openRoot(t testing.TB, path string) *Dir {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := Root(fd)
	t.Cleanup(func() { d.Close() })
	return d
}

// lay makes files: "dir/", "file=text", "link>target".
func lay(t testing.TB, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		var err error
		if link, to, ok := strings.Cut(n, ">"); ok {
			err = os.Symlink(to, dir+"/"+link)
		} else if file, text, ok := strings.Cut(n, "="); ok {
			err = os.WriteFile(dir+"/"+file, []byte(text), 0o644)
		} else {
			err = os.Mkdir(dir+"/"+n, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// look tells what is beneath a directory, as lay is told.
func look(t testing.TB, dir string) []string {
	t.Helper()
	all := []string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return err
		case name == ".":
		case e.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(path)
			all = append(all, name+">"+to)
		case e.IsDir():
			all = append(all, name+"/")
		case e.Type().IsRegular():
			data, err := os.ReadFile(path)
			all = append(all, name+"="+string(data))
			return err
		default:
			all = append(all, name+" "+e.Type().String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestWhereACopyLands is the table of `docker cp`.
func TestWhereACopyLands(t *testing.T) {
	for _, tt := range []struct {
		name     string
		there    []string // at the target
		src, dst string
		want     []string // besides there; what is named twice replaced it
		kind     mayfly.Kind
	}{
		{name: "a file to a new name", src: "f", dst: "new", want: []string{"new=F"}},
		{name: "a file into a directory", there: []string{"d/"}, src: "f", dst: "d", want: []string{"d/f=F"}},
		{name: "a file into a directory with a slash", there: []string{"d/"}, src: "f", dst: "d/", want: []string{"d/f=F"}},
		{name: "a file into the top", src: "f", dst: "/", want: []string{"f=F"}},
		{name: "a file over a file", there: []string{"old=O"}, src: "f", dst: "old", want: []string{"old=F"}},
		{name: "a file to no directory", src: "f", dst: "new/", kind: mayfly.NotFound},
		{name: "a file below no directory", src: "f", dst: "no/new", kind: mayfly.NotFound},
		{name: "a file below a file", there: []string{"old=O"}, src: "f", dst: "old/", kind: mayfly.Conflict},
		{name: "a directory to a new name", src: "tree", dst: "new", want: []string{"new/", "new/a=A", "new/sub/", "new/sub/l>../a"}},
		{name: "a directory to a new name with a slash", src: "tree", dst: "new/", want: []string{"new/", "new/a=A", "new/sub/", "new/sub/l>../a"}},
		{name: "a directory into a directory", there: []string{"d/"}, src: "tree", dst: "d", want: []string{"d/tree/", "d/tree/a=A", "d/tree/sub/", "d/tree/sub/l>../a"}},
		{name: "contents to a new name", src: "tree/.", dst: "new", want: []string{"new/", "new/a=A", "new/sub/", "new/sub/l>../a"}},
		{name: "contents into a directory", there: []string{"d/"}, src: "tree/.", dst: "d", want: []string{"d/a=A", "d/sub/", "d/sub/l>../a"}},
		{name: "contents into the top", there: []string{"a=old"}, src: "tree/.", dst: "/", want: []string{"a=A", "sub/", "sub/l>../a"}},
		{name: "a directory over a file", there: []string{"old=O"}, src: "tree", dst: "old", kind: mayfly.Conflict},
		{name: "a file over a directory of its name", there: []string{"d/", "d/f/"}, src: "f", dst: "d", kind: mayfly.Conflict},
		{name: "a link is copied as one", src: "l", dst: "new", want: []string{"new>tree"}},
		{name: "a link that is followed", src: "l/", dst: "new", want: []string{"new/", "new/a=A", "new/sub/", "new/sub/l>../a"}},
		{name: "to a link to a directory", there: []string{"d/", "l>d"}, src: "f", dst: "l", want: []string{"d/f=F"}},
		{name: "to a link to a file", there: []string{"d/", "d/x=X", "l>d/x"}, src: "f", dst: "l", want: []string{"d/x=F"}},
		{name: "to a link to nothing yet", there: []string{"d/", "l>d/x"}, src: "f", dst: "l", want: []string{"d/x=F"}},
		{name: "to links that lead in a circle", there: []string{"l>m", "m>l"}, src: "f", dst: "l", kind: mayfly.Conflict},
		{name: "what is not there", src: "nosuch", dst: "new", kind: mayfly.NotFound},
		{name: "a file as a directory", src: "f/", dst: "new", kind: mayfly.Conflict},
		{name: "to nowhere", src: "f", dst: "", kind: mayfly.Invalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			lay(t, from, "f=F", "tree", "tree/a=A", "tree/sub", "tree/sub/l>../a", "l>tree")
			for _, n := range tt.there {
				lay(t, to, strings.TrimSuffix(n, "/"))
			}
			err := copyTree(t.Context(), openDir(t, from), tt.src, openRoot(t, to), tt.dst, Options{})
			if mayfly.KindOf(err) != tt.kind {
				t.Fatalf("got %v, want kind %q", err, tt.kind)
			}
			all := map[string]bool{}
			for _, n := range slices.Concat(tt.there, tt.want) {
				for old := range all {
					if name, _, ok := strings.Cut(n, "="); ok && strings.HasPrefix(old, name+"=") {
						delete(all, old)
					}
				}
				all[n] = true
			}
			for _, n := range look(t, to) {
				if !all[n] {
					t.Errorf("there is %s", n)
				}
				delete(all, n)
			}
			for n := range all {
				t.Errorf("there is no %s", n)
			}
		})
	}
}

func copyTree(ctx context.Context, from *Dir, src string, to *Dir, dst string, o Options) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := from.Write(ctx, w, src)
		w.CloseWithError(err)
		written <- err
	}()
	_, err := to.Extract(ctx, r, dst, o)
	r.Close()
	if failed := <-written; failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		return failed
	}
	return err
}

// archive is a tar stream of these entries.
func archive(t testing.TB, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		text := ""
		if h.Typeflag == tar.TypeReg {
			text = "stolen"
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	w.Close()
	return &b
}

// TestNoStreamLeadsOut: whatever names and links a stream has, nothing outside
// the target is touched; in a directory of ours and in a root.
func TestNoStreamLeadsOut(t *testing.T) {
	dir, link, hard := byte(tar.TypeDir), byte(tar.TypeSymlink), byte(tar.TypeLink)
	for name, headers := range map[string][]tar.Header{
		"dots":                {{Name: "x/", Typeflag: dir}, {Name: "x/../../out"}},
		"dots at once":        {{Name: "../../out"}},
		"absolute":            {{Name: "/out"}},
		"through a link":      {{Name: "x/", Typeflag: dir}, {Name: "x/l", Typeflag: link, Linkname: "../.."}, {Name: "x/l/out"}},
		"through an absolute": {{Name: "x/", Typeflag: dir}, {Name: "x/l", Typeflag: link, Linkname: "OUTSIDE"}, {Name: "x/l/out"}},
		"over a link":         {{Name: "x/", Typeflag: dir}, {Name: "x/l", Typeflag: link, Linkname: "OUTSIDE/victim"}, {Name: "x/l"}},
		"the top is a link":   {{Name: "x", Typeflag: link, Linkname: "OUTSIDE"}, {Name: "x/out"}},
		"a hard link":         {{Name: "x/", Typeflag: dir}, {Name: "x/h", Typeflag: hard, Linkname: "../victim"}, {Name: "x/h"}},
		"a hard link, dots":   {{Name: "x/", Typeflag: dir}, {Name: "x/h", Typeflag: hard, Linkname: "x/../../victim"}},
		"a directory, linked": {{Name: "x/", Typeflag: dir}, {Name: "x/l", Typeflag: link, Linkname: "OUTSIDE"}, {Name: "x/l", Typeflag: dir}, {Name: "x/l/out"}},
		"beside the tree":     {{Name: "x/", Typeflag: dir}, {Name: "y"}},
		"a link beside":       {{Name: "x/", Typeflag: dir}, {Name: "x/l", Typeflag: link, Linkname: "../beside"}, {Name: "x/l/out"}},
	} {
		for _, kind := range []string{"local new", "local into", "root"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				outside := t.TempDir()
				target := outside + "/target"
				lay(t, outside, "victim=safe", "target", "target/beside", "empty")
				for i := range headers {
					headers[i].Linkname = strings.ReplaceAll(headers[i].Linkname, "OUTSIDE", outside)
				}
				d, dst, o := openDir(t, target), "new", Options{}
				switch kind {
				case "local into":
					dst, o.Into = ".", true
				case "root":
					d, dst = openRoot(t, target), "/new"
				}
				_, err := d.Extract(t.Context(), archive(t, headers...), dst, o)
				t.Log(err)
				got := look(t, outside)
				for _, n := range got {
					if inside := strings.HasPrefix(n, "target/"); !inside && n != "victim=safe" && n != "empty/" {
						t.Errorf("outside there is %s", n)
					}
					if kind == "local new" && strings.HasPrefix(n, "target/") && !strings.HasPrefix(n, "target/new") && n != "target/" && n != "target/beside/" {
						t.Errorf("beside the tree there is %s", n)
					}
				}
				if !slices.Contains(got, "victim=safe") {
					t.Errorf("the victim has changed: %q", got)
				}
			})
		}
	}
}

// TestLinksThatMoveWhileFilesAreCopied: a hostile program swaps a directory for
// a link all the time, inward and outward.
func TestLinksThatMoveWhileFilesAreCopied(t *testing.T) {
	base := t.TempDir()
	lay(t, base, "root", "root/d", "root/d/s=inside", "secret", "secret/s=outside", "src", "src/s=copied")
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(base+"/root/d", base+"/root/e")
			os.Symlink([]string{base + "/secret", "../secret"}[i%2], base+"/root/d")
			os.Remove(base + "/root/d")
			os.Rename(base+"/root/e", base+"/root/d")
		}
	})
	root, src := openRoot(t, base+"/root"), openDir(t, base+"/src")
	for range 500 {
		var out bytes.Buffer
		root.Write(t.Context(), &out, "/d/s")
		root.Write(t.Context(), &out, "/.")
		if bytes.Contains(out.Bytes(), []byte("outside")) {
			t.Fatal("what is outside was read")
		}
		copyTree(t.Context(), src, "s", root, "/d/s", Options{})
	}
	close(stop)
	swapping.Wait()
	if got, _ := os.ReadFile(base + "/secret/s"); string(got) != "outside" {
		t.Errorf("what is outside was written: %q", got)
	}
}

// TestAFifoIsSwappedForALink: chmod(2) would follow a link that a hostile program
// put in the place of a fifo just made, out of the container.
func TestAFifoIsSwappedForALink(t *testing.T) {
	base := t.TempDir()
	lay(t, base, "root", "secret=outside")
	if err := os.Chmod(base+"/secret", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base+"/secret", base+"/root/fifo"); err != nil {
		t.Fatal(err)
	}
	if err := chmodFifo(openDir(t, base+"/root").fd, "fifo", 0o666); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("the link is taken for the fifo: %v", err)
	}
	if st, err := os.Stat(base + "/secret"); err != nil || st.Mode() != 0o600 {
		t.Errorf("what is outside has another mode now: %v, %v", st.Mode(), err)
	}
}

// TestOnlyRegularFilesAreOpened: fifos and devices are told of, not opened, and
// devices are never made.
func TestOnlyRegularFilesAreOpened(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	from, to := t.TempDir(), t.TempDir()
	lay(t, from, "x", "x/f=F")
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO | 0o640, "null": unix.S_IFCHR | 0o666, "disk": unix.S_IFBLK | 0o600, "sock": unix.S_IFSOCK | 0o600} {
		if err := unix.Mknod(from+"/x/"+name, mode, int(unix.Mkdev(1, 3))); err != nil {
			t.Skip("device nodes cannot be made here: ", err)
		}
	}
	if err := os.Link(from+"/x/f", from+"/x/same"); err != nil {
		t.Fatal(err)
	}
	d := openRoot(t, from)
	if _, err := d.ReadFile("x/fifo"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a fifo was opened: %v", err)
	}
	var b bytes.Buffer
	if err := d.Write(t.Context(), &b, "x"); err != nil {
		t.Fatal(err)
	}
	report, err := openDir(t, to).Extract(t.Context(), &b, ".", Options{})
	slices.Sort(report.Skipped)
	if err != nil || !slices.Equal(report.Skipped, []string{"x/disk", "x/null"}) {
		t.Errorf("%+v, %v", report, err)
	}
	if got := look(t, to); fmt.Sprint(got) != "[x/ x/f=F x/fifo p--------- x/same=F]" {
		t.Errorf("%q", got)
	}
	var one, two unix.Stat_t
	if unix.Stat(to+"/x/f", &one) != nil || unix.Stat(to+"/x/same", &two) != nil || one.Ino != two.Ino {
		t.Error("two names of one file are two files")
	}
	// A fifo and a device in the way are replaced, not written to.
	for _, name := range []string{"fifo", "null"} {
		if err := copyTree(t.Context(), openDir(t, from), "x/f", openRoot(t, from), "/x/"+name, Options{}); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(from + "/x/" + name); string(got) != "F" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestOwnersAndModes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	headers := []tar.Header{
		{Name: "x/", Typeflag: tar.TypeDir, Mode: 0o500, Uid: 7, Gid: 8},
		{Name: "x/f", Mode: 0o6755, Uid: 7, Gid: 8},
		{Name: "x/l", Typeflag: tar.TypeSymlink, Linkname: "f", Uid: 7, Gid: 8},
	}
	for _, tt := range []struct {
		o        Options
		uid, gid uint32
		mode     uint32
	}{
		{Options{}, 0, 0, 0o755},
		{Options{Owner: &Owner{33, 44}}, 33, 44, 0o755},
		{Options{Keep: true}, 7, 8, 0o6755},
	} {
		to := t.TempDir()
		if _, err := openDir(t, to).Extract(t.Context(), archive(t, headers...), ".", tt.o); err != nil {
			t.Fatal(err)
		}
		for name, mode := range map[string]uint32{"x": 0o500, "x/f": tt.mode, "x/l": 0o777} {
			var st unix.Stat_t
			if err := unix.Lstat(to+"/"+name, &st); err != nil || st.Uid != tt.uid || st.Gid != tt.gid || st.Mode&0o7777 != mode {
				t.Errorf("%+v: %s is %d:%d %o, %v", tt.o, name, st.Uid, st.Gid, st.Mode&0o7777, err)
			}
		}
	}
}

func TestWhatIsNoTreeIsRefused(t *testing.T) {
	var whole bytes.Buffer
	from := t.TempDir()
	lay(t, from, "f="+strings.Repeat("x", 10_000))
	if err := openDir(t, from).Write(t.Context(), &whole, "f"); err != nil {
		t.Fatal(err)
	}
	for name, stream := range map[string]io.Reader{
		"nothing": strings.NewReader(""), "no tar": strings.NewReader(strings.Repeat("x", 2000)),
		"broken off": bytes.NewReader(whole.Bytes()[:5000]),
	} {
		to := t.TempDir()
		if _, err := openDir(t, to).Extract(t.Context(), stream, "f", Options{}); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if got := look(t, to); len(got) > 0 {
			t.Errorf("%s: there is %q", name, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := openDir(t, t.TempDir()).Extract(ctx, &whole, "f", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "x/", Typeflag: tar.TypeDir}, tar.Header{Name: "x/f"}).Bytes(), false)
	f.Add(archive(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, tar.Header{Name: "l/f"}).Bytes(), true)
	f.Fuzz(func(t *testing.T, stream []byte, into bool) {
		base := t.TempDir()
		lay(t, base, "in", "victim=safe")
		openDir(t, base+"/in").Extract(t.Context(), bytes.NewReader(stream), ".", Options{Into: into})
		os.Chmod(base+"/in", 0o700)
		entries, err := os.ReadDir(base)
		data, err2 := os.ReadFile(base + "/victim")
		if err != nil || err2 != nil || len(entries) != 2 || string(data) != "safe" {
			t.Fatalf("outside there is %v, %q, %v, %v", entries, data, err, err2)
		}
	})
}
