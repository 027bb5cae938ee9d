package store

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

const (
	runHeader = "Mayfly-Run"          // id, so that a search decodes nothing
	runStall  = 20 * time.Millisecond // longest that RecordRun holds up its caller
	runSlack  = time.Second           // between two machines' clocks
	runMinRef = 8                     // characters of an id that a search needs
	maxRuns   = 1000                  // of one page
	readBatch = 256                   // messages
)

// RecordRun adds a run that has ended to the call history, in the background:
// the caller is held up for at most 20 ms, and a run that cannot be recorded is
// logged. Flush waits until everything recorded can be read.
func (s *Store) RecordRun(run mayfly.Run) {
	if err := s.recordRun(run); err != nil {
		s.log.Error("a run is missing in the call history", "run", run.ID, "error", err)
	}
}

func (s *Store) recordRun(run mayfly.Run) error {
	if err := errors.Join(checkNames(run.Space, "workload", run.Workload), checkID("run", run.ID)); err != nil {
		return err
	}
	data, err := json.Marshal(run)
	if err != nil {
		return err
	}
	_, err = s.bus.JetStream().PublishMsgAsync(&nats.Msg{
		Subject: bus.RunSubject(run.Space, run.Workload),
		Header:  nats.Header{runHeader: {run.ID}},
		Data:    data,
	}, jetstream.WithStallWait(runStall))
	return err
}

// runFilter selects the runs of a workload, or of a space. A subject without
// wildcards is selected by the server. With one, the server would search all
// subjects for each message, so everything is read and selected here.
type runFilter struct{ space, workload string }

// subject matches what is wanted, and nothing else.
func (f runFilter) subject() string {
	if f.workload == "" {
		return bus.RunSubject(f.space, "*")
	}
	return bus.RunSubject(f.space, f.workload)
}

// from is where the server shall begin to read.
func (f runFilter) from(seq uint64) bus.From {
	from := bus.From{Subject: ">", Sequence: seq, Limit: readBatch}
	if f.workload != "" {
		from.Subject = f.subject()
	}
	return from
}

func (f runFilter) matches(msg bus.Message) bool {
	return f.workload != "" || strings.HasPrefix(msg.Subject, bus.RunSubject(f.space, ""))
}

// Flush waits until every run recorded so far can be read.
func (s *Store) Flush(ctx context.Context) error {
	select {
	case <-s.bus.JetStream().PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run returns the run of a space with the id, or whose id alone begins with
// ref, which needs 8 characters. No such run is a NotFound error, and more
// than one Invalid.
func (s *Store) Run(ctx context.Context, space, ref string) (mayfly.Run, error) {
	if err := mayfly.CheckName("space", space); err != nil {
		return mayfly.Run{}, err
	}
	msg, err := s.findRun(ctx, runFilter{space: space}, ref)
	if err != nil {
		return mayfly.Run{}, err
	}
	return decodeRun(msg)
}

// findRun reads on from the moment when the id was made, since a run is
// recorded after it began. A whole id is found soon, a beginning of one only
// once the rest has been looked through.
func (s *Store) findRun(ctx context.Context, filter runFilter, ref string) (bus.Message, error) {
	made, err := idTime(ref)
	if err != nil {
		return bus.Message{}, err
	}
	var found *bus.Message
	from := filter.from(0)
	from.Time = made.Add(-runSlack)
	for more := true; more; {
		var msgs []bus.Message
		if msgs, more, err = s.bus.Read(ctx, bus.RunsStream, from); err != nil {
			return bus.Message{}, unavailable("read the call history", err)
		}
		for i, msg := range msgs {
			id := msg.Header.Get(runHeader)
			from = filter.from(msg.Sequence + 1)
			switch {
			case !filter.matches(msg):
			case id == ref:
				return msg, nil
			case !strings.HasPrefix(id, ref):
			case found != nil && found.Header.Get(runHeader) != id:
				return bus.Message{}, mayfly.Errorf(mayfly.Invalid, "several runs begin with %q", ref).
					WithHint("give more of the id")
			default:
				found = &msgs[i]
			}
		}
	}
	if found == nil {
		return bus.Message{}, mayfly.Errorf(mayfly.NotFound, "no run %q", ref).
			WithHint("it may be too old; `mayfly runs` lists those that are kept")
	}
	return *found, nil
}

// idTime returns the earliest moment at which an id that begins with ref can
// have been made.
func idTime(ref string) (time.Time, error) {
	if len(ref) < runMinRef {
		return time.Time{}, mayfly.Errorf(mayfly.Invalid, "%q is too short for the id of a run", ref).
			WithHint("give at least %d characters", runMinRef)
	}
	made, ok := mayfly.IDTime(ref)
	if !ok {
		return time.Time{}, mayfly.Errorf(mayfly.Invalid, "%q is not the id of a run", ref)
	}
	return made, nil
}

// Runs returns runs of a space, newest first: of one workload, or of all when
// workload is empty; limit at most (20 if zero, 1000 at most); only those
// recorded before the run with the id before, when that is set.
func (s *Store) Runs(ctx context.Context, space, workload string, limit int, before string) ([]mayfly.Run, error) {
	if workload != "" {
		if err := mayfly.CheckName("workload", workload); err != nil {
			return nil, err
		}
	}
	if err := mayfly.CheckName("space", space); err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = 20
	}
	msgs, err := s.lastRuns(ctx, runFilter{space, workload}, min(limit, maxRuns), before)
	if err != nil {
		return nil, err
	}
	runs := make([]mayfly.Run, 0, len(msgs))
	for _, msg := range msgs {
		run, err := decodeRun(msg)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// lastRuns returns the newest messages that filter selects, newest first.
// Streams are read forwards only, so it looks at windows of sequences from the
// end on, each larger than the one before, until it has enough.
func (s *Store) lastRuns(ctx context.Context, filter runFilter, limit int, before string) ([]bus.Message, error) {
	var end uint64 // exclusive
	if before != "" {
		msg, err := s.findRun(ctx, filter, before)
		if err != nil {
			return nil, err
		}
		end = msg.Sequence
	} else {
		msg, err := s.bus.Last(ctx, bus.RunsStream, filter.subject())
		if errors.Is(err, bus.ErrNoMessage) {
			return nil, nil
		}
		if err != nil {
			return nil, unavailable("read the call history", err)
		}
		end = msg.Sequence + 1
	}
	first, err := s.firstRun(ctx, filter)
	if err != nil {
		return nil, err
	}
	var list []bus.Message
	for window := uint64(2 * limit); len(list) < limit && end > first; window *= 4 {
		start := max(first, end-min(end, window))
		part, err := s.runsBetween(ctx, filter, start, end, limit-len(list))
		if err != nil {
			return nil, err
		}
		for i := range part {
			list = append(list, part[len(part)-1-i])
		}
		end = start
	}
	return list, nil
}

// firstRun returns a sequence before which there is nothing to select, the
// largest number when there is nothing at all.
func (s *Store) firstRun(ctx context.Context, filter runFilter) (uint64, error) {
	from := filter.from(0)
	from.Limit = 2
	msgs, _, err := s.bus.Read(ctx, bus.RunsStream, from)
	if err != nil {
		return 0, unavailable("read the call history", err)
	}
	if len(msgs) == 0 {
		return ^uint64(0), nil
	}
	return msgs[0].Sequence, nil
}

// runsBetween returns the last limit messages that filter selects from start on
// and before end, oldest first.
func (s *Store) runsBetween(ctx context.Context, filter runFilter, start, end uint64, limit int) ([]bus.Message, error) {
	var list []bus.Message
	for more := true; more && start < end; {
		var msgs []bus.Message
		var err error
		from := filter.from(start)
		from.Limit = int(min(readBatch, end-start))
		msgs, more, err = s.bus.Read(ctx, bus.RunsStream, from)
		if err != nil {
			return nil, unavailable("read the call history", err)
		}
		for _, msg := range msgs {
			if start = msg.Sequence + 1; msg.Sequence >= end {
				break
			}
			if filter.matches(msg) {
				list = append(list, msg)
			}
		}
		if over := len(list) - limit; over > 0 {
			list = append([]bus.Message(nil), list[over:]...)
		}
	}
	return list, nil
}

func decodeRun(msg bus.Message) (mayfly.Run, error) {
	var run mayfly.Run
	if err := json.Unmarshal(msg.Data, &run); err != nil {
		return run, mayfly.Errorf(mayfly.Internal, "read the call history at %d: %w", msg.Sequence, err)
	}
	return run, nil
}
