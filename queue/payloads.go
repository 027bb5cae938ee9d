package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
)

// A payload of more than MaxInline bytes lies in a file of its own, beneath
// DATA/payloads:
//
//	.part-ID                 it is being uploaded
//	SPACE.REF                it is whole, and waits to be submitted
//	SPACE.WORKLOAD.ID-DIGEST it is a task's, from before that is accepted until after it has its outcome
//
// The bytes and the upload's name are synced before the upload is answered, the
// task's name before the task is accepted. A task's name is another link to the
// same file, so an upload is there until the task is. What a crash leaves without
// a task is removed at the next start.
const (
	payloadsDir = "payloads"
	partPrefix  = ".part-"
	uploadLife  = time.Hour // of an upload that nobody submits
	maxUploads  = 10_000    // that wait to be submitted
	pieceBytes  = 256 << 10 // read and written at once
	roomEvery   = 32        // pieces between two looks at the disk
	leastRoom   = 256 << 20 // bytes of the disk, or a part of it if it is small, that are left to everything else
	roomPart    = 16
)

// payloads are the files of large payloads.
type payloads struct {
	root *os.Root
	dir  *os.File // the same, to be synced
	used atomic.Int64

	mu      sync.Mutex
	uploads []upload      // the oldest first
	came    chan struct{} // an upload did
	left    []string      // files of tasks that were there at Open
}

type upload struct {
	name string
	at   time.Time
}

// openPayloads opens the directory and sees what is in it.
func openPayloads(path string) (*payloads, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of payloads: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open the directory of payloads: %w", err)
	}
	s := &payloads{root: root, came: make(chan struct{}, 1)}
	if s.dir, err = root.Open("."); err == nil {
		err = s.read()
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("read the directory of payloads: %w", err)
	}
	return s, nil
}

func (s *payloads) read() error {
	entries, err := s.dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		parts := strings.Split(e.Name(), ".")
		switch {
		case strings.HasPrefix(e.Name(), partPrefix):
			if err := s.root.Remove(e.Name()); err != nil {
				return err
			}
			continue
		case len(parts) == 2:
			s.uploads = append(s.uploads, upload{e.Name(), earlier(info.ModTime(), time.Now())})
		case len(parts) == 3:
			s.left = append(s.left, e.Name())
		}
		s.used.Add(info.Size())
	}
	slices.SortFunc(s.uploads, func(a, b upload) int { return a.at.Compare(b.at) })
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (s *payloads) close() {
	if s.dir != nil {
		s.dir.Close()
	}
	s.root.Close()
}

// payloadRef names an upload: an id, the digest and the size.
type payloadRef struct {
	text   string
	digest string
	size   int64
}

var refPattern = regexp.MustCompile(`^[0-9a-hj-km-np-tv-z]{20}-([0-9a-f]{32})-([0-9]{1,15})$`)

func parseRef(text string) (payloadRef, error) {
	part := refPattern.FindStringSubmatch(text)
	if part == nil {
		return payloadRef{}, mayfly.Errorf(mayfly.Invalid, "payload %.100q is not the ref of an upload", text).
			WithHint("POST /v1/payloads gives one")
	}
	size, err := strconv.ParseInt(part[2], 10, 64)
	return payloadRef{text, part[1], size}, err
}

func uploadName(space, ref string) string { return space + "." + ref }

// large reports whether the payload of a task lies in a file.
func large(t mayfly.Task) bool { return t.Size > MaxInline }

func payloadName(t mayfly.Task) string {
	return t.Space + "." + queueOf(t) + "." + t.ID + "-" + t.Digest
}

// PutPayload takes the payload of a task that is to be submitted within an hour,
// however large it is up to Options.MaxPayload, and returns what names it in
// Submission.PayloadRef, for one task. It is on disk then. An error of r is
// wrapped; TooLarge and Busy, when the queue or the disk is full, are others.
func (q *Queue) PutPayload(ctx context.Context, space string, r io.Reader) (ref string, size int64, err error) {
	if err := mayfly.CheckName("space", space); err != nil {
		return "", 0, err
	}
	w := &payloadWriter{q: q, sum: sha256.New(), name: partPrefix + mayfly.NewID()}
	if w.file, err = q.payloads.root.OpenFile(w.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return "", 0, diskError("write a payload", err)
	}
	defer w.undo()
	if err := w.copy(ctx, r); err != nil {
		return "", 0, err
	}
	if err := errors.Join(w.file.Sync(), w.file.Close()); err != nil {
		return "", 0, diskError("write a payload", err)
	}
	ref = fmt.Sprintf("%s-%s-%d", strings.TrimPrefix(w.name, partPrefix), hex.EncodeToString(w.sum.Sum(nil)[:16]), w.size)
	if err := q.payloads.keep(w, uploadName(space, ref)); err != nil {
		return "", 0, err
	}
	return ref, w.size, q.payloads.sync()
}

// MaxPayload is the size limit of a payload, in bytes.
func (q *Queue) MaxPayload() int64 { return q.opts.MaxPayload }

// payloadWriter is an upload that comes in.
type payloadWriter struct {
	q    *Queue
	file *os.File
	sum  hash.Hash
	name string
	size int64
	kept bool
}

func (w *payloadWriter) copy(ctx context.Context, r io.Reader) error {
	buf := make([]byte, pieceBytes)
	for pieces := 0; ; pieces++ {
		if pieces%roomEvery == 0 {
			if !w.q.bus.RoomFor(roomEvery * pieceBytes) {
				return diskFull()
			}
		}
		n, readErr := readPiece(r, buf) // not io.ReadFull, which hides a body that broke off
		if err := w.write(buf[:n]); err != nil {
			return err
		}
		switch {
		case readErr == io.EOF:
			return nil
		case readErr != nil:
			return fmt.Errorf("read a payload: %w", readErr)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// readPiece reads until the buffer is full, or there is an error.
func readPiece(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	return n, err
}

// write adds a piece, if it may have a place.
func (w *payloadWriter) write(piece []byte) error {
	n := int64(len(piece))
	if w.size+n > w.q.opts.MaxPayload {
		return TooLargePayload(w.q.opts.MaxPayload)
	}
	w.size += n
	w.q.payloads.used.Add(n)
	if !w.q.roomFor(context.Background(), 0) {
		return full()
	}
	w.sum.Write(piece)
	if _, err := w.file.Write(piece); err != nil {
		return diskError("write a payload", err)
	}
	return nil
}

// undo removes what did not become an upload.
func (w *payloadWriter) undo() {
	if w.kept {
		return
	}
	w.file.Close()
	w.q.payloads.used.Add(-w.size)
	if err := w.q.payloads.root.Remove(w.name); err != nil {
		w.q.log.Warn("a part of a payload is left for the next start", "error", err)
	}
}

// TooLargePayload is the error for a payload over the limit.
func TooLargePayload(limit int64) error {
	return mayfly.Errorf(mayfly.TooLarge, "the payload is larger than the limit of %d bytes", limit).
		WithHint("put it where the task can fetch it, and submit its address; or raise --max-payload of mayfly up")
}

// keep gives an upload its name.
func (s *payloads) keep(w *payloadWriter, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.uploads) >= maxUploads {
		return mayfly.Errorf(mayfly.Busy, "%d payloads wait to be submitted", len(s.uploads)).WithHint("submit them, or try again in an hour")
	}
	if err := s.root.Rename(w.name, name); err != nil {
		return diskError("write a payload", err)
	}
	w.kept = true
	s.uploads = append(s.uploads, upload{name, time.Now()})
	wake(s.came)
	return nil
}

func diskError(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return diskFull()
	}
	return mayfly.Errorf(mayfly.Unavailable, "%s: %w", doing, err)
}

// open opens a file for reading.
func (s *payloads) open(name string) (*os.File, error) {
	f, err := s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mayfly.Errorf(mayfly.NotFound, "the payload is not there: it was submitted, or uploaded more than an hour ago").
			WithHint("upload it again")
	}
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Unavailable, "open a payload: %w", err)
	}
	return f, nil
}

// remove deletes a file; one that is not there is no error. It is not synced: a
// file that comes back is removed at the next start.
func (s *payloads) remove(name string, size int64) error {
	err := s.root.Remove(name)
	if err == nil {
		s.used.Add(-size)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a payload: %w", err)
	}
	return nil
}

// claim gives an upload to a task, under another name beside its own. One with
// the same name has the same digest.
func (s *payloads) claim(from, to string, size int64) error {
	err := s.root.Link(from, to)
	switch {
	case err == nil:
		s.used.Add(size)
		return nil
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		_, err = s.open(from)
		return err
	}
	return diskError("keep a payload", err)
}

// sync puts names on disk.
func (s *payloads) sync() error {
	if err := s.dir.Sync(); err != nil {
		return diskError("keep a payload", err)
	}
	return nil
}

// submitted forgets an upload whose task is accepted.
func (s *payloads) submitted(name string, size int64) error {
	s.mu.Lock()
	s.uploads = slices.DeleteFunc(s.uploads, func(u upload) bool { return u.name == name })
	s.mu.Unlock()
	return s.remove(name, size)
}
