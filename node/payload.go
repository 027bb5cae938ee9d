package node

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/mayfly-run/mayfly/queue"
)

// slowest is the rate at which a handler's loader takes a payload at least, in
// bytes a second.
const slowest = 4 << 20

// putPayload puts the task's payload where the program finds it. A large one
// is not copied there, for what functions write lies in memory: its file is
// mounted, and stays open as the standard input.
func (a *attempt) putPayload(ctx context.Context) error {
	g := a.grant
	r, err := g.OpenPayload(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	f, large := r.(*os.File)
	if !large {
		return a.sandbox.PutFile("payload", g.Payload)
	}
	a.payload, err = a.sandbox.ShowFile("payload", f)
	return err
}

// closePayload is for when the program has it.
func (a *attempt) closePayload() {
	if a.payload != nil {
		a.payload.Close()
	}
}

// stdin opens the payload as the program's standard input.
func (a *attempt) stdin() (*os.File, error) {
	if a.payload == nil {
		return a.sandbox.OpenFile("payload")
	}
	in := a.payload
	a.payload = nil
	return in, nil
}

// post is the request that gives the payload to a handler, and how long that may
// take.
func (a *attempt) post(ctx context.Context) (*http.Request, time.Duration, error) {
	var body io.Reader = bytes.NewReader(a.grant.Payload)
	if a.payload != nil {
		body = a.payload
	}
	req, err := queue.NewRequest(ctx, "function", &a.grant.Task, body)
	if err != nil {
		return nil, 0, err
	}
	size := int64(a.grant.Task.Size)
	if a.payload != nil {
		req.ContentLength = size
	}
	return req, callTime + time.Duration(size/slowest)*time.Second, nil
}
