package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/mayfly-run/mayfly"
)

// RouteRequest is a route to a workload on the wire.
type RouteRequest struct {
	Workload string `json:"workload" doc:"where it leads"`
	mayfly.Route
}

// Plain is what the request asks for.
func (r *RouteRequest) Plain(space string) mayfly.MappedRoute {
	return mayfly.MappedRoute{Route: r.Route, Space: space, Workload: r.Workload}
}

// MapRoute has a route lead to a workload. The same route again changes its
// settings. One that others have is a Conflict, unless all of them have a weight.
func (c *Client) MapRoute(ctx context.Context, workload string, r mayfly.Route) (mayfly.MappedRoute, error) {
	return ask[mayfly.MappedRoute](ctx, c, call{method: http.MethodPut, path: []string{"routes"}, send: RouteRequest{workload, r}})
}

// UnmapRoute takes away the mapped routes of a workload with the host, path and
// method of r, and of its release if that is not 0, and returns them. One of its
// manifest is a Conflict.
func (c *Client) UnmapRoute(ctx context.Context, workload string, r mayfly.Route) ([]mayfly.MappedRoute, error) {
	query := url.Values{"workload": {workload}, "host": {r.Host}, "method": {r.Method}}
	if r.Path != "" {
		query.Set("path", r.Path)
	}
	if r.Release != 0 {
		query.Set("release", strconv.Itoa(r.Release))
	}
	page, err := ask[Page[mayfly.MappedRoute]](ctx, c, call{method: http.MethodDelete, path: []string{"routes"}, query: query})
	return page.Items, err
}

// UnmapRoutes takes away all mapped routes of a workload, and returns them.
func (c *Client) UnmapRoutes(ctx context.Context, workload string) ([]mayfly.MappedRoute, error) {
	query := url.Values{"workload": {workload}, "all": {"true"}}
	page, err := ask[Page[mayfly.MappedRoute]](ctx, c, call{method: http.MethodDelete, path: []string{"routes"}, query: query})
	return page.Items, err
}

// ListRoutes returns the routes of a workload, or of all of them if it is empty,
// with where each comes from.
func (c *Client) ListRoutes(ctx context.Context, workload string) ([]mayfly.MappedRoute, error) {
	query := url.Values{}
	if workload != "" {
		query.Set("workload", workload)
	}
	return all[mayfly.MappedRoute](ctx, c, "routes", query)
}
