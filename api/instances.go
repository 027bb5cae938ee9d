package api

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"syscall"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

const maxGrace = 24 * time.Hour

// InstanceRef is the part of an operation's input that names an instance.
type InstanceRef struct {
	InSpace
	Ref string `path:"ref" maxLength:"80" doc:"an id, the beginning of one that fits no other, or a name"`
}

// LogQuery is the part of an operation's input that chooses what of a log is given.
type LogQuery struct {
	Follow bool      `query:"follow" doc:"go on until the program ends"`
	Since  time.Time `query:"since" doc:"nothing older"`
	Tail   int       `query:"tail" default:"-1" doc:"only the last n lines; negative: all"`
}

func (l LogQuery) options() mayfly.LogOptions {
	return mayfly.LogOptions{Follow: l.Follow, Since: l.Since, Tail: l.Tail}
}

type createInput struct {
	InSpace
	Key  string `header:"Idempotency-Key" doc:"the same key with the same body gives the first answer again"`
	Body mayfly.InstanceSpec
}

type nothing struct{}

func (r *router) instances() {
	service := r.services.Instances
	r = needing(r, service, "instances")
	answerWith(r, operation{id: "create-instance", route: "POST /v1/instances", summary: "Make an instance that waits to be started", status: http.StatusCreated},
		func(ctx context.Context, in *createInput) (mayfly.Instance, error) { return r.createInstance(ctx, in) })
	answerWith(r, operation{id: "list-instances", route: "GET /v1/instances", summary: "List instances, newest first"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
			All bool `query:"all" doc:"those that have ended too"`
		}) (client.Page[mayfly.Instance], error) {
			items, err := service.ListInstances(ctx, in.Space, in.All)
			return page(items, in.InPage, true, func(i mayfly.Instance) string { return i.ID }), err
		})
	answerWith(r, operation{id: "get-instance", route: "GET /v1/instances/{ref}", summary: "Get an instance"},
		func(ctx context.Context, in *InstanceRef) (i mayfly.Instance, err error) {
			return service.GetInstance(ctx, in.Space, in.Ref)
		})
	answerWith(r, operation{id: "instance-stats", route: "GET /v1/instances/{ref}/stats", summary: "What an instance uses now"},
		func(ctx context.Context, in *InstanceRef) (st mayfly.Stats, err error) {
			return service.InstanceStats(ctx, in.Space, in.Ref)
		})
	r.instanceEnds()
	r.instanceStreams()
}

func (r *router) createInstance(ctx context.Context, in *createInput) (made mayfly.Instance, err error) {
	spec := in.Body
	if spec.Space, err = sameSpace(spec.Space, in.Space); err != nil {
		return made, err
	}
	if spec.Image == "" {
		return made, mayfly.Errorf(mayfly.Invalid, "the instance has no image").WithHint("name one as image")
	}
	if spec.Name != "" {
		if err := mayfly.CheckName("instance", spec.Name); err != nil {
			return made, err
		}
	}
	if spec.Timeout < 0 {
		return made, mayfly.Errorf(mayfly.Invalid, "the timeout is negative")
	}
	return once(ctx, r.answers, "create-instance", spec.Space, in.Key, spec, func() (mayfly.Instance, error) {
		return r.services.Instances.CreateInstance(ctx, spec)
	})
}

// sameSpace returns the space that a body and a query agree on.
func sameSpace(body, query string) (string, error) {
	if body != "" && body != query {
		return "", mayfly.Errorf(mayfly.Invalid, "the body names the space %q and the query %q", body, query)
	}
	return query, nil
}

func (r *router) instanceEnds() {
	service := r.services.Instances
	done(r, operation{id: "start-instance", route: "POST /v1/instances/{ref}/start", summary: "Start a created instance"},
		func(ctx context.Context, in *InstanceRef) error {
			i, err := service.GetInstance(ctx, in.Space, in.Ref)
			if err != nil {
				return err
			}
			return service.StartInstance(ctx, in.Space, i.ID)
		})
	done(r, operation{id: "stop-instance", route: "POST /v1/instances/{ref}/stop", summary: "Send SIGTERM, wait, send SIGKILL"},
		func(ctx context.Context, in *struct {
			InstanceRef
			Body client.StopRequest
		}) error {
			return service.StopInstance(ctx, in.Space, in.Ref, min(in.Body.Grace, maxGrace))
		})
	done(r, operation{id: "kill-instance", route: "POST /v1/instances/{ref}/kill", summary: "Send a signal"},
		func(ctx context.Context, in *struct {
			InstanceRef
			Body client.KillRequest
		}) error {
			if in.Body.Signal == 0 {
				return mayfly.Errorf(mayfly.Invalid, "no signal is named").WithHint("name one as signal, such as 15")
			}
			return service.KillInstance(ctx, in.Space, in.Ref, syscall.Signal(in.Body.Signal))
		})
	done(r, operation{id: "remove-instance", route: "DELETE /v1/instances/{ref}", summary: "Forget an ended instance"},
		func(ctx context.Context, in *struct {
			InstanceRef
			Force bool `query:"force" doc:"kill it first"`
		}) error {
			return service.RemoveInstance(ctx, in.Space, in.Ref, in.Force)
		})
}

func (r *router) instanceStreams() {
	service := r.services.Instances
	streamed(r, operation{id: "wait-instance", route: "POST /v1/instances/{ref}/wait", summary: "Wait until an instance has ended"},
		func(ctx context.Context, in *InstanceRef, _ *stream) (i mayfly.Instance, err error) {
			return service.WaitInstance(ctx, in.Space, in.Ref)
		})
	streamed(r, operation{id: "instance-logs", route: "GET /v1/instances/{ref}/logs", summary: "Read the log of an instance"},
		func(ctx context.Context, in *struct {
			InstanceRef
			LogQuery
		}, out *stream) (nothing, error) {
			return nothing{}, service.InstanceLogs(ctx, in.Space, in.Ref, in.options(), out.log)
		})
	attach := operation{id: "attach-instance", route: "POST /v1/instances/{ref}/attach", summary: "Attach to the streams of an instance",
		detail: "Send `Connection: Upgrade` and `Upgrade: " + client.AttachProtocol + "`. After 101, frames go both ways: one byte of stream, " +
			"four bytes of length, big endian, at most 65536, and the bytes. Streams: 0 stdin (an empty frame ends it), 1 stdout, 2 stderr, " +
			"3 the ended instance as JSON, 4 a problem as JSON; 3 or 4 is the last. Attach before starting, and nothing is missed."}
	text := &huma.Schema{Type: huma.TypeString}
	named := []*huma.Param{
		{Name: "ref", In: "path", Required: true, Schema: text},
		{Name: "space", In: "query", Schema: text},
	}
	upgraded := map[string]*huma.Response{"101": {Description: "frames from here on"}}
	r.raw(attach, []string{http.MethodPost}, append(slices.Clone(named),
		&huma.Param{Name: "stdin", In: "query", Schema: &huma.Schema{Type: huma.TypeBoolean}, Description: "hold the program's input"},
	), upgraded, r.serveAttach)
	r.raw(operation{id: "exec-instance", route: "POST /v1/instances/{ref}/exec", summary: "Run one more program in a running instance",
		detail: "Upgrades as attach does, and the frames are the same, but that frame 3 is how the program ended (Exit). " +
			"ref may be SERVICE or SERVICE/REPLICA too. When the connection ends first, the program is sent SIGHUP and then SIGKILL.",
		body: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: r.schema(reflect.TypeFor[mayfly.ExecSpec]())},
		}},
	}, []string{http.MethodPost}, named, upgraded, r.serveExec)
}
