package main

import (
	"context"
	"errors"
	"net"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
)

func listenLines(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Conflict, "serve the line protocol: %w", err).WithHint("choose another address with --lines")
	}
	return l, nil
}

// serveLines returns the loop that serves the line protocol.
func serveLines(l net.Listener, endpoints *discovery.Discovery) func(context.Context) error {
	return func(ctx context.Context) error {
		err := endpoints.ListenLines(ctx, l, discovery.LineOptions{}, func(net.Conn) (discovery.Guest, error) { return discovery.Guest{}, nil })
		if errors.Is(err, net.ErrClosed) {
			err = mayfly.Errorf(mayfly.Internal, "serve the line protocol: %w", err)
		}
		return err
	}
}
