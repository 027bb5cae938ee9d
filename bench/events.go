package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// EventsRow is how events reach functions.
type EventsRow struct {
	Runs int     `json:"runs"`
	P50  float64 `json:"p50ms"` // from when its sender knows that the event is accepted until its handler starts in a sandbox that waits
	P99  float64 `json:"p99ms"`

	SentP50 float64 `json:"sentP50ms"` // the same from before it is sent
	SentP99 float64 `json:"sentP99ms"`

	Burst    int     `json:"burst"`    // events at once
	Limit    int     `json:"limit"`    // of the function's concurrency
	Most     int     `json:"most"`     // that were seen to run at once
	Lost     int     `json:"lost"`     // events that were not handled
	Twice    int     `json:"twice"`    // and those that were handled more than once
	Accepted float64 `json:"accepted"` // per second, in batches
	Handled  float64 `json:"handled"`  // per second, from the first that was sent to the last that ended
}

// What the function of the burst is called, and its events.
const (
	eventsBurst = "noop-events"
	burstLimit  = 20
)

// events times how long a handler takes to begin after its event was sent, and
// has many events at once handled by a function that may run so often at once.
func (b *bench) events(ctx context.Context) error {
	d, err := b.upNoop(ctx, "events", "--tasks", "64") // so that the function's own limit is what limits it
	if err != nil {
		return err
	}
	defer d.down(ctx)
	row := EventsRow{Limit: burstLimit}
	accepted, sent, err := b.eventTimes(ctx, d)
	if err != nil {
		return err
	}
	row.Runs, row.P50, row.P99 = len(accepted), ms(accepted.quantile(0.5)), ms(accepted.quantile(0.99))
	row.SentP50, row.SentP99 = ms(sent.quantile(0.5)), ms(sent.quantile(0.99))
	if err := b.eventBurst(ctx, d, &row); err != nil {
		return err
	}
	b.results.Events = &row
	return nil
}

func (b *bench) eventTimes(ctx context.Context, d *daemon) (accepted, sent sample, err error) {
	if _, err := d.api.MapEvent(ctx, mayfly.EventMapping{Workload: when, Type: "bench.when"}); err != nil {
		return nil, nil, err
	}
	defer d.api.UnmapEvent(ctx, when, "")
	warm, count := pick(b, 5, 1), pick(b, 200, 3)
	for i := range warm + count {
		if err := d.settle(ctx); err != nil {
			return nil, nil, err
		}
		ev := mayfly.Event{ID: mayfly.NewID(), Source: "/bench", Type: "bench.when"}
		begun := time.Now()
		if _, err := d.api.Emit(ctx, ev); err != nil {
			return nil, nil, err
		}
		known := time.Now()
		time.Sleep(20 * time.Millisecond) // looking for its task takes the machine's time, of which it may need some
		text, err := d.deliveredResult(ctx, ev.ID)
		if err != nil {
			return nil, nil, err
		}
		at, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return nil, nil, fmt.Errorf("the program said %q", text)
		}
		if i >= warm {
			accepted = append(accepted, time.Unix(0, at).Sub(known))
			sent = append(sent, time.Unix(0, at).Sub(begun))
		}
	}
	return accepted, sent, nil
}

// deliveredResult waits for the one task that an event became, and returns what
// it wrote.
func (d *daemon) deliveredResult(ctx context.Context, id string) (string, error) {
	ev, err := d.api.GetEvent(ctx, id)
	if err != nil {
		return "", err
	}
	for {
		list, err := d.api.ListTasks(ctx, client.TaskFilter{Labels: map[string]string{"mayfly.event": ev.Key}})
		if err != nil {
			return "", err
		}
		if len(list) > 0 {
			if _, err := d.api.WaitTask(ctx, list[0].ID); err != nil {
				return "", err
			}
			text, err := d.api.TaskResult(ctx, list[0].ID)
			return string(text), err
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
	}
}

func (b *bench) eventBurst(ctx context.Context, d *daemon, row *EventsRow) error {
	w := noopFunction(eventsBurst)
	w.Concurrency = burstLimit
	if err := d.deploy(ctx, w); err != nil {
		return err
	}
	m, err := d.api.MapEvent(ctx, mayfly.EventMapping{Workload: eventsBurst, Type: "bench.burst"})
	if err != nil {
		return err
	}
	row.Burst = pick(b, 10_000, 100)
	begun := time.Now()
	for sent := 0; sent < row.Burst; {
		n := min(row.Burst-sent, client.MaxEvents)
		batch := make([]mayfly.Event, n)
		for i := range batch {
			batch[i] = mayfly.Event{ID: strconv.Itoa(sent + i), Source: "/bench", Type: "bench.burst"}
		}
		if _, err := d.api.Emit(ctx, batch...); err != nil {
			return err
		}
		sent += n
	}
	row.Accepted = round1(float64(row.Burst) / time.Since(begun).Seconds())
	ended := []mayfly.TaskState{mayfly.TaskSucceeded, mayfly.TaskFailed, mayfly.TaskTimedOut, mayfly.TaskOutOfMemory, mayfly.TaskCancelled, mayfly.TaskBuried}
	filter := client.TaskFilter{Workload: eventsBurst, Labels: map[string]string{"mayfly.mapping": m.ID}, States: ended, Limit: row.Burst + 1000}
	var tasks []mayfly.Task
	for limit := time.Now().Add(5 * time.Minute); len(tasks) < row.Burst && time.Now().Before(limit); {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if tasks, err = d.api.ListTasks(ctx, filter); err != nil {
			return err
		}
	}
	row.tally(tasks, begun)
	return nil
}

// tally counts what became of the burst.
func (r *EventsRow) tally(tasks []mayfly.Task, begun time.Time) {
	handled := map[string]int{}
	last := begun
	type edge struct {
		at   time.Time
		step int
	}
	var edges []edge
	for _, t := range tasks {
		for _, a := range t.Attempts {
			handled[t.Request.Header["Ce-Id"]]++
			edges = append(edges, edge{a.Granted, 1}, edge{a.Ended, -1})
			if a.Ended.After(last) {
				last = a.Ended
			}
		}
	}
	// Times are in microseconds: what ends in the same one ended before.
	slices.SortFunc(edges, func(x, y edge) int { return cmp.Or(x.at.Compare(y.at), cmp.Compare(x.step, y.step)) })
	now := 0
	for _, e := range edges {
		now += e.step
		r.Most = max(r.Most, now)
	}
	for i := range r.Burst {
		switch n := handled[strconv.Itoa(i)]; {
		case n == 0:
			r.Lost++
		case n > 1:
			r.Twice++
		}
	}
	r.Handled = round1(float64(len(handled)) / last.Sub(begun).Seconds())
}

// judgeEvents holds the figures about events against the goals.
func (r *Results) judgeEvents() {
	e := r.Events
	if e == nil {
		return
	}
	r.atMost("event accepted to handler started in a waiting sandbox, p50", e.P50, 5, "ms")
	r.atMost(fmt.Sprintf("%d events at once, concurrency %d: handled at once", e.Burst, e.Limit), float64(e.Most), float64(e.Limit), "handlers")
	r.atMost(fmt.Sprintf("%d events at once: lost or handled twice", e.Burst), float64(e.Lost+e.Twice), 0, "events")
}
