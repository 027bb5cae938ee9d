package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/mayfly-run/mayfly/image"
	nodes "github.com/mayfly-run/mayfly/node"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// imageService is a store of images as package api asks for it.
type imageService struct {
	store *image.Store
	node  *nodes.Node // knows what images are for
}

func wireImage(i image.Image, whole bool) (client.Image, error) {
	w := client.Image{Name: i.Name, Digest: i.Digest, Size: i.Size, Blobs: i.Blobs, Layers: i.Layers, Created: i.Created, Labels: i.Labels}
	if !whole {
		return w, nil
	}
	var err error
	w.Config, err = json.Marshal(i.Config)
	return w, err
}

func wireImageOf(i image.Image, err error) (client.Image, error) {
	if err != nil {
		return client.Image{}, err
	}
	return wireImage(i, true)
}

func (s imageService) ListImages(ctx context.Context) ([]client.Image, error) {
	all, err := s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]client.Image, len(all))
	for n, i := range all {
		if list[n], err = wireImage(i, false); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (s imageService) GetImage(ctx context.Context, name string) (client.Image, error) {
	return wireImageOf(s.store.Get(ctx, name))
}

func (s imageService) ImageUsage(ctx context.Context) (client.Usage, error) {
	u, err := s.store.Usage(ctx)
	return client.Usage{Images: u.Images, Blobs: u.Blobs, Unpacked: u.Unpacked, Partial: u.Partial}, err
}

func (s imageService) ImportImage(ctx context.Context, name string, archive io.Reader) (client.Image, error) {
	return wireImageOf(s.store.Import(ctx, name, archive))
}

func authOf(c client.Credentials) authn.Authenticator {
	if c == (client.Credentials{}) {
		return nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken})
}

func (s imageService) PullImage(ctx context.Context, t client.Transfer, report func(client.Progress)) (client.Image, error) {
	return wireImageOf(s.store.Pull(ctx, t.Name, image.PullOptions{
		Auth: authOf(t.Credentials), PlainHTTP: t.PlainHTTP,
		Progress: throttled(func(p image.Progress) {
			report(client.Progress{ID: p.Digest, Text: string(p.Phase), Done: p.Bytes, Total: p.Total})
		}),
	}))
}

// reportTime is how often one layer's progress is told: as often as a person
// can read it.
const reportTime = 100 * time.Millisecond

// throttled passes the progress of each layer on at most every reportTime, and
// at once when it does something else than before or has all its bytes. It is
// called from one goroutine at a time.
func throttled(report func(image.Progress)) func(image.Progress) {
	type told struct {
		phase image.Phase
		whole bool
		time  time.Time
	}
	last := map[string]told{}
	return func(p image.Progress) {
		now := told{p.Phase, p.Bytes >= p.Total, time.Now()}
		before, ok := last[p.Digest]
		if ok && before.phase == now.phase && before.whole == now.whole && now.time.Sub(before.time) < reportTime {
			return
		}
		last[p.Digest] = now
		report(p)
	}
}

func (s imageService) PushImage(ctx context.Context, t client.Transfer, report func(client.Progress)) (client.Image, error) {
	report(client.Progress{Text: "pushing " + t.Name})
	if err := s.store.Push(ctx, t.Name, t.Name, image.PushOptions{Auth: authOf(t.Credentials), PlainHTTP: t.PlainHTTP}); err != nil {
		return client.Image{}, err
	}
	return s.GetImage(ctx, t.Name)
}

func (s imageService) TagImage(ctx context.Context, source, target string) (client.Image, error) {
	return wireImageOf(s.store.Tag(ctx, source, target))
}

func (s imageService) RemoveImage(ctx context.Context, name string, force bool) error {
	err := s.store.Remove(ctx, name, force)
	var used *image.InUse
	if errors.As(err, &used) { // by a name that tells people nothing
		used.Owner = s.node.OwnerName(used.Owner)
	}
	return err
}

func (s imageService) PruneImages(ctx context.Context, all bool) (client.Pruned, error) {
	removed, freed, err := s.store.Prune(ctx, image.PruneOptions{All: all, Keep: s.node.NeededImages()})
	return client.Pruned{Images: removed, Freed: freed}, err
}
