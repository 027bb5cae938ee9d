package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/image"
)

// openNode opens everything that a node is made of, from the bottom up, and
// puts it together. What it opens, the node's close closes again; on an error
// nothing is left open.
func openNode(_ context.Context, f upFlags, log *slog.Logger) (*node, error) {
	name := f.node
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return nil, mayfly.Errorf(mayfly.Internal, "name this node: %w", err)
		}
	}
	if err := os.MkdirAll(f.data, 0o711); err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "make the data directory: %w", err).WithHint("become root, or choose another with --data")
	}
	store, err := image.Open(filepath.Join(f.data, "images"), image.Options{Log: log})
	if err != nil {
		return nil, err
	}
	return &node{
		name:     name,
		driver:   f.driver,
		services: api.Services{Images: imageService{store}, Stacks: stackService{build.NewStacks(store, build.Options{})}},
		close:    store.Close,
	}, nil
}
