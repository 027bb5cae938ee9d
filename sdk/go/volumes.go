package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/mayfly-run/mayfly"
)

// VolumeRequest is the definition of a volume on the wire.
type VolumeRequest struct {
	Name     string            `json:"name,omitempty" doc:"unique in its space; a name in the path is enough"`
	App      string            `json:"app,omitempty" doc:"the manifest that it is of"`
	Provider string            `json:"provider,omitempty" doc:"local if empty, tmpfs or bind"`
	Source   string            `json:"source,omitempty" doc:"of bind: absolute path on the node, beneath one that an administrator allowed"`
	Size     int64             `json:"size,omitempty" minimum:"0" doc:"bytes; 0: no limit"`
	Owner    string            `json:"owner,omitempty" doc:"UID:GID of its top, when it is made"`
	Mode     uint32            `json:"mode,omitempty" doc:"permission bits of its top, when it is made; 0755 if 0"`
	Shared   bool              `json:"shared,omitempty" doc:"several instances may write at once"`
	Purge    bool              `json:"purge,omitempty" doc:"it goes with the last workload that names it"`
	Labels   map[string]string `json:"labels,omitempty"`

	Events *mayfly.VolumeEvents `json:"events,omitempty" doc:"has it told as events that files came into it and are complete; nothing is told if it is left out"`
}

// Plain is what the request defines.
func (r *VolumeRequest) Plain(space string) mayfly.Volume {
	v := mayfly.Volume{
		Space: space, Name: r.Name, App: r.App, Provider: r.Provider, Source: r.Source, Size: r.Size,
		Owner: r.Owner, Mode: r.Mode, Shared: r.Shared, Purge: r.Purge, Labels: r.Labels,
	}
	if r.Events != nil {
		v.Events = *r.Events
	}
	return v
}

func volumeRequest(v mayfly.Volume) VolumeRequest {
	r := VolumeRequest{
		Name: v.Name, App: v.App, Provider: v.Provider, Source: v.Source, Size: v.Size,
		Owner: v.Owner, Mode: v.Mode, Shared: v.Shared, Purge: v.Purge, Labels: v.Labels,
	}
	if v.Events.On() || len(v.Events.Match) > 0 || v.Events.Depth != 0 { // what lacks a type is refused
		r.Events = &v.Events
	}
	return r
}

// CreateVolume makes a volume. One of its name is a Conflict.
func (c *Client) CreateVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error) {
	return ask[mayfly.Volume](ctx, c, call{method: http.MethodPost, path: []string{"volumes"}, send: volumeRequest(v)})
}

// PutVolume defines a volume, which is made when a container needs it. One that is
// defined the same stays as it is; provider, source and size of one that was made
// cannot be changed, which is a Conflict.
func (c *Client) PutVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error) {
	return ask[mayfly.Volume](ctx, c, call{method: http.MethodPut, path: []string{"volumes", v.Name}, send: volumeRequest(v)})
}

// ListVolumes returns the volumes by name.
func (c *Client) ListVolumes(ctx context.Context) ([]mayfly.Volume, error) {
	return all[mayfly.Volume](ctx, c, "volumes", nil)
}

// GetVolume returns a volume, what it takes, its snapshots and who uses it.
func (c *Client) GetVolume(ctx context.Context, name string) (mayfly.VolumeDetails, error) {
	return ask[mayfly.VolumeDetails](ctx, c, call{method: http.MethodGet, path: []string{"volumes", name}})
}

// RemoveVolume removes a volume that nobody uses; with force although a workload
// names it, and its snapshots too.
func (c *Client) RemoveVolume(ctx context.Context, name string, force bool) error {
	query := url.Values{"force": {strconv.FormatBool(force)}}
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"volumes", name}, query: query}, nil)
}

// SnapshotVolume keeps a copy of a volume as it is at one moment, under a name, or
// one made of the time if it is empty.
func (c *Client) SnapshotVolume(ctx context.Context, name, snapshot string) (mayfly.VolumeSnapshot, error) {
	return ask[mayfly.VolumeSnapshot](ctx, c, call{method: http.MethodPost, path: []string{"volumes", name, "snapshots"}, send: map[string]string{"name": snapshot}})
}

// RemoveSnapshot removes a snapshot.
func (c *Client) RemoveSnapshot(ctx context.Context, name, snapshot string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"volumes", name, "snapshots", snapshot}}, nil)
}

// RestoreVolume puts a snapshot in the place of what is in a volume, which nobody
// may use.
func (c *Client) RestoreVolume(ctx context.Context, name, snapshot string) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"volumes", name, "restore"}, send: map[string]string{"snapshot": snapshot}}, nil)
}

// CloneVolume makes a volume with what is in another one, or in a snapshot of that
// if it is not empty.
func (c *Client) CloneVolume(ctx context.Context, name, snapshot, to string) (mayfly.Volume, error) {
	return ask[mayfly.Volume](ctx, c, call{method: http.MethodPost, path: []string{"volumes", name, "clone"}, send: map[string]string{"name": to, "snapshot": snapshot}})
}

// ReadVolumeFiles copies what is at a path of a volume, as ReadFiles does of a
// container. The caller closes it.
func (c *Client) ReadVolumeFiles(ctx context.Context, name, path string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: []string{"volumes", name, "files"}, query: url.Values{"path": {path}}})
	if err != nil {
		return nil, err
	}
	return &fileStream{ctx: ctx, c: c, resp: resp}, nil
}

// WriteVolumeFiles copies a tar stream to a path of a volume, as WriteFiles does
// to one of a container. The files become those of the owner of its top.
func (c *Client) WriteVolumeFiles(ctx context.Context, name, path string, tar io.Reader, o CopyOptions) (CopyReport, error) {
	query := url.Values{"path": {path}, "keep": {strconv.FormatBool(o.Keep)}, "into": {strconv.FormatBool(o.Into)}}
	return ask[CopyReport](ctx, c, call{method: http.MethodPut, path: []string{"volumes", name, "files"}, query: query, raw: io.MultiReader(tar)})
}
