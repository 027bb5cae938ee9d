package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

const (
	runSlack  = time.Second // between two machines' clocks
	runMinRef = 8           // characters of an id that a search needs
	maxRuns   = 1000        // of one page
	readBatch = 256         // messages
)

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

// Run returns the run of a space with the id, or whose id alone begins with
// ref, which needs 8 characters. No such run is a NotFound error, and more
// than one Invalid.
func (s *Store) Run(ctx context.Context, space, ref string) (mayfly.Run, error) {
	if err := mayfly.CheckName("space", space); err != nil {
		return mayfly.Run{}, err
	}
	at, err := s.findRun(ctx, runFilter{space: space}, ref)
	if err != nil {
		return mayfly.Run{}, err
	}
	return decodeRun(at.msg, at.line)
}

// runPlace is where a run is recorded.
type runPlace struct {
	msg  bus.Message
	line int // of the message, from 0
	id   string
}

// findRun reads on from the moment when the id was made, since a run is
// recorded after it began. A whole id is found soon, a beginning of one only
// once the rest has been looked through.
func (s *Store) findRun(ctx context.Context, filter runFilter, ref string) (runPlace, error) {
	made, err := idTime(ref)
	if err != nil {
		return runPlace{}, err
	}
	s.publishRuns()
	var found runPlace
	from := filter.from(0)
	from.Time = made.Add(-runSlack)
	for more := true; more; {
		var msgs []bus.Message
		if msgs, more, err = s.bus.Read(ctx, bus.RunsStream, from); err != nil {
			return runPlace{}, unavailable("read the call history", err)
		}
		for _, msg := range msgs {
			from = filter.from(msg.Sequence + 1)
			if !filter.matches(msg) {
				continue
			}
			for line, id := range runIDs(msg) {
				switch {
				case id == ref:
					return runPlace{msg, line, id}, nil
				case !strings.HasPrefix(id, ref):
				case found.id != "" && found.id != id:
					return runPlace{}, mayfly.Errorf(mayfly.Invalid, "several runs begin with %q", ref).
						WithHint("give more of the id")
				default:
					found = runPlace{msg, line, id}
				}
			}
		}
	}
	if found.id == "" {
		return runPlace{}, mayfly.Errorf(mayfly.NotFound, "no run %q", ref).
			WithHint("it may be too old; `mayfly runs` lists those that are kept")
	}
	return found, nil
}

// runIDs are the ids of a message's runs, in their order.
func runIDs(msg bus.Message) []string { return strings.Split(msg.Header.Get(runHeader), ",") }

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
// recorded before the run with the id before, when that is set. Those of several
// workloads that ended within 10 ms may be in another order.
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
	return s.lastRuns(ctx, runFilter{space, workload}, min(limit, maxRuns), before)
}

// lastRuns returns the newest runs that filter selects, newest first.
// Streams are read forwards only, so it looks at windows of sequences from the
// end on, each larger than the one before, until it has enough.
func (s *Store) lastRuns(ctx context.Context, filter runFilter, limit int, before string) ([]mayfly.Run, error) {
	s.publishRuns()
	list := make([]mayfly.Run, 0, limit)
	var end uint64 // exclusive
	if before != "" {
		at, err := s.findRun(ctx, filter, before)
		if err != nil {
			return nil, err
		}
		if list, err = appendRuns(list, limit, at.msg, at.line); err != nil {
			return nil, err
		}
		end = at.msg.Sequence
	} else {
		msg, err := s.bus.Last(ctx, bus.RunsStream, filter.subject())
		if errors.Is(err, bus.ErrNoMessage) {
			return list, nil
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
	for window := uint64(2 * limit); len(list) < limit && end > first; window *= 4 {
		start := max(first, end-min(end, window))
		part, err := s.runsBetween(ctx, filter, start, end, limit-len(list))
		if err != nil {
			return nil, err
		}
		for _, msg := range slices.Backward(part) {
			if list, err = appendRuns(list, limit, msg, len(runIDs(msg))); err != nil {
				return nil, err
			}
		}
		end = start
	}
	return list, nil
}

// appendRuns appends the last of a message's runs before a line, newest first,
// until list has as many as limit.
func appendRuns(list []mayfly.Run, limit int, msg bus.Message, line int) ([]mayfly.Run, error) {
	for line--; line >= 0 && len(list) < limit; line-- {
		run, err := decodeRun(msg, line)
		if err != nil {
			return nil, err
		}
		list = append(list, run)
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

// runsBetween returns the last messages that filter selects from start on and
// before end, oldest first: limit of them, which have at least as many runs.
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

// decodeRun returns the run of a message's line.
func decodeRun(msg bus.Message, line int) (mayfly.Run, error) {
	data := msg.Data
	for range line {
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	data, _, _ = bytes.Cut(data, []byte("\n"))
	var run mayfly.Run
	if err := json.Unmarshal(data, &run); err != nil {
		return run, mayfly.Errorf(mayfly.Internal, "read the call history at %d: %w", msg.Sequence, err)
	}
	return run, nil
}
