package queue

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/schedule"
)

// definition is a schedule as it is kept.
type definition struct {
	mayfly.Schedule
	Since  time.Time `json:"since"`  // ticks up to here are none of it: when it was added or resumed
	Change string    `json:"change"` // id of the last change in what says when: ticks of another do not count
}

// ticks is how far a schedule has come, as it is kept: written after a tick's
// task was accepted, on the condition that nobody else has written.
type ticks struct {
	schedule.State
	Change   string      `json:"change"`          // of the definition
	Tasks    []string    `json:"tasks,omitempty"` // ids of those that had not ended, the oldest first
	LastTask string      `json:"lastTask,omitempty"`
	Waiting  []time.Time `json:"waiting,omitempty"` // nominal times of the ticks that wait for Tasks to end
	Error    string      `json:"error,omitempty"`
	Failed   time.Time   `json:"failed,omitzero"`
}

const maxScheduleError = 512 // bytes

// under is how far a schedule has come by a definition that may have changed.
func (t ticks) under(def definition) ticks {
	if t.Change != def.Change {
		// Its tasks may still run, and overlap with those to come.
		t = ticks{Change: def.Change, Tasks: t.Tasks}
	}
	if def.Since.After(t.Since) {
		t.Since = def.Since
	}
	return t
}

// same reports whether there is nothing to write.
func (d definition) same(old definition) bool {
	a, err1 := json.Marshal(d)
	b, err2 := json.Marshal(old)
	return err1 == nil && err2 == nil && bytes.Equal(a, b)
}

func decodeDefinition(msg bus.Message) (definition, error) {
	var def definition
	if err := json.Unmarshal(msg.Data, &def); err != nil {
		return def, fmt.Errorf("read %s: %w", msg.Subject, err)
	}
	if bus.ScheduleSubject(def.Space, def.Name) != msg.Subject || def.Since.IsZero() {
		return def, fmt.Errorf("read %s: it holds the schedule %.80q", msg.Subject, def.Name)
	}
	return def, nil
}

func decodeTicks(msg bus.Message) (ticks, error) {
	state, err := schedule.ParseState(msg.Data)
	if err != nil {
		return ticks{}, fmt.Errorf("read %s: %w", msg.Subject, err)
	}
	var t ticks
	if err := json.Unmarshal(msg.Data, &t); err != nil {
		return t, fmt.Errorf("read %s: %w", msg.Subject, err)
	}
	t.State = state
	for _, id := range t.Tasks {
		if !idPattern.MatchString(id) {
			return t, fmt.Errorf("read %s: %.40q is no id", msg.Subject, id)
		}
	}
	return t, nil
}

// read returns a schedule's definition, as it is kept now. Where there is none,
// the message can be that which says so.
func (s *Schedules) read(ctx context.Context, name schedule.Name) (def definition, msg bus.Message, err error) {
	msg, err = s.bus.Last(ctx, bus.SchedulesStream, bus.ScheduleSubject(name.Space, name.Name))
	if errors.Is(err, bus.ErrNoMessage) || err == nil && removed(msg) {
		return def, msg, noSchedule(name.Name)
	}
	if err != nil {
		return def, msg, unavailable("read schedule "+name.Name, err)
	}
	def, err = decodeDefinition(msg)
	return def, msg, err
}

// removed reports whether a message says that a schedule was removed. It is kept:
// were the last definition itself removed, a crash could bring back the one that
// it had replaced.
func removed(msg bus.Message) bool { return len(msg.Data) == 0 }

// refresh brings a schedule in memory up to what is kept, which another process
// may have changed, and reports whether it was. One that is not kept has no
// definition from then on. The caller holds its mutex.
func (s *Schedules) refresh(ctx context.Context, e *scheduled) (def definition, changed bool, err error) {
	def, msg, err := s.read(ctx, e.name)
	if mayfly.KindOf(err) == mayfly.NotFound {
		e.seq, e.removal = 0, msg.Sequence
	}
	if err != nil {
		return def, true, err
	}
	if changed = msg.Sequence != e.seq; changed {
		if _, err := s.take(e, msg); err != nil {
			return def, true, err
		}
	}
	state, err := s.bus.Last(ctx, bus.SchedulesStream, bus.TicksSubject(e.name.Space, e.name.Name))
	if err != nil && !errors.Is(err, bus.ErrNoMessage) {
		return def, changed, unavailable("read schedule "+e.name.Name, err)
	}
	if state.Sequence != e.ticksSeq {
		s.takeTicks(e, state)
		changed = true
	}
	return def, changed, nil
}

// writeDefinition stores a definition in place of the last one, or of the message
// that says that it was removed.
func (s *Schedules) writeDefinition(ctx context.Context, e *scheduled, def definition) (bus.Message, error) {
	return s.store(ctx, bus.ScheduleSubject(def.Space, def.Name), def, cmp.Or(e.seq, e.removal))
}

// writeTicks stores how far a schedule has come. bus.ErrExists means that another
// process has done so. The caller holds its mutex.
func (s *Schedules) writeTicks(ctx context.Context, e *scheduled, t ticks) error {
	msg, err := s.store(ctx, bus.TicksSubject(e.name.Space, e.name.Name), t, e.ticksSeq)
	if err == nil {
		e.ticks, e.ticksSeq = t, msg.Sequence
	}
	return err
}

func (s *Schedules) store(ctx context.Context, subject string, value any, seq uint64) (bus.Message, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return bus.Message{}, fmt.Errorf("encode %s: %w", subject, err)
	}
	msg := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	expect(msg, seq)
	ack, err := s.js.PublishMsg(ctx, msg)
	if err != nil {
		if err = writeError(err); errors.Is(err, bus.ErrFull) {
			err = mayfly.Errorf(mayfly.Busy, "there is no room for more schedules").WithHint("remove some, or shorten their payloads")
		}
		return bus.Message{}, err
	}
	return bus.Message{Subject: subject, Sequence: ack.Sequence, Data: data}, nil
}

// erase removes a schedule: the definition first, without which the rest is
// nothing.
func (s *Schedules) erase(ctx context.Context, name schedule.Name) error {
	stream, err := s.js.Stream(ctx, bus.SchedulesStream)
	if err == nil {
		_, err = s.js.PublishMsg(ctx, &nats.Msg{Subject: bus.ScheduleSubject(name.Space, name.Name)})
	}
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(bus.TicksSubject(name.Space, name.Name)))
	}
	if err != nil {
		return unavailable("remove schedule "+name.Name, err)
	}
	return nil
}

func noSchedule(name string) error {
	return mayfly.Errorf(mayfly.NotFound, "there is no schedule %q", name).
		WithHint("`mayfly schedule ls` lists those there are")
}
