package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
)

// ScheduleRequest is a schedule on the wire. Exactly one of cron, every and at
// is set.
type ScheduleRequest struct {
	Name string      `json:"name,omitempty" doc:"unique in its space; a name in the path is enough"`
	Task TaskRequest `json:"task" doc:"what each tick submits"`

	Emit *mayfly.Event `json:"emit,omitempty" doc:"the event that each tick emits, in place of a task; its id and time follow from the tick"`

	Cron     string        `json:"cron,omitempty" doc:"five fields, or six with seconds in front, or @daily and the like"`
	TimeZone string        `json:"tz,omitempty" doc:"of cron, as in Europe/Berlin; UTC if empty"`
	Every    time.Duration `json:"every,omitempty" doc:"ns, at least a second; counted from start, else from when it was added"`
	At       time.Time     `json:"at,omitzero" doc:"once"`

	Start   time.Time      `json:"start,omitzero" doc:"no tick before it"`
	End     time.Time      `json:"end,omitzero" doc:"no tick after it"`
	Times   int            `json:"times,omitempty" doc:"at most so many tasks; 0: no limit"`
	Jitter  time.Duration  `json:"jitter,omitempty" doc:"ns; each tick is late by a part of it that is always the same"`
	CatchUp time.Duration  `json:"catchUp,omitempty" doc:"ns that a tick may be late and still run, as after a downtime; 0: 5 minutes, for at any time"`
	Overlap mayfly.Overlap `json:"overlap,omitempty" enum:"skip,queue,replace" doc:"what becomes of a tick while a task of an earlier one has not ended; skip if empty"`
	Paused  bool           `json:"paused,omitempty" doc:"of one that is new; otherwise it stays as it is"`
}

// Plain is what the request asks for.
func (r *ScheduleRequest) Plain(space string) (mayfly.Schedule, error) {
	task, err := r.Task.Plain()
	return mayfly.Schedule{
		Space: space, Name: r.Name, Task: task, Cron: r.Cron, TimeZone: r.TimeZone, Every: r.Every, At: r.At,
		Start: r.Start, End: r.End, Times: r.Times, Jitter: r.Jitter, CatchUp: r.CatchUp, Overlap: r.Overlap, Paused: r.Paused, Emit: r.Emit,
	}, err
}

func requestOf(s mayfly.Schedule) ScheduleRequest {
	return ScheduleRequest{
		Name: s.Name, Task: TaskRequest{Submission: s.Task}, Cron: s.Cron, TimeZone: s.TimeZone, Every: s.Every, At: s.At,
		Start: s.Start, End: s.End, Times: s.Times, Jitter: s.Jitter, CatchUp: s.CatchUp, Overlap: s.Overlap, Paused: s.Paused, Emit: s.Emit,
	}
}

// AddSchedule keeps a schedule, whose ticks make tasks from now on. One of the
// same name is a Conflict.
func (c *Client) AddSchedule(ctx context.Context, s mayfly.Schedule) (mayfly.Scheduled, error) {
	return ask[mayfly.Scheduled](ctx, c, call{method: http.MethodPost, path: []string{"schedules"}, send: requestOf(s)})
}

// PutSchedule keeps a schedule in place of the one of its name, if there is one,
// which goes on from where it is unless what says when has changed.
func (c *Client) PutSchedule(ctx context.Context, s mayfly.Schedule) (mayfly.Scheduled, error) {
	return ask[mayfly.Scheduled](ctx, c, call{method: http.MethodPut, path: []string{"schedules", s.Name}, send: requestOf(s)})
}

// GetSchedule returns a schedule, with so many of its ticks to come, at most
// 1000.
func (c *Client) GetSchedule(ctx context.Context, name string, next int) (mayfly.Scheduled, error) {
	query := url.Values{"next": {strconv.Itoa(next)}}
	return ask[mayfly.Scheduled](ctx, c, call{method: http.MethodGet, path: []string{"schedules", name}, query: query})
}

// ListSchedules returns the schedules by name, each with its next tick.
func (c *Client) ListSchedules(ctx context.Context) ([]mayfly.Scheduled, error) {
	return all[mayfly.Scheduled](ctx, c, "schedules", nil)
}

// RemoveSchedule takes a schedule away. What it submitted goes on.
func (c *Client) RemoveSchedule(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"schedules", name}}, nil)
}

// PauseSchedule lets the ticks of a schedule pass without a task.
func (c *Client) PauseSchedule(ctx context.Context, name string) (mayfly.Scheduled, error) {
	return ask[mayfly.Scheduled](ctx, c, call{method: http.MethodPost, path: []string{"schedules", name, "pause"}})
}

// ResumeSchedule undoes PauseSchedule. What passed is not caught up.
func (c *Client) ResumeSchedule(ctx context.Context, name string) (mayfly.Scheduled, error) {
	return ask[mayfly.Scheduled](ctx, c, call{method: http.MethodPost, path: []string{"schedules", name, "resume"}})
}

// RunSchedule submits a schedule's task now, out of turn.
func (c *Client) RunSchedule(ctx context.Context, name string) (mayfly.Task, error) {
	return ask[mayfly.Task](ctx, c, call{method: http.MethodPost, path: []string{"schedules", name, "run"}})
}
