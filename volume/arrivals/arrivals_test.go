package arrivals

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bed is a watched directory.
type bed struct {
	t          *testing.T
	dir, notes string
	told       chan File
	opts       Options
	fails      func() error // of the sink; nil: it takes all
	lasts      int          // how often "last" was written
}

func newBed(t *testing.T) *bed {
	dir := t.TempDir()
	b := &bed{t: t, dir: dir + "/volume", notes: dir + "/notes/volume", told: make(chan File, 100_000)}
	b.must(os.Mkdir(b.dir, 0o755))
	b.must(Begin(b.notes))
	return b
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// watch watches until what it returns is called, or the test ends.
func (b *bed) watch() (end func()) {
	b.t.Helper()
	tree, err := Open(b.t.Context(), b.dir, b.notes, func(_ context.Context, files []File) error {
		if b.fails != nil {
			if err := b.fails(); err != nil {
				return err
			}
		}
		for _, f := range files {
			b.told <- f
		}
		return nil
	}, b.opts)
	b.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tree.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("the watch ended with %v", err)
		}
	})
	b.t.Cleanup(end)
	return end
}

func (b *bed) write(name, text string) {
	b.t.Helper()
	b.must(os.MkdirAll(filepath.Dir(b.dir+"/"+name), 0o755))
	b.must(os.WriteFile(b.dir+"/"+name, []byte(text), 0o644))
}

// writeLast writes "last" anew. It has another size each time, for two writes may be
// of the same time where the kernel's clock for files ticks every few milliseconds.
func (b *bed) writeLast() {
	b.t.Helper()
	b.lasts++
	b.write("last", strings.Repeat("x", b.lasts))
}

func (b *bed) shell(script string) {
	b.t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = b.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// until returns the paths that are told of up to and with the last one, each once.
func (b *bed) until(last string) (paths []string) {
	b.t.Helper()
	for {
		select {
		case f := <-b.told:
			if !slices.Contains(paths, f.Path) {
				paths = append(paths, f.Path)
			}
			if f.Path == last {
				return paths
			}
		case <-b.t.Context().Done():
			b.t.Fatalf("%s was not told of, but %v", last, paths)
		}
	}
}

// want looks at what is told of: these, and nothing else; ?x may be.
func (b *bed) want(want ...string) {
	b.t.Helper()
	var got []string
	for range 2 { // a scan may come to the first one early; then it has ended
		b.writeLast()
		got = append(got, b.until("last")...)
	}
	for _, p := range want {
		if p[0] != '?' && !slices.Contains(got, p) {
			got = append(got, b.until(p)...)
		}
	}
	for _, p := range got {
		if p != "last" && !slices.Contains(want, p) && !slices.Contains(want, "?"+p) {
			b.t.Errorf("told of %s, want %q", p, want)
		}
	}
}

func TestWaysToArrive(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"written", "echo a >a.jpg", "a.jpg"},
		{"written again", "echo a >a.jpg; echo b >>a.jpg", "a.jpg"},
		{"empty", ": >a", "a"},
		{"moved into place", "echo a >.a; mv .a a", "a"},
		{"moved over another", "echo a >.a; echo b >a; mv .a a", "a"},
		{"moved in from elsewhere", "echo a >../a; mv ../a a", "a"},
		{"linked into place", "echo a >.a; ln .a a; rm .a", "a"},
		{"in new directories", "mkdir -p x/y/z; echo a >x/y/z/a; echo b >x/b", "x/y/z/a x/b"},
		{"in a directory that moves in", "mkdir -p ../d/e; echo a >../d/e/a; mv ../d d", "d/e/a"},
		{"in a directory that moved and moved back", "mkdir .d; mv .d d; mv d e; echo a >e/a; mv e d; mkdir e; echo b >e/b", "d/a e/b ?e/a"},
		{"taken away at once", "echo a >a; rm a; mkdir d; rmdir d", "?a"},
		{"hidden", "echo a >.a; mkdir .d; echo a >.d/a; mkdir d; echo a >d/.a", ""},
		{"unfinished", "for e in '~' .tmp .part .PARTIAL .crdownload .swp; do echo a >a$e; done", ""},
		{"no file", "ln -s /etc/passwd passwd; ln -s /etc etc; mkfifo pipe", ""},
		{"a name that is no text", `echo a >"$(printf 'a\377')"; echo a >"$(printf 'a\nb')"`, ""},
		{"of another mount namespace", `mkdir m; unshare -m sh -ec 'mount --bind . m; cd m; echo a >a'`, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.script, "unshare") && os.Getuid() != 0 {
				t.Skip("needs root")
			}
			b := newBed(t)
			b.watch()
			b.want() // it is watching
			b.shell(c.script)
			b.want(strings.Fields(c.want)...)
		})
	}
}

// What has no name until it is complete is told of by no close.
func TestFileWithoutName(t *testing.T) {
	b := newBed(t)
	b.watch()
	b.want()
	fd, err := unix.Open(b.dir, unix.O_TMPFILE|unix.O_WRONLY, 0o644)
	if err != nil {
		t.Skip("needs a filesystem with O_TMPFILE")
	}
	_, err = unix.Write(fd, []byte("photo"))
	b.must(err)
	b.must(unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, b.dir+"/a", unix.AT_SYMLINK_FOLLOW))
	b.want() // it is still open
	unix.Close(fd)
	b.until("a")
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rules Rules
		want  string
	}{
		{Rules{}, "a.jpg b.png d/a.jpg d/e/a.jpg"},
		{Rules{Match: []string{"*.jpg"}}, "a.jpg d/a.jpg d/e/a.jpg"},
		{Rules{Match: []string{"*.png", "d/*"}}, "b.png d/a.jpg"},
		{Rules{Match: []string{"*.tmp", ".*"}}, "c.tmp"},
		{Rules{Depth: 1}, "a.jpg b.png"},
		{Rules{Depth: 2}, "a.jpg b.png d/a.jpg"},
	} {
		t.Run(fmt.Sprintf("%+v", c.rules), func(t *testing.T) {
			b := newBed(t)
			if b.opts.Rules = c.rules; len(c.rules.Match) > 0 {
				b.opts.Rules.Match = append(slices.Clone(c.rules.Match), "last")
			}
			for _, name := range []string{"a.jpg", "b.png", "c.tmp", ".h.jpg", "d/a.jpg", "d/e/a.jpg", "d/.x/a.jpg"} {
				b.write(name, "a")
				if b.opts.Rules.whole(name) != slices.Contains(strings.Fields(c.want), name) {
					t.Errorf("whole(%q) is %t", name, b.opts.Rules.whole(name))
				}
			}
			b.watch()
			b.want(strings.Fields(c.want)...)
		})
	}
}

// A file that is written slowly is told of once, when it is complete, by whatever
// writer that is, and also if it was found by a scan.
func TestNothingIncomplete(t *testing.T) {
	b := newBed(t)
	early, err := os.Create(b.dir + "/early")
	b.must(err)
	_, err = early.WriteString("half")
	b.must(err)
	end := b.watch()
	b.want()
	late, err := os.Create(b.dir + "/late")
	b.must(err)
	_, err = late.WriteString("half")
	b.must(err)
	other, err := os.OpenFile(b.dir+"/late", os.O_WRONLY, 0)
	b.must(err)
	b.must(other.Close())
	b.want()
	end()
	b.watch()
	b.want()
	for _, f := range []*os.File{early, late} {
		_, err = f.WriteString(" and half")
		b.must(err)
		b.must(f.Close())
		for told := range b.told {
			if told.Path == filepath.Base(f.Name()) {
				if told.Size != 13 {
					t.Errorf("told of %+v, want 13 bytes", told)
				}
				break
			}
		}
	}
	b.want()
}

// What came while nobody watched is told of, and nothing else.
func TestWhileNobodyWatched(t *testing.T) {
	b := newBed(t)
	b.write("first", "a")
	end := b.watch()
	b.want("first")
	b.write("d/second", "a")
	b.want("d/second")
	end()
	b.shell("echo a >third; mkdir -p e/f; mv d/second e/f/fourth; echo b >>first; touch -a last; chmod 600 last; rm -r d")
	end = b.watch()
	b.want("e/f/fourth", "first", "third")
	end()
	b.must(os.Truncate(b.notes, 8+3*8+5)) // as a crash may leave it
	end = b.watch()
	b.write("fifth", "a")
	b.want("fifth", "?e/f/fourth", "?first", "?third")
	end()
	for len(b.told) > 0 {
		<-b.told
	}
	b.watch()
	b.want()
}

// The same state of a file has the same id, and no other has.
func TestID(t *testing.T) {
	b := newBed(t)
	tree, err := Open(t.Context(), b.dir, b.notes, nil, Options{})
	b.must(err)
	defer unix.Close(tree.top)
	defer tree.in.Close()
	ids := map[string]bool{}
	for _, c := range []struct {
		script, path string
		known        bool
	}{
		{"echo a >a", "a", false}, {"echo bb >a", "a", false}, {"chmod 600 a; ln a b; rm b", "a", true},
		{"cp -p a b; mv b a", "a", false}, {"mv a c", "c", false}, {"mv c a", "a", true}, {"touch -d 2001-01-01 a", "a", false},
	} {
		b.shell(c.script)
		f, _, err := tree.state(c.path)
		b.must(err)
		if ids[f.ID()] != c.known {
			t.Errorf("%s: id %s known %t", c.script, f.ID(), !c.known)
		}
		ids[f.ID()] = true
	}
}

// When the sink fails, nothing is lost, and nothing is told twice that it took.
func TestSinkFails(t *testing.T) {
	b := newBed(t)
	left := 2
	b.fails = func() error {
		if left--; left >= 0 {
			return errors.New("no room")
		}
		return nil
	}
	b.write("a", "a")
	b.watch()
	b.want("a")
}

// More than the kernel's queue holds is found by a scan.
func TestOverflow(t *testing.T) {
	b := newBed(t)
	goOn := make(chan bool)
	b.fails = func() error { <-goOn; return nil }
	b.write("first", "a")
	b.watch()
	const files = 24000 // of 16384 that the queue holds, 4096 that may be due, and a buffer
	b.must(os.Mkdir(b.dir+"/many", 0o755))
	for i := range files {
		b.must(os.WriteFile(fmt.Sprintf("%s/many/%d", b.dir, i), nil, 0o644))
	}
	close(goOn)
	seen := map[string]bool{}
	for len(seen) < files+1 {
		seen[(<-b.told).Path] = true
	}
}

func TestBounds(t *testing.T) {
	b := newBed(t)
	warned := make(chan string, 9)
	b.opts = Options{MaxDirs: 2, MaxKept: 3, Warn: func(text string) { warned <- text }}
	for i := range 5 {
		b.write(fmt.Sprintf("d%d/a", i), "a")
	}
	end := b.watch()
	if text := <-warned; !strings.Contains(text, "more than 2 directories") {
		t.Errorf("warned of %q", text)
	}
	b.want("d0/a", "d1/a", "d2/a", "d3/a", "d4/a")
	end()
	for range 3 { // the note is small, and so is what is told twice
		end = b.watch()
		b.writeLast()
		b.until("last")
		end()
	}
	if st, err := os.Stat(b.notes); err != nil || st.Size() > 8+8*6 {
		t.Errorf("the note has %d bytes, %v", st.Size(), err)
	}
}

// Of a directory that had files before it was watched, those are no news.
func TestRebase(t *testing.T) {
	b := newBed(t)
	b.must(Forget(b.notes))
	b.must(Forget(b.notes))
	b.write("old.jpg", "a")
	end := b.watch() // without a note all is known
	b.want()
	end()
	b.write("between.jpg", "a")
	b.must(Rebase(t.Context(), b.dir, b.notes, b.opts, nil))
	end = b.watch()
	b.want()
	end()
	// Files that other rules let in are known, and those that they let in before are not.
	b.write("new.jpg", "a")
	b.write("new.png", "a")
	before := Rules{Match: []string{"*.jpg"}}
	b.must(Rebase(t.Context(), b.dir, b.notes, b.opts, &before))
	b.watch()
	b.want("new.jpg")
}

func TestNothingBesides(t *testing.T) {
	b := newBed(t)
	link := b.dir + "-link"
	b.must(os.Symlink(b.dir, link))
	if _, err := Open(t.Context(), link, b.notes, nil, Options{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a link was opened: %v", err)
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	b.must(os.Mkdir(b.dir+"/mounted", 0o755))
	b.must(unix.Mount("none", b.dir+"/mounted", "tmpfs", 0, ""))
	defer func() { b.must(unix.Unmount(b.dir+"/mounted", 0)) }()
	b.write("mounted/a", "a")
	end := b.watch()
	b.want()
	end()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00a\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got := parse(text); len(got) > len(text)/unix.SizeofInotifyEvent {
			t.Errorf("%d changes of %d bytes", len(got), len(text))
		}
	})
}
