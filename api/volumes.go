package api

import (
	"context"
	"io"
	"net/http"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/tree"
)

// Volumes are storage that outlives containers. The claim package gives them.
type Volumes interface {
	VolumeKeeper
	VolumeCopier
	VolumeFiles
}

// VolumeKeeper keeps the volumes of a space.
type VolumeKeeper interface {
	ListVolumes(ctx context.Context, space string) ([]mayfly.Volume, error)
	GetVolume(ctx context.Context, space, name string) (mayfly.VolumeDetails, error)

	// CreateVolume makes a volume. One of its name is a Conflict.
	CreateVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error)

	// PutVolume defines a volume, which is made when it is needed. One that is
	// there and differs in what cannot be changed is a Conflict.
	PutVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error)

	// RemoveVolume removes a volume. One in use is a Conflict; so is, without
	// force, one that a workload names or that has snapshots.
	RemoveVolume(ctx context.Context, space, name string, force bool) error
}

// VolumeCopier copies volumes.
type VolumeCopier interface {
	// SnapshotVolume keeps a copy under a name, or one made up if that is empty.
	SnapshotVolume(ctx context.Context, space, name, snapshot string) (mayfly.VolumeSnapshot, error)
	RemoveSnapshot(ctx context.Context, space, name, snapshot string) error

	// RestoreVolume is a Conflict while anybody uses the volume.
	RestoreVolume(ctx context.Context, space, name, snapshot string) error

	// CloneVolume makes a volume with what is in another one, or in its snapshot.
	CloneVolume(ctx context.Context, space, name, snapshot, to string) (mayfly.Volume, error)
}

// VolumeFiles copy in and out.
type VolumeFiles interface {
	// ReadVolume writes what is at a path as a tar.
	ReadVolume(ctx context.Context, space, name, path string, w io.Writer) error

	// WriteVolume makes files of a tar at a path.
	WriteVolume(ctx context.Context, space, name, path string, r io.Reader, o client.CopyOptions) (tree.Report, error)
}

// VolumeRef is the part of an operation's input that names a volume.
type VolumeRef struct {
	InSpace
	Name string `path:"name" maxLength:"64" doc:"its name"`
}

func (r *router) volumes() {
	service := r.services.Volumes
	r = needing(r, service, "volumes")
	answerWith(r, operation{id: "list-volumes", route: "GET /v1/volumes", summary: "List volumes by name"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[mayfly.Volume], error) {
			items, err := service.ListVolumes(ctx, in.Space)
			return page(items, in.InPage, false, func(v mayfly.Volume) string { return v.Name }), err
		})
	answerWith(r, operation{id: "get-volume", route: "GET /v1/volumes/{name}", summary: "Get a volume, what it takes, its snapshots and who uses it"},
		func(ctx context.Context, in *VolumeRef) (mayfly.VolumeDetails, error) {
			return service.GetVolume(ctx, in.Space, in.Name)
		})
	r.volumeWrites()
	r.volumeCopies()
	r.volumeFiles()
}

func (r *router) volumeWrites() {
	service := r.services.Volumes
	answerWith(r, operation{id: "create-volume", route: "POST /v1/volumes", summary: "Make a volume", status: http.StatusCreated,
		detail: "One of the same name is a 409."},
		func(ctx context.Context, in *struct {
			InSpace
			Body client.VolumeRequest
		}) (mayfly.Volume, error) {
			return service.CreateVolume(ctx, in.Body.Plain(in.Space))
		})
	answerWith(r, operation{id: "put-volume", route: "PUT /v1/volumes/{name}", summary: "Define a volume, which is made when a container needs it",
		detail: "One that is defined the same stays as it is. Provider, source and size of one that was made cannot be changed: a 409."},
		func(ctx context.Context, in *struct {
			VolumeRef
			Body client.VolumeRequest
		}) (mayfly.Volume, error) {
			if in.Body.Name != "" && in.Body.Name != in.Name {
				return mayfly.Volume{}, mayfly.Errorf(mayfly.Invalid, "the body names the volume %q and the path %q", in.Body.Name, in.Name)
			}
			in.Body.Name = in.Name
			return service.PutVolume(ctx, in.Body.Plain(in.Space))
		})
	done(r, operation{id: "remove-volume", route: "DELETE /v1/volumes/{name}", summary: "Remove a volume that nobody uses"},
		func(ctx context.Context, in *struct {
			VolumeRef
			Force bool `query:"force" doc:"although a workload names it, and its snapshots too"`
		}) error {
			return service.RemoveVolume(ctx, in.Space, in.Name, in.Force)
		})
}

func (r *router) volumeCopies() {
	service := r.services.Volumes
	answerWith(r, operation{id: "snapshot-volume", route: "POST /v1/volumes/{name}/snapshots", summary: "Take a snapshot of a volume", status: http.StatusCreated,
		detail: "It shows what was in the volume at one moment. A volume that is written to all the time is a 429."},
		func(ctx context.Context, in *struct {
			VolumeRef
			Body struct {
				Name string `json:"name,omitempty" doc:"made up of the time if empty"`
			}
		}) (mayfly.VolumeSnapshot, error) {
			return service.SnapshotVolume(ctx, in.Space, in.Name, in.Body.Name)
		})
	done(r, operation{id: "remove-snapshot", route: "DELETE /v1/volumes/{name}/snapshots/{snapshot}", summary: "Remove a snapshot"},
		func(ctx context.Context, in *struct {
			VolumeRef
			Snapshot string `path:"snapshot" maxLength:"64"`
		}) error {
			return service.RemoveSnapshot(ctx, in.Space, in.Name, in.Snapshot)
		})
	done(r, operation{id: "restore-volume", route: "POST /v1/volumes/{name}/restore", summary: "Put a snapshot in the place of what is in a volume",
		detail: "A 409 while anybody uses the volume."},
		func(ctx context.Context, in *struct {
			VolumeRef
			Body struct {
				Snapshot string `json:"snapshot" minLength:"1"`
			}
		}) error {
			return service.RestoreVolume(ctx, in.Space, in.Name, in.Body.Snapshot)
		})
	answerWith(r, operation{id: "clone-volume", route: "POST /v1/volumes/{name}/clone", summary: "Make a volume with what is in another one", status: http.StatusCreated},
		func(ctx context.Context, in *struct {
			VolumeRef
			Body struct {
				Name     string `json:"name" minLength:"1" doc:"of the new volume"`
				Snapshot string `json:"snapshot,omitempty" doc:"what was in it then, instead of now"`
			}
		}) (mayfly.Volume, error) {
			return service.CloneVolume(ctx, in.Space, in.Name, in.Body.Snapshot, in.Body.Name)
		})
}

func (r *router) volumeFiles() {
	r.copies("name", "in the volume",
		operation{id: "read-volume", route: "GET /v1/volumes/{name}/files", summary: "Copy files out of a volume", detail: "As out of a container."},
		r.readVolume,
		operation{id: "write-volume", route: "PUT /v1/volumes/{name}/files", summary: "Copy files into a volume",
			detail: "As into a container. The files become those of the owner of the volume's top."},
		r.writeVolume)
}

// volumeQuery is fileQuery for a volume, whose name is in its ref.
func (r *router) volumeQuery(req *http.Request) (fileQuery, error) {
	if err := need(r.services.Volumes, "volumes"); err != nil {
		return fileQuery{}, err
	}
	q, err := readFileQuery(req)
	q.ref = req.PathValue("name")
	return q, err
}

func (r *router) readVolume(w http.ResponseWriter, req *http.Request) {
	q, err := r.volumeQuery(req)
	if err != nil {
		r.fail(w, req, err)
		return
	}
	r.sendFiles(w, req, func(ctx context.Context, out io.Writer) error {
		return r.services.Volumes.ReadVolume(ctx, q.space, q.ref, q.path, out)
	})
}

func (r *router) writeVolume(w http.ResponseWriter, req *http.Request) {
	q, err := r.volumeQuery(req)
	if err != nil {
		r.refuse(w, req, err)
		return
	}
	r.takeFiles(w, req, func(ctx context.Context, in io.Reader) (tree.Report, error) {
		return r.services.Volumes.WriteVolume(ctx, q.space, q.ref, q.path, in, q.options)
	})
}
