package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/mayfly-run/mayfly"
)

const (
	maxHead = 64 << 10 // bytes of an answer that are read, headers and all
	maxBody = 10 << 10 // bytes of its content
	maxInfo = 8        // answers of 1xx before the one that counts
)

const userAgent = "mayfly-probe"

// askHTTP speaks HTTP/1.1 on a connection of its own. A http.Transport would
// start goroutines for each, which is most of what an idle service costs.
func (t Target) askHTTP(ctx context.Context, path string, p *mayfly.HTTPProbe) error {
	where, err := url.ParseRequestURI(path)
	if err != nil {
		return errors.New("the path is not one of a URL")
	}
	conn, release, err := t.dial(ctx, p.Port)
	if err != nil {
		return err
	}
	defer release()
	where.Host = t.Host
	if where.Host == "" {
		where.Host = "localhost"
	}
	req := &http.Request{Method: http.MethodGet, URL: where, Host: where.Host, Header: http.Header{"User-Agent": {userAgent}, "Accept": {"*/*"}}, Close: true}
	for name, value := range p.Headers {
		if req.Header.Set(name, value); http.CanonicalHeaderKey(name) == "Host" {
			req.Host = value
		}
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(conn, maxHead))
	for range maxInfo {
		resp, err := http.ReadResponse(in, req)
		if err != nil {
			return err
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		// Read, so that the server does not see its answer refused.
		io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
		if resp.StatusCode >= 200 && resp.StatusCode < 400 {
			return nil
		}
		return fmt.Errorf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return errors.New("only informational answers")
}
