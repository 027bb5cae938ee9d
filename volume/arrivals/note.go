package arrivals

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// note is the file in which it is noted what was told: a mark of 8 bytes for each,
// after a line that says what this is. Marks are added without a sync, for what is
// missing is only told again.
type note struct {
	path  string
	most  int      // marks
	file  *os.File // for adding; nil until load
	count int      // marks in the file
	fresh marks    // added since told, while a scan goes on
	scan  bool
}

// marks are sorted where they are searched.
type marks []uint64

func (m marks) has(mark uint64) bool {
	_, ok := slices.BinarySearch(m, mark)
	return ok
}

const noteHead = "arrived1"

// load opens the file. One that is not there is fs.ErrNotExist.
func (n *note) load() error {
	f, err := os.OpenFile(n.path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		n.count = int(max(st.Size()-int64(len(noteHead)), 0) / 8)
		// What a crash cut off is not to shift what follows.
		err = f.Truncate(int64(len(noteHead)) + int64(n.count)*8)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open the note of files that were told of: %w", err), f.Close())
	}
	n.close()
	n.file = f
	return nil
}

func (n *note) close() {
	if n.file != nil {
		n.file.Close()
		n.file = nil
	}
}

// told reads what is noted, and begins to collect what is added for replace.
func (n *note) told() (marks, error) {
	n.fresh, n.scan = nil, true
	text := make([]byte, 8*n.count)
	if _, err := n.file.ReadAt(text, int64(len(noteHead))); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the note of files that were told of: %w", err)
	}
	all := make(marks, 0, n.count)
	for ; len(text) > 0; text = text[8:] {
		all = append(all, binary.LittleEndian.Uint64(text))
	}
	slices.Sort(all)
	return all, nil
}

// add notes files. Between two scans it is bounded as replace is, and half as much
// again.
func (n *note) add(files []File) error {
	text := make([]byte, 0, 8*len(files))
	for i := range files {
		m := files[i].mark()
		text = binary.LittleEndian.AppendUint64(text, m)
		if n.scan && len(n.fresh) < n.most {
			n.fresh = append(n.fresh, m)
		}
	}
	if n.count+len(files) > n.most+n.most/2 {
		return nil
	}
	if _, err := n.file.Write(text); err != nil {
		return fmt.Errorf("note that files were told of: %w", err)
	}
	n.count += len(files)
	return nil
}

// replace has kept, and what was added since told, noted instead of what was.
func (n *note) replace(kept marks) error {
	kept = append(kept, n.fresh[:min(len(n.fresh), max(n.most-len(kept), 0))]...)
	n.fresh, n.scan = nil, false
	if err := writeNote(n.path, kept); err != nil {
		return err
	}
	return n.load()
}

// crowded says that more is noted than a scan would keep, by half.
func (n *note) crowded() bool { return n.count >= n.most+n.most/2 }

func writeNote(path string, all marks) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("note which files were told of: %w", err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	text := make([]byte, 0, len(noteHead)+8*len(all))
	text = append(text, noteHead...)
	for _, m := range all {
		text = binary.LittleEndian.AppendUint64(text, m)
	}
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// Begin notes that nothing was told yet, of a directory that is new: all files in
// it are to be told of.
func Begin(notes string) error { return writeNote(notes, nil) }

// Forget removes what Begin or Rebase noted.
func Forget(notes string) error {
	err := os.Remove(notes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Rebase notes all files of a directory that count by the rules as told, but for
// those that are being written: only what comes from now on is news. With before,
// the rules until now, files that counted by those too stay as they were noted.
// Nobody watches the directory with this note meanwhile.
func Rebase(ctx context.Context, dir, notes string, o Options, before *Rules) error {
	t := newTree(notes, nil, o)
	s := &found{all: true}
	if err := t.note.load(); err == nil && before != nil {
		s.before = before
		if s.told, err = t.note.told(); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer t.note.close()
	var err error
	if t.top, err = openTop(dir); err != nil {
		return err
	}
	defer unix.Close(t.top)
	if err := t.scan(ctx, "", s); err != nil {
		return err
	}
	return t.note.replace(s.kept)
}
