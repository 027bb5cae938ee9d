package api

import (
	"context"

	"github.com/mayfly-run/mayfly"
)

// Loads tells what workloads have to do.
type Loads interface {
	// Load returns what a workload has to do at this moment, or NotFound.
	Load(ctx context.Context, space, name string) (mayfly.Load, error)
}

// load registers what workloads have to do.
func (r *router) load() {
	loads := r.services.Loads
	r = needing(r, loads, "loads")
	answerWith(r, operation{id: "get-load", route: "GET /v1/workloads/{name}/load", summary: "Say what a workload has to do at this moment",
		detail: "Of a service, the requests that came by its routes count, among them connections that stay, such as WebSockets; of a function, its " +
			"runs and the tasks that wait for their turn. Programs in containers may ask for loads in their own space."},
		func(ctx context.Context, in *WorkloadRef) (mayfly.Load, error) {
			return loads.Load(ctx, in.Space, in.Name)
		})
}
