package main

import (
	"context"

	"github.com/mayfly-run/mayfly/image"
)

// taskImages tells the queue what an image is called by its content.
type taskImages struct{ store *image.Store }

func (i taskImages) Resolve(ctx context.Context, name string) (string, error) {
	found, err := i.store.Get(ctx, name)
	if err != nil {
		return "", err
	}
	return string(found.Digest), nil
}
