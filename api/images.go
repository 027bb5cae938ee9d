package api

import (
	"context"
	"net/http"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// ImageRef is the part of an operation's input that names an image.
type ImageRef struct {
	InSpace
	Name string `path:"name" maxLength:"512" doc:"name or digest, with each / written as %2F"`
}

type transferInput struct {
	InSpace
	Body client.Transfer
}

func (r *router) images() {
	service := r.services.Images
	r = needing(r, service, "images")
	answerWith(r, operation{id: "list-images", route: "GET /v1/images", summary: "List images by name"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[client.Image], error) {
			items, err := service.ListImages(ctx)
			return page(items, in.InPage, false, func(i client.Image) string { return i.Name + "@" + i.Digest }), err
		})
	answerWith(r, operation{id: "get-image", route: "GET /v1/images/{name}", summary: "Get an image with its configuration"},
		func(ctx context.Context, in *ImageRef) (client.Image, error) {
			return service.GetImage(ctx, in.Name)
		})
	answerWith(r, operation{id: "image-usage", route: "GET /v1/usage", summary: "What images take on disk"},
		func(ctx context.Context, _ *InSpace) (client.Usage, error) {
			return service.ImageUsage(ctx)
		})
	r.imageTransfers()
	r.imageKeeping()
}

func (r *router) imageTransfers() {
	service := r.services.Images
	streamed(r, operation{id: "pull-image", route: "POST /v1/images/pull", summary: "Fetch an image from its registry"},
		func(ctx context.Context, in *transferInput, out *stream) (client.Image, error) {
			if err := in.check(); err != nil {
				return client.Image{}, err
			}
			return service.PullImage(ctx, in.Body, out.report)
		})
	streamed(r, operation{id: "push-image", route: "POST /v1/images/push", summary: "Send an image to its registry"},
		func(ctx context.Context, in *transferInput, out *stream) (client.Image, error) {
			if err := in.check(); err != nil {
				return client.Image{}, err
			}
			return service.PushImage(ctx, in.Body, out.report)
		})
	answerWith(r, operation{id: "import-image", route: "POST /v1/images/import", summary: "Make an image of an archive", upload: maxImport, status: http.StatusCreated,
		detail: "An OCI layout, a docker-archive or the tar of a root, plain or compressed with gzip or zstd."},
		func(ctx context.Context, in *struct {
			InSpace
			InBody
			Name string `query:"name" required:"true" maxLength:"512" doc:"name for the image"`
		}) (client.Image, error) {
			image, err := service.ImportImage(ctx, in.Name, in.body)
			if err != nil {
				return client.Image{}, in.readError(err)
			}
			return image, nil
		})
}

func (in *transferInput) check() error {
	if in.Body.Name == "" {
		return mayfly.Errorf(mayfly.Invalid, "no image is named").WithHint("name one, as in debian:12")
	}
	return nil
}

func (r *router) imageKeeping() {
	service := r.services.Images
	answerWith(r, operation{id: "tag-image", route: "POST /v1/images/tag", summary: "Give an image a further name", status: http.StatusCreated},
		func(ctx context.Context, in *struct {
			InSpace
			Body client.Tag
		}) (client.Image, error) {
			return service.TagImage(ctx, in.Body.Source, in.Body.Target)
		})
	done(r, operation{id: "remove-image", route: "DELETE /v1/images/{name}", summary: "Take a name off an image, and the image away with its last"},
		func(ctx context.Context, in *struct {
			ImageRef
			Force bool `query:"force" doc:"even when something uses it"`
		}) error {
			return service.RemoveImage(ctx, in.Name, in.Force)
		})
	answerWith(r, operation{id: "prune-images", route: "POST /v1/images/prune", summary: "Remove images that nothing uses"},
		func(ctx context.Context, in *struct {
			InSpace
			All bool `query:"all" doc:"those that have a name, too"`
		}) (client.Pruned, error) {
			return service.PruneImages(ctx, in.All)
		})
}

func (r *router) stacks() {
	service := r.services.Stacks
	r = needing(r, service, "stacks")
	answerWith(r, operation{id: "list-stacks", route: "GET /v1/stacks", summary: "List the stacks that can be built",
		detail: "Those that come with Mayfly, and those that workloads of the space describe."},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[client.Stack], error) {
			items, err := service.ListStacks(ctx, in.Space)
			return page(items, in.InPage, false, func(s client.Stack) string { return s.Name }), err
		})
	answerWith(r, operation{id: "get-stack", route: "GET /v1/stacks/{name}", summary: "Get a stack"},
		func(ctx context.Context, in *WorkloadRef) (client.Stack, error) {
			return service.GetStack(ctx, in.Space, in.Name)
		})
	streamed(r, operation{id: "make-stack", route: "POST /v1/stacks", summary: "Build a stack that a manifest describes, unless it is there",
		detail: "A deploy does that by itself, for one stack after the other."},
		func(ctx context.Context, in *struct {
			InSpace
			Body client.NewStack
		}, out *stream) (client.Stack, error) {
			return service.MakeStack(ctx, in.Body, out.report)
		})
	streamed(r, operation{id: "build-stack", route: "POST /v1/stacks/{name}/build", summary: "Build a stack, unless it is up to date"},
		func(ctx context.Context, in *struct {
			WorkloadRef
			Fresh bool `query:"fresh" doc:"build it in any case"`
		}, out *stream) (client.Stack, error) {
			return service.BuildStack(ctx, in.Space, in.Name, in.Fresh, out.report)
		})
}
