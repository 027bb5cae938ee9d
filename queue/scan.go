package queue

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// scanFirst is how many sequences Open looks at; the rest follow while tasks are
// granted.
const scanFirst = 10_000

// arrival is a task that was written while what is older was still looked at,
// and in whose lane something older may be.
type arrival struct {
	lane *lane
	seq  uint64
}

// scan learns, in one pass, which lanes have tasks from before Open and where
// they are. Lanes are read on as soon as something of theirs was found; what
// arrives meanwhile comes after the pass, so that the order is kept.
func (q *Queue) scan(ctx context.Context) {
	for {
		err := q.scanTo(ctx, q.opened)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			q.log.Error("the queue cannot be read; it is tried again", "error", err)
		}
		select {
		case <-time.After(retryRead):
		case <-ctx.Done():
			return
		}
	}
}

// scanTo goes on with the pass, at least to the sequence end.
func (q *Queue) scanTo(ctx context.Context, end uint64) error {
	if q.scanned < end {
		more := false
		err := q.bus.Walk(ctx, bus.TasksStream, q.scanned+1, func(list []bus.Position) bool {
			q.takeScan(list)
			more = q.scanned >= end
			return !more
		})
		if err != nil {
			return unavailable("look which tasks wait", err)
		}
		if more && q.scanned < q.opened {
			return nil
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scanning = false
	for _, a := range q.arrivals {
		q.leave(a.lane, a.seq)
	}
	q.arrivals, q.toAsk = nil, nil
	return nil
}

// takeScan notes what was found.
func (q *Queue) takeScan(list []bus.Position) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range list {
		if p.Sequence > q.opened {
			break
		}
		token := strings.Split(p.Subject, ".")
		if _, seen := q.known[p.Sequence]; seen || len(token) != 6 {
			continue
		}
		priority, err := strconv.Atoi(token[4])
		if err != nil || priority < 0 || priority > mayfly.MaxPriority {
			q.log.Error("a task that cannot be read is passed over", "sequence", p.Sequence, "subject", p.Subject)
			continue
		}
		l := q.flow(flowKey{token[1], token[3]}).lane(priority)
		l.unread.insert(p.Sequence)
		q.update(l.flow)
		q.wantRead(l)
	}
	q.scanned = list[len(list)-1].Sequence
}

// arrive lets a task wait for the end of the scan, or for the news that its lane
// is new.
func (q *Queue) arrive(l *lane, seq uint64) {
	q.arrivals = append(q.arrivals, arrival{l, seq})
	if !l.asked {
		l.asked = true
		q.toAsk = append(q.toAsk, l)
		q.readCond.Signal()
	}
}

// askLane asks the stream whether anything in a lane is from before Open. It is
// called with the mutex, which it gives up meanwhile.
func (q *Queue) askLane(ctx context.Context) {
	l := q.toAsk[0]
	q.toAsk = q.toAsk[1:]
	subject := bus.PendingSubject(l.flow.key.space, l.flow.key.queue, strconv.Itoa(l.priority), "*")
	q.mu.Unlock()
	first, err := q.bus.Next(ctx, bus.TasksStream, subject, 1)
	q.mu.Lock()
	if !q.scanning || err == nil && first.Sequence <= q.opened || err != nil && !errors.Is(err, bus.ErrNoMessage) {
		return // the scan will tell
	}
	l.alone = true
	q.arrivals = slices.DeleteFunc(q.arrivals, func(a arrival) bool {
		if a.lane == l {
			l.unread.insert(a.seq)
		}
		return a.lane == l
	})
	q.update(l.flow)
	q.wantRead(l)
}
