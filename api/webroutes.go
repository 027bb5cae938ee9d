package api

import (
	"context"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// Routes lead web requests to workloads. The router package gives them.
type Routes interface {
	// MapRoute keeps a route, in place of the same one with other settings. One
	// that others have is a Conflict.
	MapRoute(ctx context.Context, r mayfly.MappedRoute) (mayfly.MappedRoute, error)

	// UnmapRoutes takes mapped routes away, those that fit or all of the
	// workload, and returns them.
	UnmapRoutes(ctx context.Context, fit mayfly.MappedRoute, all bool) ([]mayfly.MappedRoute, error)

	// ListRoutes returns the routes of a space, or of one workload, in any order.
	ListRoutes(ctx context.Context, space, workload string) ([]mayfly.MappedRoute, error)
}

// webRoutes registers everything about routes.
func (r *router) webRoutes() {
	service := r.services.Routes
	r = needing(r, service, "routes")
	answerWith(r, operation{id: "list-routes", route: "GET /v1/routes", summary: "List routes",
		detail: "By host, path and method; those of manifests too."},
		func(ctx context.Context, in *struct {
			InSpace
			Limit    int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"most items to give"`
			Next     string `query:"next" maxLength:"2048" doc:"what the page before gave as next"`
			Workload string `query:"workload" doc:"of this workload only"`
		}) (client.Page[mayfly.MappedRoute], error) {
			list, err := service.ListRoutes(ctx, in.Space, in.Workload)
			return page(list, InPage{in.Limit, in.Next}, false, store.RouteOrder), err
		})
	answerWith(r, operation{id: "map-route", route: "PUT /v1/routes", summary: "Have a route lead to a workload",
		detail: "The same route of the same workload again changes its settings. One that others have is a 409, unless all of them have a weight."},
		func(ctx context.Context, in *struct {
			InSpace
			Body client.RouteRequest
		}) (mayfly.MappedRoute, error) {
			return service.MapRoute(ctx, in.Body.Plain(in.Space))
		})
	answerWith(r, operation{id: "unmap-route", route: "DELETE /v1/routes", summary: "Take mapped routes of a workload away",
		detail: "Those with this host, path and method, or all; they are answered. Routes of its manifest stay."},
		func(ctx context.Context, in *struct {
			InSpace
			Workload string `query:"workload" required:"true" doc:"whose"`
			Host     string `query:"host" maxLength:"253" doc:"of this host; of any host's route if empty"`
			Path     string `query:"path" maxLength:"1024" default:"/" doc:"of this path"`
			Method   string `query:"method" maxLength:"32" doc:"of this method; of any method's route if empty"`
			Release  int    `query:"release" minimum:"0" doc:"to this release only"`
			All      bool   `query:"all" doc:"all that were mapped to the workload"`
		}) (client.Page[mayfly.MappedRoute], error) {
			fit := client.RouteRequest{Workload: in.Workload, Route: mayfly.Route{Host: in.Host, Path: in.Path, Method: in.Method, Release: in.Release}}
			gone, err := service.UnmapRoutes(ctx, fit.Plain(in.Space), in.All)
			return client.Page[mayfly.MappedRoute]{Items: gone}, err
		})
}
