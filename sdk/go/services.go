package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
)

// ScaleRequest is how many replicas a service shall have.
type ScaleRequest struct {
	Count *int `json:"count" nullable:"true" minimum:"0" doc:"null: as many as the release says"`
}

// RollbackRequest names the release that a workload goes back to.
type RollbackRequest struct {
	Release int `json:"release,omitempty" minimum:"0" doc:"its number; 0: the last one before that was healthy"`
}

// ListServices returns the services by name, each with its replicas.
func (c *Client) ListServices(ctx context.Context) ([]mayfly.Supervised, error) {
	return all[mayfly.Supervised](ctx, c, "services", nil)
}

// GetService returns a service with its replicas.
func (c *Client) GetService(ctx context.Context, name string) (mayfly.Supervised, error) {
	return ask[mayfly.Supervised](ctx, c, call{method: http.MethodGet, path: []string{"services", name}})
}

// WatchService gives the service to each as it is, and again whenever it is
// another, until ctx ends or each fails, whose error it returns. The state of one
// that is gone is mayfly.ServiceDeleted.
func (c *Client) WatchService(ctx context.Context, name string, each func(mayfly.Supervised) error) error {
	return c.watchServices(ctx, []string{"services", name, "watch"}, each)
}

// WatchServices is WatchService for all of them.
func (c *Client) WatchServices(ctx context.Context, each func(mayfly.Supervised) error) error {
	return c.watchServices(ctx, []string{"watch", "services"}, each)
}

func (c *Client) watchServices(ctx context.Context, path []string, each func(mayfly.Supervised) error) error {
	return c.stream(ctx, call{method: http.MethodGet, path: path}, func(m Message) error {
		if m.Service == nil {
			return nil
		}
		return each(*m.Service)
	}, nil)
}

// Load returns what a workload has to do at this moment.
func (c *Client) Load(ctx context.Context, name string) (mayfly.Load, error) {
	return ask[mayfly.Load](ctx, c, call{method: http.MethodGet, path: []string{"workloads", name, "load"}})
}

// ScaleService asks for so many replicas of a service, nil for as many as its
// release says. They follow after the answer.
func (c *Client) ScaleService(ctx context.Context, name string, count *int) (mayfly.Supervised, error) {
	return ask[mayfly.Supervised](ctx, c, call{method: http.MethodPut, path: []string{"services", name, "scale"}, send: ScaleRequest{count}})
}

// RestartService has all replicas of a service replaced bit by bit.
func (c *Client) RestartService(ctx context.Context, name string) (mayfly.Supervised, error) {
	return ask[mayfly.Supervised](ctx, c, call{method: http.MethodPost, path: []string{"services", name, "restart"}})
}

// RollbackService has a service go back to a release, 0 being the last one before
// that was healthy.
func (c *Client) RollbackService(ctx context.Context, name string, release int) (mayfly.Supervised, error) {
	return ask[mayfly.Supervised](ctx, c, call{method: http.MethodPost, path: []string{"services", name, "rollback"}, send: RollbackRequest{release}})
}

// ServiceReleases returns the releases of a service that still exist, newest
// first.
func (c *Client) ServiceReleases(ctx context.Context, name string) ([]mayfly.ServiceRelease, error) {
	page, err := ask[Page[mayfly.ServiceRelease]](ctx, c, call{method: http.MethodGet, path: []string{"services", name, "releases"}})
	return page.Items, err
}

// NewsFilter selects news. Empty fields select everything.
type NewsFilter struct {
	Subject string    // name of the workload, volume... that it is about
	Type    string    // a whole type, such as "service.ready", or a noun
	Since   time.Time // nothing older
	Limit   int       // the last so many of what has happened; 1000 if 0, none if negative
}

func (f *NewsFilter) query() url.Values {
	query := url.Values{}
	if f.Subject != "" {
		query.Set("subject", f.Subject)
	}
	if f.Type != "" {
		query.Set("type", f.Type)
	}
	if !f.Since.IsZero() {
		query.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if f.Limit != 0 {
		query.Set("limit", strconv.Itoa(max(f.Limit, 0)))
	}
	return query
}

// ListNews returns what happened, oldest first.
func (c *Client) ListNews(ctx context.Context, f NewsFilter) ([]mayfly.News, error) {
	page, err := ask[Page[mayfly.News]](ctx, c, call{method: http.MethodGet, path: []string{"news"}, query: f.query()})
	return page.Items, err
}

// WatchNews gives what happened to each, and then what happens, until ctx ends or
// each fails, whose error it returns.
func (c *Client) WatchNews(ctx context.Context, f NewsFilter, each func(mayfly.News) error) error {
	return c.stream(ctx, call{method: http.MethodGet, path: []string{"watch", "news"}, query: f.query()}, func(m Message) error {
		if m.News == nil {
			return nil
		}
		return each(*m.News)
	}, nil)
}
