package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/mayfly-run/mayfly"
)

// PutPayload uploads the payload of a task, as long as r is. Its ref is the
// PayloadRef of one submission, which is to follow within an hour. More than the
// daemon takes is TooLarge.
func (c *Client) PutPayload(ctx context.Context, r io.Reader) (Upload, error) {
	return c.put(ctx, r, lengthOf(r))
}

// put uploads a payload, whose length is 0 when it is not known.
func (c *Client) put(ctx context.Context, r io.Reader, length int64) (Upload, error) {
	// Not r itself, which the transport would close.
	return ask[Upload](ctx, c, call{method: http.MethodPost, path: []string{"payloads"}, raw: io.MultiReader(r), size: length})
}

// lengthOf is how much can be read, where that is known: then the daemon can
// refuse it before it is sent.
func lengthOf(r io.Reader) int64 {
	switch r := r.(type) {
	case interface{ Len() int }:
		return int64(r.Len())
	case *os.File:
		info, err := r.Stat()
		at, err2 := r.Seek(0, io.SeekCurrent)
		if err == nil && err2 == nil && info.Mode().IsRegular() {
			return max(0, info.Size()-at)
		}
	}
	return 0
}

// SubmitFrom is Submit with a payload that is read from r, and is held in memory
// only if it is small.
func (c *Client) SubmitFrom(ctx context.Context, sub mayfly.Submission, r io.Reader) (mayfly.Task, error) {
	length := lengthOf(r)
	begin, err := io.ReadAll(io.LimitReader(r, MaxInline+1))
	if err != nil {
		return mayfly.Task{}, mayfly.Errorf(mayfly.Invalid, "read the payload: %w", err)
	}
	if len(begin) <= MaxInline {
		sub.Payload = begin
		return c.Submit(ctx, sub)
	}
	from := &watched{Reader: io.MultiReader(bytes.NewReader(begin), r)}
	up, err := c.in(sub.Space).put(ctx, from, length)
	if bad := from.failed(); bad != nil {
		err = mayfly.Errorf(mayfly.Invalid, "read the payload: %w", bad)
	}
	if err != nil {
		return mayfly.Task{}, err
	}
	sub.Payload, sub.PayloadRef = nil, up.Ref
	return c.Submit(ctx, sub)
}

// watched remembers why its reader failed, for which the transport blames the
// connection.
type watched struct {
	io.Reader
	mu  sync.Mutex // the transport may read on after it has the answer
	err error
}

func (w *watched) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	}
	return n, err
}

// uploadLarge uploads a payload that is too large for a submission.
func (c *Client) uploadLarge(ctx context.Context, sub *mayfly.Submission) error {
	if len(sub.Payload) <= MaxInline {
		return nil
	}
	up, err := c.in(sub.Space).PutPayload(ctx, bytes.NewReader(sub.Payload))
	sub.Payload, sub.PayloadRef = nil, up.Ref
	return err
}

// in is the client for a space, its own if empty.
func (c *Client) in(space string) *Client {
	if space == "" {
		return c
	}
	return c.WithSpace(space)
}

// TaskPayload returns what a task that has not ended was submitted with.
func (c *Client) TaskPayload(ctx context.Context, id string) ([]byte, error) {
	return c.bytes(ctx, []string{"tasks", id, "payload"})
}

// OpenTaskPayload is TaskPayload for one that need not fit into memory. The
// caller closes it.
func (c *Client) OpenTaskPayload(ctx context.Context, id string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: []string{"tasks", id, "payload"}})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
