package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/mayfly-run/mayfly"
)

const (
	// ContentTar is the type of a tar stream.
	ContentTar = "application/x-tar"

	// TrailerError says, quoted as in Go, why a tar stream broke off.
	TrailerError = "Mayfly-Error"
)

// CopyOptions say how files are copied into a container.
type CopyOptions struct {
	Keep bool // owners, by number, and set-id bits stay as they are; else files become those of the container's user
	Into bool // the stream has any number of trees, and the path is a directory
}

// CopyReport says what was copied.
type CopyReport struct {
	Entries int      `json:"entries"`           // files, directories and links
	Bytes   int64    `json:"bytes"`             // of files
	Skipped []string `json:"skipped,omitempty"` // devices, which are never made; at most 100 names
}

// ReadFiles copies what is at a path of a running container, which ref names as
// in Exec: a tar stream of the file, link or directory, under the last part of
// its name, or of a directory's contents, under ".", when the path ends in "/.".
// The last Read says what went wrong on the way. The caller closes it.
func (c *Client) ReadFiles(ctx context.Context, ref, path string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: []string{"instances", ref, "files"}, query: url.Values{"path": {path}}})
	if err != nil {
		return nil, err
	}
	return &fileStream{ctx: ctx, c: c, resp: resp}, nil
}

// fileStream is a body whose trailer says why it broke off.
type fileStream struct {
	ctx  context.Context // of the request that it is the answer to
	c    *Client
	resp *http.Response
}

func (f *fileStream) Read(p []byte) (int, error) {
	n, err := f.resp.Body.Read(p)
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, f.c.sendError(f.ctx, err)
	}
	if why := f.resp.Trailer.Get(TrailerError); why != "" {
		if text, bad := strconv.Unquote(why); bad == nil {
			why = text
		}
		return n, mayfly.Errorf(mayfly.Failed, "%s", why)
	}
	return n, io.EOF
}

func (f *fileStream) Close() error { return f.resp.Body.Close() }

// WriteFiles copies a tar stream of one tree to a path of a running container:
// into it where that is a directory, else to that name.
func (c *Client) WriteFiles(ctx context.Context, ref, path string, tar io.Reader, o CopyOptions) (CopyReport, error) {
	query := url.Values{"path": {path}}
	if o.Keep {
		query.Set("keep", "true")
	}
	if o.Into {
		query.Set("into", "true")
	}
	// Not tar itself, which the transport would close.
	return ask[CopyReport](ctx, c, call{method: http.MethodPut, path: []string{"instances", ref, "files"}, query: query, raw: io.MultiReader(tar)})
}
