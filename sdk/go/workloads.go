package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// Deploy makes a release of a workload and returns when one sandbox of it has
// become ready. For the key see CreateInstance.
func (c *Client) Deploy(ctx context.Context, w mayfly.Workload, key string, report func(Progress)) (mayfly.Release, error) {
	if w.Space == "" {
		w.Space = c.space
	}
	return follow[mayfly.Release](ctx, c, call{method: http.MethodPost, path: []string{"workloads"}, header: keyHeader(key), send: w}, progress(report))
}

// Releases returns the releases of a workload that still exist, newest first.
func (c *Client) Releases(ctx context.Context, name string) ([]mayfly.ServiceRelease, error) {
	page, err := ask[Page[mayfly.ServiceRelease]](ctx, c, call{method: http.MethodGet, path: []string{"workloads", name, "releases"}})
	return page.Items, err
}

// Rollback has a workload go back to a release, 0 being the one before. Of a
// function it returns when one sandbox of that is ready, of a service when it is
// wanted.
func (c *Client) Rollback(ctx context.Context, name string, release int, report func(Progress)) (mayfly.Release, error) {
	return follow[mayfly.Release](ctx, c, call{method: http.MethodPost, path: []string{"workloads", name, "rollback"}, send: RollbackRequest{release}}, progress(report))
}

// Diff says what differs between two releases of a workload. A to of 0 is the
// active one, a from of 0 the one before to.
func (c *Client) Diff(ctx context.Context, name string, from, to int) (mayfly.ReleaseDiff, error) {
	query := url.Values{"from": {strconv.Itoa(from)}, "to": {strconv.Itoa(to)}}
	return ask[mayfly.ReleaseDiff](ctx, c, call{method: http.MethodGet, path: []string{"workloads", name, "diff"}, query: query})
}

// PlanRequest asks what a deploy would do.
type PlanRequest struct {
	App       string            `json:"app,omitempty"` // whose other workloads are wanted too; none if empty
	Workloads []mayfly.Workload `json:"workloads"`
}

// Plan says what Deploy would do with each of an app's workloads, and changes
// nothing. It is one call for all of them.
func (c *Client) Plan(ctx context.Context, p PlanRequest) (mayfly.Plan, error) {
	return ask[mayfly.Plan](ctx, c, call{method: http.MethodPost, path: []string{"plan"}, send: p})
}

// PutCode uploads a code tar and returns its digest, for Workload.Code.
func (c *Client) PutCode(ctx context.Context, tar io.Reader) (string, error) {
	code, err := ask[Code](ctx, c, call{method: http.MethodPost, path: []string{"code"}, raw: tar})
	return code.Digest, err
}

// HasCode reports whether a code tar is there already, so that it need not be put.
func (c *Client) HasCode(ctx context.Context, digest string) (bool, error) {
	err := c.do(ctx, call{method: http.MethodHead, path: []string{"code", digest}}, nil)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return false, nil
	}
	return err == nil, err
}

// ListWorkloads returns the active release of each workload, sorted by name.
func (c *Client) ListWorkloads(ctx context.Context) ([]mayfly.Release, error) {
	return all[mayfly.Release](ctx, c, "workloads", nil)
}

// GetWorkload returns the active release of a workload.
func (c *Client) GetWorkload(ctx context.Context, name string) (mayfly.Release, error) {
	return ask[mayfly.Release](ctx, c, call{method: http.MethodGet, path: []string{"workloads", name}})
}

// DeleteWorkload takes a workload away: its routes, its sandboxes, its releases.
func (c *Client) DeleteWorkload(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"workloads", name}}, nil)
}

// Call is one call of a function.
type Call struct {
	Method string      // POST if empty
	Path   string      // what the function sees, with its query; "/" if empty
	Header http.Header // passed on
	Body   io.Reader   // none if nil
	Memory int64       // limit of this call in bytes, above that of the function; 0: the function's
}

// Callee is the function that a call is for, and what the call may use.
type Callee struct {
	Space, Workload string
	Memory          int64 // as in Call
}

// Call runs a function. The answer is whatever the function gave, of any
// status; the caller closes its body. The error is non-nil only when there is no
// answer at all.
func (c *Client) Call(ctx context.Context, workload string, k Call) (*http.Response, error) {
	method := k.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := c.request(ctx, call{method: method, path: []string{"workloads", workload, "call"}, header: k.Header.Clone()})
	if err != nil {
		return nil, err
	}
	path := k.Path
	if path == "" {
		path = "/"
	}
	inner, err := url.Parse("http://localhost" + path)
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, mayfly.Errorf(mayfly.Invalid, "%q is not the path of a request", k.Path).WithHint("begin it with /, as in /thumbnail?width=100")
	}
	req.URL.RawPath = req.URL.EscapedPath() + inner.EscapedPath()
	req.URL.Path += inner.Path
	req.URL.RawQuery = inner.RawQuery
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Del(HeaderSpace)
	if c.space != "" {
		req.Header.Set(HeaderSpace, c.space)
	}
	req.Header.Del(HeaderMemory)
	if k.Memory != 0 {
		req.Header.Set(HeaderMemory, strconv.FormatInt(k.Memory, 10))
	}
	if k.Body != nil {
		withBody, err := http.NewRequestWithContext(ctx, method, req.URL.String(), k.Body)
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "%w", err)
		}
		withBody.Header = req.Header
		req = withBody
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.sendError(ctx, err)
	}
	return resp, nil
}

// ListRuns returns the newest runs, newest first, of one workload or, when it
// is empty, of all. The limit bounds how many; 0 means 100.
func (c *Client) ListRuns(ctx context.Context, workload string, limit int) ([]mayfly.Run, error) {
	if limit <= 0 {
		limit = 100
	}
	query := url.Values{}
	if workload != "" {
		query.Set("workload", workload)
	}
	return first[mayfly.Run](ctx, c, "runs", query, limit)
}

// GetRun returns the run with that id, or unique beginning of one.
func (c *Client) GetRun(ctx context.Context, ref string) (mayfly.Run, error) {
	return ask[mayfly.Run](ctx, c, call{method: http.MethodGet, path: []string{"runs", ref}})
}

// RunLogs gives each entry of a run's log to each, in order.
func (c *Client) RunLogs(ctx context.Context, ref string, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	return c.logs(ctx, []string{"runs", ref, "logs"}, opts, each)
}

// Version says who answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return ask[Version](ctx, c, call{method: http.MethodGet, path: []string{"version"}})
}

// Down stops every container of the node, then the daemon, and returns when
// the daemon's process has ended.
func (c *Client) Down(ctx context.Context, report func(Progress)) error {
	resp, err := c.send(ctx, call{method: http.MethodPost, path: []string{"down"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := c.readStream(ctx, resp.Body, progress(report), nil); err != nil {
		return err
	}
	// The daemon never closes this connection; the end of its process does.
	io.Copy(io.Discard, resp.Body)
	return ctx.Err()
}
