package queue

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk/disktest"
)

// noise is a payload of so many bytes, the same for the same number.
func noise(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	return data
}

func (n *node) put(data []byte) string {
	n.t.Helper()
	ref, size, err := n.PutPayload(n.t.Context(), home, iotest.HalfReader(bytes.NewReader(data)))
	if err != nil || size != int64(len(data)) {
		n.t.Fatalf("put %d bytes: %d, %v", len(data), size, err)
	}
	return ref
}

// gets checks what a granted task gets.
func (n *node) gets(g *Grant, data []byte) {
	n.t.Helper()
	r, err := g.OpenPayload(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) || g.Task.Size != len(data) {
		n.t.Errorf("got %d bytes of %d, %v; the task says %d", len(got), len(data), err, g.Task.Size)
	}
}

// files are the names of the files of payloads.
func (n *node) files() (names []string) {
	n.t.Helper()
	err := filepath.WalkDir(filepath.Join(n.dir, payloadsDir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, d.Name())
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return names
}

// empty fails when a payload is left.
func (n *node) empty() {
	n.t.Helper()
	if names := n.files(); len(names) > 0 || n.payloads.used.Load() != 0 {
		n.t.Errorf("left are %q, %d bytes counted", names, n.payloads.used.Load())
	}
}

func TestPayloadOfEverySize(t *testing.T) {
	n := startNode(t)
	for _, size := range []int{0, 1, MaxInline, MaxInline + 1, 5 << 20} {
		data := noise(size)
		task := n.submit(mayfly.Submission{Workload: "w", PayloadRef: n.put(data)})[0]
		r, length, err := n.OpenPayload(t.Context(), home, task.ID)
		if err != nil || length != int64(size) {
			t.Fatalf("%d bytes, %v", length, err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		r.Close()
		g := n.next()
		n.gets(g, data)
		n.done(g, mayfly.Succeeded)
		_, _, err = n.OpenPayload(t.Context(), home, task.ID)
		want(t, err, mayfly.NotFound)
		n.empty()
	}
}

// TestLargePayloadGoesWithItsTask: through retries, dead letters and waiting
// for a time, over power cuts, until the outcome.
func TestLargePayloadGoesWithItsTask(t *testing.T) {
	data := noise(3 << 20)
	n := startNode(t)
	sub := mayfly.Submission{Workload: "w", PayloadRef: n.put(data), Retries: mayfly.Retries{Max: 1, Delays: []time.Duration{0}}}
	id := n.submit(sub)[0].ID
	over := func() {
		t.Helper()
		n = n.crash(Options{})
		n.start()
	}
	over()
	n.gets(n.next(), data)
	over() // while it runs
	g := n.next()
	n.gets(g, data)
	n.done(g, mayfly.ExitedNonZero)
	over()
	g = n.next()
	n.gets(g, data)
	if task := n.done(g, mayfly.ExitedNonZero); task.State != mayfly.TaskBuried {
		t.Fatalf("%+v", task)
	}
	over()
	if _, err := n.Retry(t.Context(), home, id); err != nil {
		t.Fatal(err)
	}
	g = n.next()
	n.gets(g, data)
	n.done(g, mayfly.Succeeded)
	n.empty()

	sub.PayloadRef, sub.NotBefore = n.put(data), time.Now().Add(time.Hour)
	id = n.submit(sub)[0].ID
	over()
	if r, size, err := n.OpenPayload(t.Context(), home, id); err != nil || size != int64(len(data)) {
		t.Errorf("%d, %v", size, err)
	} else {
		r.Close()
	}
	if _, err := n.Cancel(t.Context(), home, id); err != nil {
		t.Fatal(err)
	}
	n.empty()

	sub.PayloadRef, sub.NotBefore, sub.Retries.Max = n.put(data), time.Time{}, 1
	id = n.submit(sub)[0].ID
	n.done(n.next(), mayfly.ExitedNonZero)
	n.done(n.next(), mayfly.ExitedNonZero)
	if _, err := n.Purge(t.Context(), home, id); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestLargePayloadHasAKey(t *testing.T) {
	n := startNode(t)
	data := noise(2 << 20)
	sub := mayfly.Submission{Workload: "w", Key: "k", PayloadRef: n.put(data)}
	first := n.submit(sub)[0]
	same := func(ref string) {
		t.Helper()
		sub.PayloadRef = ref
		if a := n.Submit(t.Context(), []mayfly.Submission{sub})[0]; a.Err != nil || a.New || a.Task.ID != first.ID {
			t.Errorf("%+v", a)
		}
	}
	same(sub.PayloadRef) // an answer was lost
	same(n.put(data))
	sub.PayloadRef = n.put(noise(2<<20 + 1))
	want(t, n.Submit(t.Context(), []mayfly.Submission{sub})[0].Err, mayfly.Conflict)
	g := n.next()
	n.gets(g, data)
	n.done(g, mayfly.Succeeded)
	same(n.put(data))

	small := work("v")
	small.Key = "k"
	first = n.submit(small)[0]
	sub.Workload = "v"
	same(n.put(small.Payload))

	twice := mayfly.Submission{Workload: "w", PayloadRef: n.put(data)}
	n.submit(twice, twice)
	want(t, n.Submit(t.Context(), []mayfly.Submission{twice})[0].Err, mayfly.NotFound)
	for range 3 {
		g := n.next()
		if g.Task.Workload == "w" {
			n.gets(g, data)
		}
		n.done(g, mayfly.Succeeded)
	}
}

// TestKeyLimitOfLargePayloads: the field counts when it lies in the first 1 MB.
func TestKeyLimitOfLargePayloads(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "w", Key: mayfly.KeyLimit{Field: "user.id", Max: 1}})
	rest := strings.Repeat("x", MaxInline)
	for payload, key := range map[string]string{
		`{"a": [1, {"user": 2}], "user": {"name": {}, "id": "ann"}, "rest": "` + rest + `"}`: `"ann"`,
		`{"user": {"id": 7, "rest": "` + rest + `"}}`:                                        `7`,
		`{"rest": "` + rest + `", "user": {"id": 7}}`:                                        ``,
		`{"user": 7, "rest": "` + rest + `"}`:                                                ``,
		`[` + rest + rest:                                                                    ``,
		`{"user": {"other": 1}, "id": 2, "rest": "` + rest + `"}`:                            ``,
	} {
		task := n.submit(mayfly.Submission{Workload: "w", PayloadRef: n.put([]byte(payload))})[0]
		if task.LimitKey != key {
			t.Errorf("%.80s: %q", payload, task.LimitKey)
		}
	}
}

func TestUploadThatIsRefused(t *testing.T) {
	n := newNode(t, Options{MaxPayload: 2 << 20, MaxBytes: 5 << 20})
	_, _, err := n.PutPayload(t.Context(), home, bytes.NewReader(noise(2<<20+1)))
	want(t, err, mayfly.TooLarge)
	if !strings.Contains(err.Error(), "2097152 bytes") {
		t.Errorf("the error does not name the limit: %v", err)
	}
	broken := errors.New("broken")
	_, _, err = n.PutPayload(t.Context(), home, io.MultiReader(bytes.NewReader(noise(1<<20)), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	_, _, err = n.PutPayload(t.Context(), home, io.MultiReader(bytes.NewReader(noise(1<<20)), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that broke off: %v", err)
	}
	_, _, err = n.PutPayload(t.Context(), "../x", strings.NewReader("x"))
	want(t, err, mayfly.Invalid)
	n.empty()

	one, two := n.put(noise(2<<20)), n.put(noise(2<<20))
	_, _, err = n.PutPayload(t.Context(), home, bytes.NewReader(noise(2<<20)))
	want(t, err, mayfly.Busy)
	for name, c := range map[string]struct {
		kind mayfly.Kind
		sub  mayfly.Submission
	}{
		"no ref":        {mayfly.Invalid, mayfly.Submission{Workload: "w", PayloadRef: "x"}},
		"path":          {mayfly.Invalid, mayfly.Submission{Workload: "w", PayloadRef: "../" + one}},
		"both":          {mayfly.Invalid, mayfly.Submission{Workload: "w", PayloadRef: one, Payload: []byte("x")}},
		"another space": {mayfly.NotFound, mayfly.Submission{Space: "other", Workload: "w", PayloadRef: one}},
		"not there":     {mayfly.NotFound, mayfly.Submission{Workload: "w", PayloadRef: "1" + one[1:]}},
		"another size":  {mayfly.NotFound, mayfly.Submission{Workload: "w", PayloadRef: one[:len(one)-1] + "1"}},
	} {
		good := mayfly.Submission{Workload: "w", PayloadRef: two}
		a := n.Submit(t.Context(), []mayfly.Submission{good, c.sub})
		if mayfly.KindOf(a[1].Err) != c.kind || a[0].Err == nil {
			t.Errorf("%s: %v, %v", name, a[0].Err, a[1].Err)
		}
	}
	if names := n.files(); len(names) != 2 {
		t.Errorf("files %q", names)
	}
	n.submit(mayfly.Submission{Workload: "w", PayloadRef: one}, mayfly.Submission{Workload: "w", PayloadRef: two})
	want(t, n.Submit(t.Context(), []mayfly.Submission{{Workload: "w", Payload: make([]byte, MaxInline)}, {Workload: "w", Payload: make([]byte, MaxInline)}})[0].Err, mayfly.Busy)

	n.deploy(mayfly.Workload{Name: "picky", MaxBody: 10})
	want(t, n.Queue.Submit(t.Context(), []mayfly.Submission{{Workload: "picky", Payload: make([]byte, 11)}})[0].Err, mayfly.TooLarge)
}

// TestPayloadsAfterACrash: uploads stay, and what belongs to no task goes.
func TestPayloadsAfterACrash(t *testing.T) {
	n := startNode(t)
	data := noise(2 << 20)
	waits := n.submit(mayfly.Submission{Workload: "w", PayloadRef: n.put(data)})[0]
	over := n.submit(mayfly.Submission{Workload: "v", PayloadRef: n.put(data), Priority: 9})[0]
	ref := n.put(data)
	keep := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(n.dir, payloadsDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for {
		if g := n.next(); g.Task.ID == over.ID {
			n.done(g, mayfly.Succeeded)
			break
		}
	}
	keep(payloadName(over), "it has its outcome")
	keep(payloadName(mayfly.Task{Space: home, ID: mayfly.NewID(), Digest: over.Digest}), "it was never accepted")
	keep(payloadName(mayfly.Task{Space: home, Workload: "w", ID: waits.ID, Digest: strings.Repeat("0", 32)}), "another was")
	keep(partPrefix+"x", "it was being uploaded")
	old := uploadName(home, mayfly.NewID()+"-"+strings.Repeat("0", 32)+"-4")
	keep(old, "long")
	long := time.Now().Add(-2 * uploadLife)
	if err := os.Chtimes(filepath.Join(n.dir, payloadsDir, old), long, long); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n = openNode(t, n.dir, Options{})
	n.start()
	n.gets(n.next(), data)
	n.submit(mayfly.Submission{Workload: "w", PayloadRef: ref})
	n.gets(n.next(), data)
	// The sweep tells nobody, and counts a file off when it has gone.
	left := func() bool { return len(n.files()) == 2 && n.payloads.used.Load() == 2*int64(len(data)) }
	for deadline := time.Now().Add(patience); !left(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left are %q, %d bytes counted", n.files(), n.payloads.used.Load())
		}
	}
}

// TestPayloadOnAFullDisk: what has no room is refused with a word about it, and
// tasks are accepted and ended all the same.
func TestPayloadOnAFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=128m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	n := openNode(t, dir, Options{})
	n.start()
	_, _, err := n.PutPayload(t.Context(), home, bytes.NewReader(make([]byte, 200<<20)))
	want(t, err, mayfly.Busy)
	if !strings.Contains(err.Error(), "disk") {
		t.Errorf("%v", err)
	}
	n.empty()
	ref := n.put(noise(40 << 20))
	_, _, err = n.PutPayload(t.Context(), home, bytes.NewReader(make([]byte, 60<<20)))
	want(t, err, mayfly.Busy)
	n.submit(work("w"))
	n.done(n.next(), mayfly.Succeeded)
	n.submit(mayfly.Submission{Workload: "w", PayloadRef: ref})
	n.done(n.next(), mayfly.Succeeded)
	n.empty()
}

func FuzzPayloadRef(f *testing.F) {
	f.Add("01234567890123456789-" + strings.Repeat("a", 32) + "-1000001")
	f.Add("../01234567890123456789-" + strings.Repeat("a", 32) + "-1")
	f.Add("01234567890123456789-" + strings.Repeat("a", 32) + "-999999999999999999999")
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := parseRef(text)
		if err == nil && (strings.ContainsAny(text, "./\x00") || ref.size < 0 || len(ref.digest) != 32) {
			t.Errorf("%q is %+v", text, ref)
		}
	})
}

func FuzzPayloadName(f *testing.F) {
	f.Add("default._image.01234567890123456789-aa")
	f.Add("default.w.x.y")
	f.Fuzz(func(t *testing.T, name string) {
		space, queue, id, digest, ok := splitPayloadName(name)
		task := mayfly.Task{Space: space, Workload: strings.TrimPrefix(queue, imageQueue), ID: id, Digest: digest}
		if ok && payloadName(task) != name {
			t.Errorf("%q is %q", name, payloadName(task))
		}
	})
}

// TestUploadIsOnDisk: an upload that was answered is there after a power loss.
func TestUploadIsOnDisk(t *testing.T) {
	d := disktest.New(t)
	n := openNode(t, d.Dir, Options{})
	n.start()
	data := noise(MaxInline + 1)
	ref := n.put(data)
	got, err := os.ReadFile(filepath.Join(d.AfterPowerLoss(), payloadsDir, uploadName(home, ref)))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d are there, %v", len(got), len(data), err)
	}
}
