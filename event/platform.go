package event

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

// What the platform tells is made an event only where some mapping or somebody who
// looks on wants its type, so that nobody else pays for it.

// runNews makes events of the news since Open, until ctx ends.
func (e *Events) runNews(ctx context.Context) {
	next := e.news
	for ctx.Err() == nil {
		err := e.store.FollowNews(ctx, store.NewsFilter{}, next, func(n mayfly.News) error {
			next++
			if eventType := platformType + n.Type; e.wantsPlatform(n.Space, eventType) {
				e.tell(ctx, n.Space, mayfly.Event{
					ID: n.ID, Source: "mayfly", Type: eventType, Subject: n.Subject, Time: n.Time,
				}, n)
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			e.log.Warn("the news is not told as events; it is tried again", "error", err)
			pause(ctx, retryPause)
		}
	}
}

// taskEnded is told by the queue of every end.
func (e *Events) taskEnded(task mayfly.Task, purged bool) {
	if id := task.Labels[LabelMapping]; id != "" {
		if !purged {
			e.noteEnd(id, &task)
		}
		e.endWaiting(taskKey(task.Space, task.ID))
	}
	eventType := platformType + "task." + string(task.State)
	if !e.wantsPlatform(task.Space, eventType) || isPlatform(typeOf(&task)) {
		return // that a task ended which was told of such an end is not told
	}
	task.Env = nil // it may have secrets
	ev := mayfly.Event{
		ID: fmt.Sprintf("%s-%s-%d", task.ID, task.State, task.Attempt), Source: "mayfly", Type: eventType, Subject: task.ID, Time: task.Ended,
	}
	if hops := hopsOf(&task); hops > 0 {
		if hops >= e.opts.MaxHops {
			return
		}
		ev.Extensions = map[string]string{mayfly.HopsAttribute: strconv.Itoa(hops + 1)}
	}
	select {
	case e.tells <- told{task.Space, ev, task}: // the queue waits for nobody
	default:
		e.log.Warn("an event of the platform is missing: there are too many", "type", ev.Type, "subject", ev.Subject)
	}
}

// told is an event of the platform that is to be accepted.
type told struct {
	space string
	event mayfly.Event
	data  any
}

// maxTold is how many wait to be accepted.
const maxTold = 4096

// runTells accepts what the queue told of.
func (e *Events) runTells(ctx context.Context) {
	for {
		select {
		case t := <-e.tells:
			e.tell(ctx, t.space, t.event, t.data)
		case <-ctx.Done():
			return
		}
	}
}

// typeOf is the type of the event that a task is the delivery of.
func typeOf(task *mayfly.Task) string {
	if task.Request == nil {
		return ""
	}
	return task.Request.Header["Ce-Type"]
}

// hopsOf is how many deliveries led to the event that a task is the delivery of,
// and 0 where it is none.
func hopsOf(task *mayfly.Task) int {
	if task.Labels[LabelMapping] == "" || task.Request == nil {
		return 0
	}
	hops, _ := strconv.Atoi(task.Request.Header["Ce-"+strings.ToUpper(mayfly.HopsAttribute[:1])+mayfly.HopsAttribute[1:]])
	return max(hops, 1)
}

// tellTime is the longest that an event of the platform is tried.
const tellTime = 10 * time.Second

// tell accepts an event of the platform.
func (e *Events) tell(ctx context.Context, space string, ev mayfly.Event, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		e.log.Error("an event of the platform is missing", "type", ev.Type, "error", err)
		return
	}
	ev.Data, ev.DataContentType = text, "application/json"
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	rec, err := encode(space, keyOf(space, &ev), time.Now().UTC(), &ev, nil)
	if err == nil && len(ev.Data) > mayfly.MaxEventData {
		err = mayfly.Errorf(mayfly.TooLarge, "it has %d bytes", len(ev.Data))
	}
	if err == nil {
		_, err = e.accept(ctx, []bus.Record{rec})
	}
	if err != nil && ctx.Err() == nil {
		e.log.Warn("an event of the platform is missing", "type", ev.Type, "subject", ev.Subject, "error", err)
	}
}
