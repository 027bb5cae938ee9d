// Package arrivals tells of files that have come into a directory and are complete.
//
// A file counts when nobody has it open for writing any more: it was closed after
// writing, or moved or linked in. Whoever wrote it, in whatever mount namespace, the
// kernel says so (inotify, one watch for each directory). It promises:
//   - At least once. What was told is noted on disk after the sink took it, and what
//     came while nobody watched, or more than the kernel's queue holds, is found by a
//     scan that leaves out what is noted. A crash in between tells a file again, with
//     the same File.
//   - A file that is being written is never told of, also not by a scan: a read lease
//     on it is what the kernel refuses as long as anybody may write.
//   - A directory is watched before it is scanned, so nothing falls in between.
//   - No link is followed, nothing above or mounted in the directory is reached, and
//     no contents are read.
//
// A File is a path with the state of what lies there: one that is written again is
// another File. For the moment of a look the lease stands; a program that opens the
// file for writing then waits some microseconds.
//
//	kernel ──► reader ──► loop ──┬─ look: written to? ──► later ─┐
//	             scan ──────────►│◄──────────────────────────────┘
//	                             └─ complete ──► sink ──► note
package arrivals

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// File is a state of a file that was complete.
type File struct {
	Path    string // below the directory, with slashes
	Size    int64  // bytes
	ModTime time.Time
	Inode   uint64
}

// sum stands for the file in this state.
func (f *File) sum() [sha256.Size]byte {
	state := strconv.FormatUint(f.Inode, 10) + " " + strconv.FormatInt(f.ModTime.UnixNano(), 10) + " " + strconv.FormatInt(f.Size, 10)
	return sha256.Sum256([]byte(f.Path + "\x00" + state))
}

// mark is what is noted of a file that was told of.
func (f *File) mark() uint64 {
	sum := f.sum()
	return binary.LittleEndian.Uint64(sum[:8])
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// ID is the same for the same path, size, time of change and inode, and no other.
func (f *File) ID() string {
	sum := f.sum()
	return idEncoding.EncodeToString(sum[:20])
}

// Sink takes complete files, 1 to 100 of them. When it returns nil they are not
// given to it again, but for crashes; after an error they are, some time later.
type Sink func(ctx context.Context, files []File) error

// Options tune a Tree. The zero value is fit for production.
type Options struct {
	Log     *slog.Logger      // nil: no log
	Rules   Rules             // which files count
	MaxDirs int               // directories that are watched; 8192 if zero
	MaxKept int               // files that are noted, 8 bytes each; 1,000,000 if zero
	Warn    func(text string) // told once of each bound that was reached; nil: nobody
}

const (
	batch      = 100              // files that the sink gets at once
	maxDue     = 4096             // files that wait for the sink; then the kernel's queue fills
	maxLater   = 4096             // files that are being written; others a scan finds
	firstLook  = time.Millisecond // until a file that is written to is looked at again
	lastLook   = 10 * time.Second
	emptyWait  = time.Second // how long an empty file that a scan found may be one that is being made
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// ErrGone means that the directory is no more, or was unmounted.
var ErrGone = errors.New("the watched directory is gone")

// Tree watches one directory and those below it. It is for one Run.
type Tree struct {
	top  int // descriptor of the directory
	note *note
	opts Options
	sink Sink
	log  *slog.Logger

	in     *os.File       // inotify
	inFD   int            // its descriptor
	dirs   map[int]string // watched directories, by watch
	due    []File         // complete, for the sink
	later  map[string]*pending
	warned map[string]bool
	rescan bool
	retry  time.Duration // how long the sink that failed is left alone; 0: it did not
	after  time.Time     // when that is over
}

// pending is a file that somebody wrote to when it was looked at.
type pending struct {
	at   time.Time     // when to look again
	wait time.Duration // how long after that
}

// Open opens a directory, and the file in which it is noted what was told; where
// that is not there, all files that are in the directory now count as told. Run
// begins.
func Open(ctx context.Context, dir, notes string, sink Sink, o Options) (_ *Tree, err error) {
	t := newTree(notes, sink, o)
	if _, err := os.Lstat(notes); errors.Is(err, fs.ErrNotExist) {
		if err := Rebase(ctx, dir, notes, o, nil); err != nil {
			return nil, err
		}
	}
	if t.top, err = openTop(dir); err != nil {
		return nil, err
	}
	if t.inFD, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		unix.Close(t.top)
		return nil, explain("open inotify", err)
	}
	t.in = os.NewFile(uintptr(t.inFD), "inotify")
	return t, nil
}

func newTree(notes string, sink Sink, o Options) *Tree {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MaxDirs, o.MaxKept = cmp.Or(o.MaxDirs, 8192), cmp.Or(o.MaxKept, 1_000_000)
	return &Tree{
		opts: o, sink: sink, log: o.Log, note: &note{path: notes, most: o.MaxKept},
		dirs: map[int]string{}, later: map[string]*pending{}, warned: map[string]bool{}, rescan: true,
	}
}

// openTop opens a directory that is ours to name.
func openTop(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// explain says which of the kernel's bounds was reached.
func explain(what string, err error) error {
	switch {
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%s: %w (raise fs.inotify.max_user_instances with sysctl)", what, err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%s: %w (raise fs.inotify.max_user_watches with sysctl)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Run tells of files until ctx ends, or the directory does: ErrGone. It closes the
// tree.
func (t *Tree) Run(ctx context.Context) error {
	defer unix.Close(t.top)
	defer t.note.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read, ended := make(chan []change), make(chan error, 1)
	go func() { ended <- t.read(ctx, read) }()
	err := t.loop(ctx, read)
	cancel()
	t.in.Close() // ends the reader
	<-ended
	return err
}

func (t *Tree) loop(ctx context.Context, read <-chan []change) error {
	if err := t.note.load(); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if t.rescan && len(t.due) == 0 && len(t.later) < maxLater {
			if err := t.scanAll(ctx); err != nil {
				return err
			}
		}
		timer.Reset(t.next())
		from := read
		if len(t.due) >= maxDue || len(t.later) >= maxLater {
			from = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case changes := <-from:
			if err := t.take(ctx, changes); err != nil {
				return err
			}
		case <-timer.C:
			t.lookAgain(time.Now())
		}
		if err := t.tell(ctx); err != nil {
			return err
		}
	}
}

// next is how long there is nothing to do unless something changes.
func (t *Tree) next() time.Duration {
	wait := time.Hour
	if len(t.due) > 0 {
		wait = time.Until(t.after)
	}
	for _, p := range t.later {
		wait = min(wait, time.Until(p.at))
	}
	return max(wait, 0)
}

// tellAll is tell that waits until the sink has taken all, for a scan.
func (t *Tree) tellAll(ctx context.Context) error {
	for {
		if err := t.tell(ctx); err != nil || len(t.due) == 0 {
			return err
		}
		select {
		case <-time.After(time.Until(t.after)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell gives the sink what is due, unless it failed lately.
func (t *Tree) tell(ctx context.Context) error {
	if t.retry > 0 && time.Until(t.after) > 0 {
		return nil
	}
	for len(t.due) > 0 {
		some := t.due[:min(len(t.due), batch)]
		if err := t.sink(ctx, some); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			t.retry = min(max(2*t.retry, firstRetry), lastRetry)
			t.after = time.Now().Add(t.retry)
			t.log.Warn("files that came are not told of; it is tried again", "files", len(t.due), "after", t.retry, "err", err)
			return nil
		}
		if err := t.note.add(some); err != nil {
			return err
		}
		t.due, t.retry = t.due[len(some):], 0
	}
	t.due = nil
	t.rescan = t.rescan || t.note.crowded()
	return nil
}

// warn tells of a bound that was reached, once.
func (t *Tree) warn(format string, args ...any) {
	if t.warned[format] {
		return
	}
	t.warned[format] = true
	text := fmt.Sprintf(format, args...)
	t.log.Warn(text)
	if t.opts.Warn != nil {
		t.opts.Warn(text)
	}
}
