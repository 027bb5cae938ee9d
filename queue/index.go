package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// queueRecord is the index's entry of a workload whose queue was paused once.
type queueRecord struct {
	Paused bool `json:"paused,omitempty"`
}

type minuteKey struct{ space, minute string }

// readIndex learns which queues are paused and which minutes may have tasks.
func (q *Queue) readIndex(ctx context.Context) error {
	from := bus.From{Subject: ">", Limit: 1000}
	for more := true; more; {
		msgs, next, err := q.bus.Read(ctx, bus.QueuesStream, from)
		if err != nil {
			return unavailable("read which queues there are", err)
		}
		for _, msg := range msgs {
			q.takeIndex(msg)
			from.Sequence = msg.Sequence + 1
		}
		more = next
	}
	return nil
}

func (q *Queue) takeIndex(msg bus.Message) {
	token := strings.Split(msg.Subject, ".")
	if len(token) != 4 {
		return
	}
	if token[2] == "minute" {
		q.addMinute(minuteKey{token[1], token[3]})
		return
	}
	var rec queueRecord
	if err := json.Unmarshal(msg.Data, &rec); err != nil {
		q.log.Error("an entry of the index is passed over", "subject", msg.Subject, "error", err)
		return
	}
	if rec.Paused {
		q.flow(flowKey{token[1], token[3]}).paused = true
	}
}

// setPaused changes a workload's entry of the index.
func (q *Queue) setPaused(ctx context.Context, space, workload string, paused bool) error {
	if err := checkQueue(space, workload); err != nil {
		return err
	}
	key := flowKey{space, queueName(workload)}
	q.indexMu.Lock()
	defer q.indexMu.Unlock()
	q.mu.Lock()
	f := q.flow(key)
	same := f.paused == paused
	q.mu.Unlock()
	if same {
		return nil
	}
	data, err := json.Marshal(queueRecord{paused})
	if err != nil {
		return fmt.Errorf("encode queue: %w", err)
	}
	if _, err := q.js.PublishMsg(ctx, &nats.Msg{Subject: bus.QueueSubject(key.space, key.queue), Data: data}); err != nil {
		return writeError(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	f.paused = paused
	q.update(f)
	for _, l := range f.lanes {
		if l != nil {
			q.wantRead(l)
		}
	}
	q.match()
	return nil
}

// ensureMinute makes sure that the minute is looked at when it comes.
func (q *Queue) ensureMinute(ctx context.Context, key minuteKey) error {
	q.mu.Lock()
	there := q.minutes[key]
	q.mu.Unlock()
	if there {
		return nil
	}
	q.indexMu.Lock()
	defer q.indexMu.Unlock()
	if _, err := q.js.Publish(ctx, bus.MinuteSubject(key.space, key.minute), nil); err != nil {
		return writeError(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addMinute(key)
	return nil
}

// Pause stops granting tasks of a workload, across restarts, until Resume. What
// runs goes on, and new tasks are accepted.
func (q *Queue) Pause(ctx context.Context, space, workload string) error {
	return q.setPaused(ctx, space, workload, true)
}

// Resume undoes Pause.
func (q *Queue) Resume(ctx context.Context, space, workload string) error {
	return q.setPaused(ctx, space, workload, false)
}

// Paused reports whether a workload's queue is paused.
func (q *Queue) Paused(space, workload string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.flows[flowKey{space, queueName(workload)}]
	return f != nil && f.paused
}

func queueName(workload string) string { return queueOf(mayfly.Task{Workload: workload}) }

// checkQueue allows no workload, which is the queue of images.
func checkQueue(space, workload string) error {
	if err := mayfly.CheckName("space", space); err != nil || workload == "" {
		return err
	}
	return mayfly.CheckName("workload", workload)
}
