package api

import (
	"context"
	"net/http"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// ScheduleRef is the part of an operation's input that names a schedule.
type ScheduleRef struct {
	InSpace
	Name string `path:"name" maxLength:"64" doc:"its name"`
}

// schedules registers everything about schedules.
func (r *router) schedules() {
	service := r.services.Schedules
	r = needing(r, service, "schedules")
	r.scheduleWrites()
	answerWith(r, operation{id: "list-schedules", route: "GET /v1/schedules", summary: "List schedules by name, each with its next tick"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[mayfly.Scheduled], error) {
			items, err := service.List(ctx, in.Space, in.Next, in.Limit)
			page := client.Page[mayfly.Scheduled]{Items: listOf(items)}
			if len(items) == in.Limit {
				page.Next = items[len(items)-1].Name
			}
			return page, err
		})
	answerWith(r, operation{id: "get-schedule", route: "GET /v1/schedules/{name}", summary: "Get a schedule"},
		func(ctx context.Context, in *struct {
			ScheduleRef
			Next int `query:"next" default:"1" minimum:"0" maximum:"1000" doc:"how many of its ticks to come to tell"`
		}) (mayfly.Scheduled, error) {
			return service.Get(ctx, in.Space, in.Name, in.Next)
		})
	answerWith(r, operation{id: "pause-schedule", route: "POST /v1/schedules/{name}/pause", summary: "Let ticks pass without a task"},
		func(ctx context.Context, in *ScheduleRef) (mayfly.Scheduled, error) {
			return service.Pause(ctx, in.Space, in.Name)
		})
	answerWith(r, operation{id: "resume-schedule", route: "POST /v1/schedules/{name}/resume", summary: "Let ticks make tasks again",
		detail: "What passed meanwhile is not caught up."},
		func(ctx context.Context, in *ScheduleRef) (mayfly.Scheduled, error) {
			return service.Resume(ctx, in.Space, in.Name)
		})
	answerWith(r, operation{id: "run-schedule", route: "POST /v1/schedules/{name}/run", summary: "Submit a schedule's task now",
		detail: "It runs whatever the schedule's times, its overlap policy and its pause say.", status: http.StatusCreated},
		func(ctx context.Context, in *ScheduleRef) (mayfly.Task, error) {
			return service.RunNow(ctx, in.Space, in.Name)
		})
	done(r, operation{id: "remove-schedule", route: "DELETE /v1/schedules/{name}", summary: "Take a schedule away; what it submitted goes on"},
		func(ctx context.Context, in *ScheduleRef) error {
			return service.Remove(ctx, in.Space, in.Name)
		})
}

func (r *router) scheduleWrites() {
	service := r.services.Schedules
	answerWith(r, operation{id: "add-schedule", route: "POST /v1/schedules", summary: "Add a schedule", status: http.StatusCreated,
		detail: "It is on disk when this is answered. One of the same name is a 409."},
		func(ctx context.Context, in *struct {
			InSpace
			Body client.ScheduleRequest
		}) (mayfly.Scheduled, error) {
			want, err := in.Body.Plain(in.Space)
			if err != nil {
				return mayfly.Scheduled{}, err
			}
			return service.Add(ctx, want, false)
		})
	answerWith(r, operation{id: "put-schedule", route: "PUT /v1/schedules/{name}", summary: "Add a schedule or replace it",
		detail: "One that is replaced goes on from where it is, but for what says when, a change of which begins anew."},
		func(ctx context.Context, in *struct {
			ScheduleRef
			Body client.ScheduleRequest
		}) (mayfly.Scheduled, error) {
			if in.Body.Name != "" && in.Body.Name != in.Name {
				return mayfly.Scheduled{}, mayfly.Errorf(mayfly.Invalid, "the body names the schedule %q and the path %q", in.Body.Name, in.Name)
			}
			in.Body.Name = in.Name
			want, err := in.Body.Plain(in.Space)
			if err != nil {
				return mayfly.Scheduled{}, err
			}
			return service.Add(ctx, want, true)
		})
}
