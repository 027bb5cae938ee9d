package queue

import (
	"context"
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
		err := q.each(ctx, p, space, queueName(workload), 0, budget, func(list []kept) bool {
			for _, k := range list {
				if k.err == nil {
					wanted[k.task.Release] = true
				}
			}
			budget -= len(list)
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
