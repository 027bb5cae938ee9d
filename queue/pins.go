package queue

import (
	"context"

	"github.com/mayfly-run/mayfly/bus"
)

// Pins returns those of a workload's releases that its tasks still need: tasks
// that wait or run, and buried ones. Whoever deletes old releases keeps these.
// When more tasks are there than are looked at, all that was asked about is
// needed; what ended a moment ago may still count.
func (q *Queue) Pins(ctx context.Context, space, workload string, releases []int) ([]int, error) {
	if err := checkQueue(space, workload); err != nil {
		return nil, err
	}
	wanted, budget := map[int]bool{}, scanMax
	for _, p := range listOrder {
		if p == inOutcome {
			continue
		}
		from := bus.From{Limit: readBatch}
		var stream string
		stream, from.Subject = whereIs(p, space, queueName(workload))
		for more := true; more; {
			msgs, next, err := q.bus.Read(ctx, stream, from)
			if err != nil {
				return nil, unavailable("look which releases are needed", err)
			}
			for _, msg := range msgs {
				if task, err := decode(msg); err == nil {
					wanted[task.Release] = true
				}
				from.Sequence = msg.Sequence + 1
			}
			if budget -= len(msgs); budget <= 0 {
				return releases, nil
			}
			more = next && len(msgs) > 0
		}
	}
	var pinned []int
	for _, number := range releases {
		if wanted[number] {
			pinned = append(pinned, number)
		}
	}
	return pinned, nil
}
