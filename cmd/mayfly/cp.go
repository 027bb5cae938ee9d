package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/tree"
)

func (c *cli) cp() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC DST",
		Short: "Copy files into a running container or out of it",
		Long: `Copy files into a running container or out of it.

One of SRC and DST is in a container: CONTAINER:PATH, or SERVICE:PATH for a
replica that is ready, or SERVICE/2:PATH. The other is here, or - for a tar
stream. Volumes and what is in memory are seen as the container sees them.

Where a copy lands is as with docker cp: into DST where that is a directory, else
DST is its new name. A directory's contents are meant by SRC/. Files that are
replaced are replaced whole. What is copied in becomes the container's user's,
what is copied out yours, unless -a keeps owners, by number.`,
		Example: `  mayfly cp web:/var/log/nginx/error.log .
  mayfly cp ./site/. blog/1:/srv/www
  mayfly cp db:/var/lib/mysql - | zstd >mysql.tar.zst`,
		Args: exactly("source", "target"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.copyEither(cmd.Context(), args, keep, "CONTAINER", func(cl *client.Client) filed { return cl })
		},
	}
	cmd.Flags().BoolVarP(&keep, "archive", "a", false, "keep owners, by number, and set-id bits")
	return cmd
}

// end is one end of a copy; ref is empty where it is here.
type end struct{ ref, path string }

// endOf reads one. A path here that has a colon is written with a slash before
// it, such as ./a:b.
func endOf(arg string) end {
	ref, path, ok := strings.Cut(arg, ":")
	if !ok || ref == "" || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") {
		return end{path: arg}
	}
	return end{ref, path}
}

// filed is what has files that can be copied: containers, and volumes.
type filed interface {
	ReadFiles(ctx context.Context, ref, path string) (io.ReadCloser, error)
	WriteFiles(ctx context.Context, ref, path string, tar io.Reader, o client.CopyOptions) (client.CopyReport, error)
}

// copyEither copies from the first argument to the second, one of which is beneath
// something that is filed, here called what.
func (c *cli) copyEither(ctx context.Context, args []string, keep bool, what string, of func(*client.Client) filed) error {
	src, dst := endOf(args[0]), endOf(args[1])
	switch {
	case (src.ref == "") == (dst.ref == ""):
		return usagef("one of source and target is %s:PATH, the other is here", what)
	case src.path == "" || dst.path == "":
		return usagef("a path is empty")
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	if src.ref != "" {
		return c.copyOut(ctx, of(cl), src, dst.path, keep)
	}
	return c.copyIn(ctx, of(cl), src.path, dst, keep)
}

func (c *cli) copyOut(ctx context.Context, cl filed, src end, dst string, keep bool) error {
	stream, err := cl.ReadFiles(ctx, src.ref, src.path)
	if err != nil {
		return err
	}
	defer stream.Close()
	if dst == "-" {
		if isTerminal(c.stdout) {
			return usagef("a tar stream is not for a terminal")
		}
		_, err = io.Copy(c.stdout, stream)
		return err
	}
	dir, name, err := openLocal(dst)
	if err != nil {
		return err
	}
	defer dir.Close()
	noted := &noting{Reader: stream}
	report, err := dir.Extract(ctx, noted, name, tree.Options{Keep: keep})
	if noted.err != nil {
		err = noted.err // what the tar reader makes of it is not the cause
	}
	c.tellSkipped(report.Skipped)
	return err
}

func (c *cli) copyIn(ctx context.Context, cl filed, src string, dst end, keep bool) error {
	if src == "-" {
		report, err := cl.WriteFiles(ctx, dst.ref, dst.path, c.stdin, client.CopyOptions{Keep: keep, Into: true})
		c.tellSkipped(report.Skipped)
		return err
	}
	dir, name, err := openSource(src)
	if err != nil {
		return err
	}
	defer dir.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := dir.Write(ctx, w, name)
		w.CloseWithError(err)
		written <- err
	}()
	report, err := cl.WriteFiles(ctx, dst.ref, dst.path, r, client.CopyOptions{Keep: keep})
	r.Close()
	cancel()
	if failed := <-written; failed != nil && !errors.Is(failed, io.ErrClosedPipe) && !errors.Is(failed, context.Canceled) {
		err = failed
	}
	c.tellSkipped(report.Skipped)
	return err
}

func (c *cli) tellSkipped(names []string) {
	for _, name := range names {
		fmt.Fprintf(c.stderr, "mayfly: %s was not copied: it is a device\n", plain(name))
	}
}

// noting remembers why reading failed.
type noting struct {
	io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	k, err := n.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		n.err = err
	}
	return k, err
}

// openLocal opens the directory that a copy goes to, or whose new entry it is to
// become. What the path says itself is trusted, only what follows is not.
func openLocal(path string) (*tree.Dir, string, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		d, err := tree.Open(path)
		return d, ".", err
	}
	base := filepath.Base(path)
	if strings.HasSuffix(path, "/") {
		base += "/"
	}
	return openAt(filepath.Dir(strings.TrimRight(path, "/")), base)
}

// openSource opens the directory that a copy is taken from.
func openSource(path string) (*tree.Dir, string, error) {
	trimmed := strings.TrimRight(path, "/")
	base := filepath.Base(trimmed)
	switch {
	case trimmed == "" || base == "." || base == "..":
		// Its name is not in the path, and it need not have one.
		d, err := tree.Open(path)
		if err != nil || base == "." {
			return d, ".", err
		}
		full, err := filepath.Abs(path)
		if err != nil || full == "/" {
			return d, ".", err
		}
		d.Close()
		return openAt(filepath.Dir(full), filepath.Base(full))
	case len(trimmed) < len(path):
		base += "/" // it is followed
	}
	return openAt(filepath.Dir(trimmed), base)
}

func openAt(dir, base string) (*tree.Dir, string, error) {
	d, err := tree.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		err = mayfly.Errorf(mayfly.NotFound, "there is no directory %s", dir)
	}
	return d, base, err
}
