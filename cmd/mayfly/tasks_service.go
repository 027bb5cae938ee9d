package main

import (
	"context"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
)

// taskService is the queue as package api asks for it.
type taskService struct{ *queue.Queue }

func (s taskService) Watch(ctx context.Context, space, id string, _ mayfly.Task) (mayfly.Task, error) {
	return s.Wait(ctx, space, id)
}

func (taskService) Pause(context.Context, string, string) error  { return errNotYet }
func (taskService) Resume(context.Context, string, string) error { return errNotYet }
func (taskService) Paused(string, string) bool                   { return false }
func (taskService) Progress(context.Context, string, string, int, mayfly.Progress) error {
	return errNotYet
}

var errNotYet = mayfly.Errorf(mayfly.Unavailable, "the queue cannot do that yet")
