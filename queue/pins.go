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
		stream, subject := whereIs(p, space, queueName(workload))
		err := q.bus.Scan(ctx, stream, subject, 0, func(msgs []bus.Message) bool {
			for _, msg := range msgs {
				if task, err := decode(msg); err == nil {
					wanted[task.Release] = true
				}
			}
			budget -= len(msgs)
			return budget > 0
		})
		if err != nil {
			return nil, unavailable("look which releases are needed", err)
		}
		if budget <= 0 {
			return releases, nil
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
