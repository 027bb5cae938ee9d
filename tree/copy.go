package tree

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Copy copies what is in the directory that name stands for into another one,
// with owners and modes. It is a NotFound error that there is none, and Invalid
// that it is no directory; then nothing is copied.
func Copy(ctx context.Context, from *Dir, name string, to *Dir) (Report, error) {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := from.Write(ctx, w, name+"/.")
		w.CloseWithError(err)
		done <- err
	}()
	report, err := to.Extract(ctx, r, ".", Options{Keep: true})
	r.CloseWithError(errStopped)
	if werr := <-done; werr != nil && !errors.Is(werr, errStopped) {
		err = werr
	}
	return report, err
}

var errStopped = errors.New("the reader has stopped")

// Top is to whom a directory belongs, and its permission bits.
func (d *Dir) Top(name string) (o Owner, mode uint32, err error) {
	fd, err := d.locate(name, unix.O_DIRECTORY)
	if err != nil {
		return o, 0, kindOf(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return o, 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return Owner{int(st.Uid), int(st.Gid)}, st.Mode & 0o7777, nil
}
