package container

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// ReadLog passes the log that init keeps in dir to fn, oldest first. With
// o.Follow it goes on until ended is closed and everything was read. A program
// that writes faster than a follower reads overwrites what the follower has
// not seen; the follower goes on with the oldest that is left.
func ReadLog(ctx context.Context, dir string, o mayfly.LogOptions, ended <-chan struct{}, fn func(mayfly.LogEntry) error) error {
	r, err := openLog(dir)
	if err != nil {
		return err
	}
	defer r.close()
	if o.Tail >= 0 {
		if err := r.tail(o, fn); err != nil {
			return err
		}
	} else if err := r.read(o, fn); err != nil {
		return err
	}
	if !o.Follow {
		return nil
	}
	return r.follow(ctx, o, ended, fn)
}

// HasLog reports whether anything was written to the log in dir.
func HasLog(dir string) bool {
	st, err := os.Stat(dir + "/" + logName0)
	return err == nil && st.Size() > 0
}

// logReader reads the two segments of a log in the order of their numbers.
type logReader struct {
	dir     string
	names   []string // of programs, as far as they were needed
	files   [2]*os.File
	at      int    // index in files of the segment being read
	segment uint64 // its number; 0 before the first
	offset  int64
}

func openLog(dir string) (*logReader, error) {
	r := &logReader{dir: dir}
	for i, name := range []string{logName0, logName1} {
		f, err := os.Open(dir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			continue
		}
		if err != nil {
			r.close()
			return nil, fmt.Errorf("open log: %w", err)
		}
		r.files[i] = f
	}
	return r, nil
}

func (r *logReader) close() {
	for _, f := range r.files {
		if f != nil {
			f.Close()
		}
	}
}

// number reads a segment's number; 0 when nothing is in it yet.
func (r *logReader) number(i int) uint64 {
	var head [wire.SegmentHeadLen]byte
	if r.files[i] == nil {
		return 0
	}
	if _, err := r.files[i].ReadAt(head[:], 0); err != nil {
		return 0
	}
	n, _ := wire.SegmentNumber(head[:])
	return n
}

// step moves on to the oldest segment that is newer than the current one.
func (r *logReader) step() bool {
	next, best := -1, uint64(0)
	for i := range r.files {
		if n := r.number(i); n > r.segment && (next < 0 || n < best) {
			next, best = i, n
		}
	}
	if next < 0 {
		return false
	}
	r.at, r.segment, r.offset = next, best, wire.SegmentHeadLen
	return true
}

// read passes on everything that is there now.
func (r *logReader) read(o mayfly.LogOptions, fn func(mayfly.LogEntry) error) error {
	for {
		if r.segment == 0 && !r.step() {
			return nil
		}
		e, err := r.record()
		if errors.Is(err, io.EOF) {
			if r.step() {
				continue
			}
			return nil
		}
		if err != nil {
			return err
		}
		if e.Time.Before(o.Since) {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// record reads the next record of the current segment. io.EOF means that
// there is no whole one.
func (r *logReader) record() (e mayfly.LogEntry, err error) {
	if r.number(r.at) != r.segment {
		return e, io.EOF // overwritten
	}
	var head [wire.ChunkLen]byte
	if _, err := r.files[r.at].ReadAt(head[:], r.offset); err != nil {
		return e, io.EOF
	}
	n := binary.BigEndian.Uint32(head[9:])
	if n > wire.MaxFrame {
		return e, fmt.Errorf("read log: segment %d is damaged at byte %d", r.segment, r.offset)
	}
	body := make([]byte, wire.ChunkLen+int(n))
	if _, err := r.files[r.at].ReadAt(body, r.offset); err != nil {
		return e, io.EOF
	}
	if r.number(r.at) != r.segment {
		return e, io.EOF
	}
	var c wire.Chunk
	if err := c.Decode(body); err != nil {
		return e, err
	}
	r.offset += int64(len(body))
	e = logEntry(c)
	if c.Label > 0 && int(c.Label) > len(r.names) {
		r.names = readNames(r.dir)
	}
	e.Process = nameOf(r.names, c.Label)
	return e, nil
}

// logEntry translates a chunk; one of stream 0 says what the disk did not take.
func logEntry(c wire.Chunk) mayfly.LogEntry {
	e := mayfly.LogEntry{Time: time.Unix(0, c.Time), Data: c.Data, Stream: "stdout"}
	switch c.Stream {
	case 0:
		e.Stream = "stderr"
		if len(c.Data) == 8 {
			e.Data = fmt.Appendf(nil, "[mayfly: %d bytes were not logged: the disk was full]\n", binary.BigEndian.Uint64(c.Data))
		}
	case 2:
		e.Stream = "stderr"
	}
	return e
}

// tail passes on the last o.Tail lines.
func (r *logReader) tail(o mayfly.LogOptions, fn func(mayfly.LogEntry) error) error {
	var all []mayfly.LogEntry
	err := r.read(o, func(e mayfly.LogEntry) error { all = append(all, e); return nil })
	if err != nil || o.Tail == 0 {
		return err
	}
	want := o.Tail
	first := len(all)
	for first > 0 && want > 0 {
		first--
		d := all[first].Data
		lines := bytes.Count(d, []byte("\n"))
		if first == len(all)-1 && !bytes.HasSuffix(d, []byte("\n")) {
			lines++ // a last line without its end
		}
		if lines > want {
			skip := lines - want
			i := sort.Search(len(d), func(i int) bool { return bytes.Count(d[:i], []byte("\n")) >= skip })
			all[first].Data = d[i:]
			lines = want
		}
		want -= lines
	}
	for _, e := range all[first:] {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// follow reads on as the files grow, told by inotify(7).
func (r *logReader) follow(ctx context.Context, o mayfly.LogOptions, ended <-chan struct{}, fn func(mayfly.LogEntry) error) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	notes := os.NewFile(uintptr(fd), "inotify")
	defer notes.Close()
	for _, f := range r.files {
		if f == nil {
			continue
		}
		// By descriptor, for the files may be moved meanwhile.
		if _, err := unix.InotifyAddWatch(fd, fdPath(f), unix.IN_MODIFY); err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-ended:
		case <-ctx.Done():
		case <-over:
		}
		notes.SetReadDeadline(time.Unix(1, 0))
	}()
	buf := make([]byte, 4096)
	for {
		if err := r.read(o, fn); err != nil {
			return err
		}
		if _, err := notes.Read(buf); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return r.read(o, fn) // ended: what came last
		}
	}
}
