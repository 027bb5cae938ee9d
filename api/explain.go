package api

import (
	"context"

	"github.com/mayfly-run/mayfly"
)

// Explainer says why things are as they are. The explain package gives it.
type Explainer interface {
	// Graph returns who requires whom.
	Graph(ctx context.Context, space string) (mayfly.Graph, error)

	// Why explains the service, function, container, volume, run, task or event that ref names.
	Why(ctx context.Context, space, ref string) (mayfly.Explanation, error)
}

// explained registers what explains.
func (r *router) explained() {
	service := r.services.Explainer
	r = needing(r, service, "explanations")
	answerWith(r, operation{id: "graph", route: "GET /v1/graph", summary: "Show who requires whom, and how they are"},
		func(ctx context.Context, in *struct{ InSpace }) (mayfly.Graph, error) {
			return service.Graph(ctx, in.Space)
		})
	answerWith(r, operation{id: "why", route: "GET /v1/why/{ref}", summary: "Say why something is as it is",
		detail: "A service, function, container, volume, run, task or event, by name or id; sentences from what was decided and written down."},
		func(ctx context.Context, in *struct {
			InSpace
			Ref string `path:"ref" maxLength:"1024" doc:"name or id"`
		}) (mayfly.Explanation, error) {
			return service.Why(ctx, in.Space, in.Ref)
		})
}
