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
	runHeader   = "Mayfly-Run"          // id, so that a search decodes nothing
	runStall    = 20 * time.Millisecond // longest that RecordRun holds up its caller
	runSlack    = 5 * time.Second       // between two machines' clocks
	runMinRef   = 8                     // characters of an id that a search needs
	readBatch   = 1000                  // messages
	firstWindow = 2 * readBatch         // sequences looked at first when reading backwards
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
	msg, err := s.findRun(ctx, bus.RunSubject(space, "*"), ref)
	if err != nil {
		return mayfly.Run{}, err
	}
	return decodeRun(msg)
}

// findRun reads on from the moment when the id was made, since a run is
// recorded after it began. A whole id is found soon, a beginning of one only
// once the rest has been looked through.
func (s *Store) findRun(ctx context.Context, subject, ref string) (bus.Message, error) {
	made, err := idTime(ref)
	if err != nil {
		return bus.Message{}, err
	}
	var found *bus.Message
	from := bus.From{Subject: subject, Time: made.Add(-runSlack), Limit: readBatch}
	for more := true; more; {
		var msgs []bus.Message
		if msgs, more, err = s.bus.Read(ctx, bus.RunsStream, from); err != nil {
			return bus.Message{}, unavailable("read the call history", err)
		}
		for i, msg := range msgs {
			id := msg.Header.Get(runHeader)
			from = bus.From{Subject: subject, Sequence: msg.Sequence + 1, Limit: readBatch}
			switch {
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
// have been made: mayfly.NewID puts 48 bits of milliseconds first.
func idTime(ref string) (time.Time, error) {
	const alphabet, timeChars = "0123456789abcdefghjkmnpqrstvwxyz", 10
	if len(ref) < runMinRef {
		return time.Time{}, mayfly.Errorf(mayfly.Invalid, "%q is too short for the id of a run", ref).
			WithHint("give at least %d characters", runMinRef)
	}
	var bits int64
	for i := range timeChars {
		digit := 0
		if i < len(ref) {
			digit = strings.IndexByte(alphabet, ref[i])
		}
		if digit < 0 {
			return time.Time{}, mayfly.Errorf(mayfly.Invalid, "%q is not the id of a run", ref)
		}
		bits = bits<<5 | int64(digit)
	}
	return time.UnixMilli(bits >> 2), nil
}

// Runs returns runs of a space, newest first: of one workload, or of all when
// workload is empty; limit at most (20 if zero, 1000 at most); only those
// recorded before the run with the id before, when that is set.
func (s *Store) Runs(ctx context.Context, space, workload string, limit int, before string) ([]mayfly.Run, error) {
	if workload == "" {
		workload = "*"
	} else if err := mayfly.CheckName("workload", workload); err != nil {
		return nil, err
	}
	if err := mayfly.CheckName("space", space); err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = 20
	}
	msgs, err := s.lastRuns(ctx, bus.RunSubject(space, workload), min(limit, readBatch), before)
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

// lastRuns returns the newest messages on subject, newest first. Streams are
// read forwards only, so it looks at windows of sequences from the end on, each
// larger than the one before, until it has enough.
func (s *Store) lastRuns(ctx context.Context, subject string, limit int, before string) ([]bus.Message, error) {
	var end uint64 // exclusive
	if before != "" {
		msg, err := s.findRun(ctx, subject, before)
		if err != nil {
			return nil, err
		}
		end = msg.Sequence
	} else {
		msg, err := s.bus.Last(ctx, bus.RunsStream, subject)
		if errors.Is(err, bus.ErrNoMessage) {
			return nil, nil
		}
		if err != nil {
			return nil, unavailable("read the call history", err)
		}
		end = msg.Sequence + 1
	}
	first, err := s.firstRun(ctx, subject)
	if err != nil {
		return nil, err
	}
	var list []bus.Message
	for window := uint64(firstWindow); len(list) < limit && end > first; window *= 4 {
		start := max(first, end-min(end, window))
		part, err := s.runsBetween(ctx, subject, start, end, limit-len(list))
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

// firstRun returns the sequence of the oldest message on subject, or the
// largest number when there is none.
func (s *Store) firstRun(ctx context.Context, subject string) (uint64, error) {
	msgs, _, err := s.bus.Read(ctx, bus.RunsStream, bus.From{Subject: subject, Limit: 2})
	if err != nil {
		return 0, unavailable("read the call history", err)
	}
	if len(msgs) == 0 {
		return ^uint64(0), nil
	}
	return msgs[0].Sequence, nil
}

// runsBetween returns the last limit messages on subject from start on and
// before end, oldest first.
func (s *Store) runsBetween(ctx context.Context, subject string, start, end uint64, limit int) ([]bus.Message, error) {
	var list []bus.Message
	for more := true; more && start < end; {
		var msgs []bus.Message
		var err error
		msgs, more, err = s.bus.Read(ctx, bus.RunsStream, bus.From{Subject: subject, Sequence: start, Limit: readBatch})
		if err != nil {
			return nil, unavailable("read the call history", err)
		}
		for _, msg := range msgs {
			if start = msg.Sequence + 1; msg.Sequence >= end {
				break
			}
			list = append(list, msg)
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
