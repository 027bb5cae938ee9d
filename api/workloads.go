package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// callMethods are the methods that the document lists for a call. Any other is
// passed on as well.
func callMethods() []string {
	return []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}
}

// WorkloadRef is the part of an operation's input that names a workload or a stack.
type WorkloadRef struct {
	InSpace
	Name string `path:"name" doc:"its name"`
}

// Resolve is part of huma.Resolver. It hides that of InSpace, so it calls it.
func (n *WorkloadRef) Resolve(ctx huma.Context) []error {
	return append(n.InSpace.Resolve(ctx), checkName("path.name", "name", n.Name)...)
}

type deployInput struct {
	InSpace
	Key  string `header:"Idempotency-Key" doc:"the same key with the same body gives the first answer again"`
	Body mayfly.Workload
}

type planInput struct {
	InSpace
	Body client.PlanRequest
}

func (r *router) workloads() {
	service := r.services.Workloads
	r = needing(r, service, "workloads")
	streamed(r, operation{id: "deploy", route: "POST /v1/workloads", summary: "Make a release of a workload",
		detail: "Ends when one sandbox of it is ready, or with a problem that has the log. The release before stays active until then."},
		func(ctx context.Context, in *deployInput, out *stream) (mayfly.Release, error) {
			return r.deploy(ctx, in, out)
		})
	answerWith(r, operation{id: "plan", route: "POST /v1/plan", summary: "Say what a deploy of workloads would do", json: maxPlan,
		detail: "Nothing is changed. One question tells which of an app's workloads need not be deployed, because they are the same."},
		func(ctx context.Context, in *planInput) (mayfly.Plan, error) {
			return r.plan(ctx, in)
		})
	answerWith(r, operation{id: "list-workloads", route: "GET /v1/workloads", summary: "List workloads by name"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[mayfly.Release], error) {
			items, err := service.ListWorkloads(ctx, in.Space)
			return page(items, in.InPage, false, func(r mayfly.Release) string { return r.Workload.Name }), err
		})
	answerWith(r, operation{id: "get-workload", route: "GET /v1/workloads/{name}", summary: "Get the active release of a workload"},
		func(ctx context.Context, in *WorkloadRef) (mayfly.Release, error) {
			return service.GetWorkload(ctx, in.Space, in.Name)
		})
	done(r, operation{id: "delete-workload", route: "DELETE /v1/workloads/{name}", summary: "Take a workload away"},
		func(ctx context.Context, in *WorkloadRef) error {
			return service.DeleteWorkload(ctx, in.Space, in.Name)
		})
	r.releases(service)
	answerWith(r, operation{id: "put-code", route: "POST /v1/code", summary: "Upload a code tar", upload: r.opts.MaxCode, status: http.StatusCreated,
		detail: "The digest goes into a workload as code. The same tar gives the same digest."},
		func(ctx context.Context, in *struct {
			InSpace
			InBody
		}) (client.Code, error) {
			digest, err := service.PutCode(ctx, in.body)
			if err != nil {
				return client.Code{}, in.readError(err)
			}
			return client.Code{Digest: digest}, nil
		})
	done(r, operation{id: "find-code", route: "HEAD /v1/code/{digest}", summary: "Ask whether a code tar is there", detail: "If not, upload it."},
		func(ctx context.Context, in *struct {
			InSpace
			Digest string `path:"digest" maxLength:"128" doc:"SHA-256 of the tar, as sha256:..."`
		}) error {
			return service.FindCode(ctx, in.Digest)
		})
	r.documentCall()
}

// releases registers what is done with the releases of a workload.
func (r *router) releases(service Workloads) {
	answerWith(r, operation{id: "list-releases", route: "GET /v1/workloads/{name}/releases", summary: "List the releases of a workload, newest first"},
		func(ctx context.Context, in *WorkloadRef) (client.Page[mayfly.ServiceRelease], error) {
			items, err := service.WorkloadReleases(ctx, in.Space, in.Name)
			return client.Page[mayfly.ServiceRelease]{Items: listOf(items)}, err
		})
	streamed(r, operation{id: "rollback", route: "POST /v1/workloads/{name}/rollback", summary: "Go back to another release of a workload",
		detail: "Of a function it ends when one sandbox of the release is ready; the present one stays active until then. Of a service it ends when that is wanted."},
		func(ctx context.Context, in *struct {
			WorkloadRef
			Body client.RollbackRequest
		}, out *stream) (mayfly.Release, error) {
			return service.RollbackWorkload(ctx, in.Space, in.Name, in.Body.Release, out.say)
		})
	answerWith(r, operation{id: "diff-releases", route: "GET /v1/workloads/{name}/diff", summary: "Say what differs between two releases of a workload",
		detail: "Settings by name, and files of the code by name."},
		func(ctx context.Context, in *struct {
			WorkloadRef
			From int `query:"from" minimum:"0" doc:"a release; 0: the one before the other"`
			To   int `query:"to" minimum:"0" doc:"a release; 0: the active one"`
		}) (mayfly.ReleaseDiff, error) {
			return service.DiffReleases(ctx, in.Space, in.Name, in.From, in.To)
		})
}

func (r *router) deploy(ctx context.Context, in *deployInput, out *stream) (made mayfly.Release, err error) {
	w := in.Body
	if w.Space, err = sameSpace(w.Space, in.Space); err != nil {
		return made, err
	}
	if err := mayfly.CheckName("workload", w.Name); err != nil {
		return made, err
	}
	if (w.Image == "") == (w.Stack == "") {
		return made, mayfly.Errorf(mayfly.Invalid, "workload %s needs either an image or a stack", w.Name)
	}
	return once(ctx, r.answers, "deploy", w.Space, in.Key, w, func() (mayfly.Release, error) {
		return r.services.Workloads.Deploy(ctx, w, out.say)
	})
}

func (r *router) plan(ctx context.Context, in *planInput) (plan mayfly.Plan, err error) {
	for i := range in.Body.Workloads {
		w := &in.Body.Workloads[i]
		if w.Space, err = sameSpace(w.Space, in.Space); err != nil {
			return plan, err
		}
		if err := mayfly.CheckName("workload", w.Name); err != nil {
			return plan, err
		}
	}
	return r.services.Workloads.Plan(ctx, in.Space, in.Body.App, in.Body.Workloads)
}

// documentCall describes what callsFirst serves.
func (r *router) documentCall() {
	text := &huma.Schema{Type: huma.TypeString}
	params := []*huma.Param{
		{Name: "name", In: "path", Required: true, Schema: text, Description: "name of a workload"},
		{Name: client.HeaderSpace, In: "header", Schema: text, Description: "the space; the query is the function's"},
		{Name: client.HeaderMemory, In: "header", Schema: &huma.Schema{Type: huma.TypeInteger}, Description: "memory limit of this call in bytes, above the function's"},
	}
	answers := map[string]*huma.Response{"200": {
		Description: "whatever the function answers, of any status",
		Headers: map[string]*huma.Header{
			client.HeaderRun: {Schema: text, Description: "id of the run"},
			"Server-Timing":  {Schema: text, Description: "queue, sandbox and handler, in milliseconds"},
		},
	}}
	o := operation{id: "call", route: "ANY /v1/workloads/{name}/call", summary: "Call a function at /",
		detail: "Any method and body. A connection that is upgraded or kept open is passed through."}
	r.raw(o, callMethods(), params, answers, nil)
	o.id, o.route, o.summary = "call-path", "ANY /v1/workloads/{name}/call/{path}", "Call a function at a path"
	params = append(params, &huma.Param{Name: "path", In: "path", Required: true, Schema: text, Description: "as the function sees it; it may have slashes"})
	r.raw(o, callMethods(), params, answers, nil)
}

func pathUnescape(path string) (string, error) {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return "", mayfly.Errorf(mayfly.Invalid, "%q is no path: %w", path, err)
	}
	return plain, nil
}

// RunRef is the part of an operation's input that names a run.
type RunRef struct {
	InSpace
	Ref string `path:"ref" maxLength:"64" doc:"an id, or the beginning of one that fits no other"`
}

func (r *router) runs() {
	service := r.services.Workloads
	r = needing(r, service, "workloads")
	answerWith(r, operation{id: "list-runs", route: "GET /v1/runs", summary: "List runs, newest first"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
			Workload string `query:"workload" doc:"of this workload only"`
		}) (client.Page[mayfly.Run], error) {
			items, err := service.ListRuns(ctx, in.Space, in.Workload, in.Limit+1, in.Next)
			if err != nil {
				return client.Page[mayfly.Run]{}, err
			}
			return page(items, in.InPage, true, func(r mayfly.Run) string { return r.ID }), nil
		})
	answerWith(r, operation{id: "get-run", route: "GET /v1/runs/{ref}", summary: "Get a run"},
		func(ctx context.Context, in *RunRef) (mayfly.Run, error) {
			return service.GetRun(ctx, in.Space, in.Ref)
		})
	streamed(r, operation{id: "run-logs", route: "GET /v1/runs/{ref}/logs", summary: "Read the log of a run"},
		func(ctx context.Context, in *struct {
			RunRef
			LogQuery
		}, out *stream) (nothing, error) {
			return nothing{}, service.RunLogs(ctx, in.Space, in.Ref, in.options(), out.log)
		})
}
