package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// Bounds of what the server may send us.
const (
	maxAnswer  = 64 << 20 // bytes of one JSON answer
	maxMessage = 8 << 20  // bytes of one line of a stream
)

// call is one request. The zero value of each field is left out.
type call struct {
	method string
	path   []string // segments; each is escaped by itself
	query  url.Values
	header http.Header
	send   any       // JSON body
	raw    io.Reader // or a body as it is
	size   int64     // of raw, when it is known

	content string // media type of raw; application/octet-stream if empty
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	u := *c.base
	escaped := make([]string, len(k.path))
	for i, segment := range k.path {
		if segment == "" || segment == "." || segment == ".." {
			return nil, mayfly.Errorf(mayfly.Invalid, "%q names nothing", segment)
		}
		escaped[i] = url.PathEscape(segment)
	}
	u.Path = "/v1/" + strings.Join(k.path, "/")
	u.RawPath = "/v1/" + strings.Join(escaped, "/")
	query := k.query
	if query == nil {
		query = url.Values{}
	}
	if c.space != "" {
		query.Set("space", c.space)
	}
	u.RawQuery = query.Encode()

	body := k.raw
	if k.send != nil {
		data, err := json.Marshal(k.send)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for name, values := range k.header {
		req.Header[name] = values
	}
	if k.send != nil {
		req.Header.Set("Content-Type", "application/json")
	} else if k.raw != nil {
		req.Header.Set("Content-Type", cmp.Or(k.content, "application/octet-stream"))
		if k.size > 0 {
			req.ContentLength = k.size
		}
	}
	return req, nil
}

// send makes the call and returns an answer below 400, whose body the caller
// closes.
func (c *Client) send(ctx context.Context, k call) (*http.Response, error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.sendError(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, problemOf(resp)
}

// do makes the call and decodes the answer into into, unless that is nil.
func (c *Client) do(ctx context.Context, k call, into any) error {
	resp, err := c.send(ctx, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // so that the connection is used again
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.sendError(ctx, err)
	}
	if len(data) > maxAnswer {
		return mayfly.Errorf(mayfly.TooLarge, "the daemon's answer is longer than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return mayfly.Errorf(mayfly.Internal, "decode the daemon's answer: %w", err)
	}
	return nil
}

// ask makes the call and returns the answer.
func ask[T any](ctx context.Context, c *Client, k call) (answer T, err error) {
	err = c.do(ctx, k, &answer)
	return answer, err
}

// problemOf reads the error out of an answer.
func problemOf(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p Problem
	if kind == ContentProblem && json.Unmarshal(data, &p) == nil && p.Detail != "" {
		return p.Err()
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	if text == "" || len(text) > 200 {
		text = http.StatusText(resp.StatusCode)
	}
	return mayfly.Errorf(kindOfStatus(resp.StatusCode), "the daemon answered %d: %s", resp.StatusCode, text)
}

// stream makes the call, gives every message but the last to each, and
// decodes the result into into, unless that is nil.
func (c *Client) stream(ctx context.Context, k call, each func(Message) error, into any) error {
	resp, err := c.send(ctx, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return c.readStream(ctx, resp.Body, each, into)
}

// follow makes the call, gives every message but the last to each, and returns
// the result.
func follow[T any](ctx context.Context, c *Client, k call, each func(Message) error) (result T, err error) {
	err = c.stream(ctx, k, each, &result)
	return result, err
}

func (c *Client) readStream(ctx context.Context, body io.Reader, each func(Message) error, into any) error {
	lines := bufio.NewReaderSize(body, 64<<10)
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return c.sendError(ctx, errors.New("the stream broke off"))
		}
		if err != nil {
			return c.sendError(ctx, err)
		}
		var m Message
		if err := json.Unmarshal(line, &m); err != nil {
			return mayfly.Errorf(mayfly.Internal, "decode stream: %w", err)
		}
		switch {
		case m.Error != nil:
			return m.Error.Err()
		case m.Result != nil:
			if into == nil {
				return nil
			}
			if err := json.Unmarshal(m.Result, into); err != nil {
				return mayfly.Errorf(mayfly.Internal, "decode the daemon's answer: %w", err)
			}
			return nil
		}
		if each != nil && (m.Progress != nil || m.Log != nil || m.Task != nil || m.Service != nil || m.News != nil || m.Event != nil || m.Dropped > 0) {
			if err := each(m); err != nil {
				return err
			}
		}
	}
}

// readLine returns the next line of at most maxMessage bytes. A line without
// its end is io.EOF: it was cut off.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if err == nil && line == nil {
			return part, nil
		}
		if len(line)+len(part) > maxMessage {
			return nil, fmt.Errorf("a line of the stream is longer than %d bytes", maxMessage)
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

// progress passes the progress of a stream on, if anybody wants it.
func progress(report func(Progress)) func(Message) error {
	return func(m Message) error {
		if report != nil && m.Progress != nil {
			report(*m.Progress)
		}
		return nil
	}
}

// all collects every page of a list.
func all[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	items := []T{}
	if query == nil {
		query = url.Values{}
	}
	for {
		page, err := ask[Page[T]](ctx, c, call{method: http.MethodGet, path: []string{path}, query: query})
		if err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.Next == "" || len(page.Items) == 0 {
			return items, nil
		}
		query.Set("next", page.Next)
	}
}

// first collects pages of a list until it has so many items.
func first[T any](ctx context.Context, c *Client, path string, query url.Values, limit int) ([]T, error) {
	items := []T{}
	for {
		query.Set("limit", strconv.Itoa(min(limit-len(items), 1000)))
		page, err := ask[Page[T]](ctx, c, call{method: http.MethodGet, path: []string{path}, query: query})
		if err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.Next == "" || len(items) >= limit { // a page may be empty before the end
			return items, nil
		}
		query.Set("next", page.Next)
	}
}
