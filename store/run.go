package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

const (
	runHeader    = "Mayfly-Run"          // ids with commas between, so that a search decodes nothing
	runStall     = 20 * time.Millisecond // that a message waits for its turn
	runsLater    = 10 * time.Millisecond // that a run waits for others of its workload
	runsTogether = 16                    // runs of one message
	maxRunsWait  = 1024                  // messages that wait to be published
)

// runsWaiting are runs that are to be published. Those of a workload share messages,
// for a message costs about as much as all the rest of a call that is answered at
// once.
type runsWaiting struct {
	publishing sync.Mutex // so that they come in their order

	mu    sync.Mutex
	list  []*runBatch
	open  map[runsOf]*runBatch // of list: those with room
	armed bool                 // somebody will publish them
}

// runBatch is a message: runs of one workload.
type runBatch struct{ runs []mayfly.Run }

type runsOf struct{ space, workload string }

// RecordRun adds a run that has ended to the call history, in the background. A run
// that cannot be recorded is logged. Readers of this store have it at once.
func (s *Store) RecordRun(run mayfly.Run) {
	if !s.runs.add(run, s.publishRuns) {
		s.log.Error("a run is missing in the call history, for too many others wait", "run", run.ID)
	}
}

// add has publish called a little later. It reports whether there was room.
func (r *runsWaiting) add(run mayfly.Run, publish func()) bool {
	of := runsOf{run.Space, run.Workload}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.open[of]
	if b == nil {
		if len(r.list) == maxRunsWait {
			return false
		}
		b = &runBatch{runs: make([]mayfly.Run, 0, runsTogether)}
		r.list = append(r.list, b)
		r.open[of] = b
	}
	if b.runs = append(b.runs, run); len(b.runs) == runsTogether {
		delete(r.open, of)
	}
	if !r.armed {
		r.armed = true
		time.AfterFunc(runsLater, publish)
	}
	return true
}

func (r *runsWaiting) take() []*runBatch {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list, r.armed = nil, false
	clear(r.open)
	return list
}

// publishRuns publishes what waits.
func (s *Store) publishRuns() {
	s.runs.publishing.Lock()
	defer s.runs.publishing.Unlock()
	for _, b := range s.runs.take() {
		msg, err := b.message()
		if err == nil {
			_, err = s.bus.JetStream().PublishMsgAsync(msg, jetstream.WithStallWait(runStall))
		}
		if err != nil {
			s.log.Error("runs are missing in the call history", "first", b.runs[0].ID, "runs", len(b.runs), "error", err)
		}
	}
}

// message has as many lines of JSON as there are runs.
func (b *runBatch) message() (*nats.Msg, error) {
	space, workload := b.runs[0].Space, b.runs[0].Workload
	if err := checkNames(space, "workload", workload); err != nil {
		return nil, err
	}
	ids := make([]string, len(b.runs))
	var data bytes.Buffer
	lines := json.NewEncoder(&data)
	for i := range b.runs {
		ids[i] = b.runs[i].ID
		if err := errors.Join(checkID("run", ids[i]), lines.Encode(&b.runs[i])); err != nil {
			return nil, err
		}
	}
	return &nats.Msg{
		Subject: bus.RunSubject(space, workload),
		Header:  nats.Header{runHeader: {strings.Join(ids, ",")}},
		Data:    data.Bytes(),
	}, nil
}

// Flush waits until all runs and news recorded so far are in their streams.
func (s *Store) Flush(ctx context.Context) error {
	s.publishWaiting()
	s.publishRuns()
	select {
	case <-s.bus.JetStream().PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
