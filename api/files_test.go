package api_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/tree"
)

// files is a stub of what copies.
type files struct {
	read  func(ref, path string, w io.Writer) error
	write func(ref, path string, r io.Reader, o client.CopyOptions) (tree.Report, error)
}

func (f *files) ReadFiles(_ context.Context, _, ref, path string, w io.Writer) error {
	return f.read(ref, path, w)
}

func (f *files) WriteFiles(_ context.Context, _, ref, path string, r io.Reader, o client.CopyOptions) (tree.Report, error) {
	return f.write(ref, path, r, o)
}

func TestFilesThatBreakOffSayWhy(t *testing.T) {
	for _, sent := range []int{0, 10, 1 << 20} {
		s := &stub{}
		s.files = &files{read: func(ref, path string, w io.Writer) error {
			if ref != "web/2" || path != "/a b/." {
				t.Errorf("asked for %s:%s", ref, path)
			}
			if sent > 0 {
				w.Write(make([]byte, sent))
			}
			return mayfly.Errorf(mayfly.Conflict, "it \"ended\", über")
		}}
		up := serve(t, s)
		r, err := up.client.ReadFiles(t.Context(), "web/2", "/a b/.")
		if sent == 0 {
			if mayfly.KindOf(err) != mayfly.Conflict {
				t.Errorf("before anything was sent: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		r.Close()
		if len(data) != sent || err == nil || err.Error() != "it \"ended\", über" {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
}

// What is refused is told, however much of the body is still to come.
func TestFilesThatAreRefused(t *testing.T) {
	for _, size := range []int64{10, 300 << 10, 8 << 20} {
		s := &stub{}
		s.files = &files{write: func(_, _ string, r io.Reader, o client.CopyOptions) (tree.Report, error) {
			io.CopyN(io.Discard, r, 5)
			return tree.Report{}, mayfly.Errorf(mayfly.Conflict, "there is a file")
		}}
		up := serve(t, s)
		if _, err := up.client.WriteFiles(t.Context(), "x", "/a", io.LimitReader(zeros{}, size), client.CopyOptions{}); mayfly.KindOf(err) != mayfly.Conflict {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestFilesAreCarried(t *testing.T) {
	s := &stub{}
	want := client.CopyOptions{Keep: true, Into: true}
	s.files = &files{write: func(ref, path string, r io.Reader, o client.CopyOptions) (tree.Report, error) {
		n, err := io.Copy(io.Discard, r)
		if ref != "x" || path != "/a" || o != want {
			t.Errorf("asked for %s:%s, %+v", ref, path, o)
		}
		return tree.Report{Entries: 2, Bytes: n, Skipped: []string{"d"}}, err
	}}
	up := serve(t, s)
	got, err := up.client.WriteFiles(t.Context(), "x", "/a", strings.NewReader(strings.Repeat("x", 5<<20)), want)
	if err != nil || got.Entries != 2 || got.Bytes != 5<<20 || len(got.Skipped) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
