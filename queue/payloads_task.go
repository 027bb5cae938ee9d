package queue

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// OpenPayload opens what the granted task was submitted with. That of a large
// one is an *os.File.
func (g *Grant) OpenPayload(context.Context) (io.ReadCloser, error) {
	if !large(g.Task) {
		return io.NopCloser(bytes.NewReader(g.Payload)), nil
	}
	return g.payloads.openOf(g.Task)
}

// openOf opens the payload of a task whose payload is large.
func (s *payloads) openOf(task mayfly.Task) (io.ReadCloser, error) {
	f, err := s.open(payloadName(task))
	if mayfly.KindOf(err) == mayfly.NotFound {
		err = mayfly.Errorf(mayfly.NotFound, "the payload of task %s is gone from the data directory", task.ID)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// OpenPayload opens what a task that has not ended was submitted with, and says
// how long it is.
func (q *Queue) OpenPayload(ctx context.Context, space, id string) (io.ReadCloser, int64, error) {
	got, err := q.get(ctx, space, id)
	if err != nil {
		return nil, 0, err
	}
	if got.place == inOutcome {
		return nil, 0, mayfly.Errorf(mayfly.NotFound, "task %s has ended, and its payload is gone", id)
	}
	if large(got.task) {
		r, err := q.payloads.openOf(got.task)
		return r, int64(got.task.Size), err
	}
	if got.data == nil && got.task.Size > 0 { // it was found in memory
		if got, err = q.findPending(ctx, space, id, "*"); err != nil {
			return nil, 0, err
		}
	}
	return io.NopCloser(bytes.NewReader(got.data)), int64(len(got.data)), nil
}

// Payload is OpenPayload for one that is not large.
func (q *Queue) Payload(ctx context.Context, space, id string) ([]byte, error) {
	r, size, err := q.OpenPayload(ctx, space, id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > MaxInline {
		return nil, mayfly.Errorf(mayfly.TooLarge, "the payload of task %s has %d bytes, too many to be held", id, size)
	}
	return io.ReadAll(r)
}

// refer makes the payload that a submission refers to the task's. A small one is
// read into it, if it is there: whether it is, matters when the key is new.
func (p *publish) refer(q *Queue, sub *mayfly.Submission) error {
	ref, err := parseRef(sub.PayloadRef)
	if err != nil {
		return err
	}
	p.ref = &ref
	p.task.Size, p.task.Digest = int(ref.size), ref.digest
	if large(p.task) {
		return nil
	}
	if p.task.Key == "" {
		p.task.Digest = ""
	}
	f, err := q.payloads.open(uploadName(p.task.Space, ref.text))
	if err != nil {
		p.refErr = err
		return nil
	}
	defer f.Close()
	if sub.Payload, err = io.ReadAll(io.LimitReader(f, MaxInline)); err != nil || int64(len(sub.Payload)) != ref.size {
		p.refErr = mayfly.Errorf(mayfly.Unavailable, "read a payload: %d bytes of %d, %v", len(sub.Payload), ref.size, err)
	}
	return nil
}

// begin is the first part of an upload; nothing when it is not there.
func (p *publish) begin(q *Queue) []byte {
	f, err := q.payloads.open(uploadName(p.task.Space, p.ref.text))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxInline))
	if err != nil {
		return nil
	}
	return data
}

// claimPayloads gives uploads to the tasks of a batch, or none of them.
func (q *Queue) claimPayloads(list []*publish) error {
	claimed := 0
	for i, p := range list {
		if !p.refers() {
			continue
		}
		err := p.refErr
		if err == nil && large(p.task) {
			err = q.payloads.claim(uploadName(p.task.Space, p.ref.text), payloadName(p.task), p.ref.size)
			claimed++
		}
		if err != nil {
			for _, p := range list[:i] {
				q.unclaimPayload(p)
			}
			return Numbered(err, i, len(list))
		}
	}
	if claimed == 0 {
		return nil
	}
	return q.payloads.sync()
}

// refers reports whether a new task has an upload as its payload.
func (p *publish) refers() bool { return p.ref != nil && !p.there && p.same == nil }

// unclaimPayload takes a payload from a task that was not accepted. With a key
// it is left: it may be that of an earlier submission, which got no answer.
func (q *Queue) unclaimPayload(p *publish) {
	if p.refers() && large(p.task) && p.task.Key == "" {
		q.dropPayload(p.task)
	}
}

// settlePayloads forgets the uploads whose tasks are accepted, and takes them
// from tasks that are not. Where it is not known, they are left to the next start.
func (q *Queue) settlePayloads(list []*publish) {
	for _, p := range list {
		switch {
		case p.ref == nil:
		case p.answer.Err == nil:
			if err := q.payloads.submitted(uploadName(p.task.Space, p.ref.text), p.ref.size); err != nil {
				q.log.Warn("an upload is left for the next start", "error", err)
			}
		case mayfly.KindOf(p.answer.Err) == mayfly.Busy:
			q.unclaimPayload(p)
		}
	}
}

// DropPayload deletes an upload that is not to be submitted after all.
func (q *Queue) DropPayload(space, text string) {
	ref, err := parseRef(text)
	if err == nil && mayfly.CheckName("space", space) == nil {
		err = q.payloads.submitted(uploadName(space, ref.text), ref.size)
	}
	if err != nil {
		q.log.Warn("an upload is left for its hour", "error", err)
	}
}

// dropPayload deletes the payload of a task that has its outcome. A program that
// still reads it is not disturbed.
func (q *Queue) dropPayload(task mayfly.Task) {
	if !large(task) {
		return
	}
	if err := q.payloads.remove(payloadName(task), int64(task.Size)); err != nil {
		q.log.Warn("the payload of a task that has ended is left for the next start", "task", task.ID, "error", err)
	}
}

// runPayloads removes what was left without a task when the queue was opened,
// and then uploads that nobody submits, until ctx ends.
func (q *Queue) runPayloads(ctx context.Context) {
	s := q.payloads
	for _, name := range s.left {
		if err := q.sweepPayload(ctx, name); err != nil && ctx.Err() == nil {
			q.log.Warn("a payload is left for the next start", "file", name, "error", err)
		}
	}
	s.left = nil
	for {
		var due <-chan time.Time
		s.mu.Lock()
		old := 0
		for old < len(s.uploads) && time.Since(s.uploads[old].at) >= uploadLife {
			old++
		}
		names := slices.Clone(s.uploads[:old])
		if old < len(s.uploads) {
			due = time.After(time.Until(s.uploads[old].at.Add(uploadLife)))
		}
		s.mu.Unlock()
		for _, u := range names {
			ref, err := parseRef(u.name[strings.Index(u.name, ".")+1:])
			if err == nil {
				err = s.submitted(u.name, ref.size)
			}
			if err != nil {
				q.log.Warn("an upload is left for the next start", "error", err)
			}
		}
		select {
		case <-due:
		case <-s.came:
		case <-ctx.Done():
			return
		}
	}
}

// sweepPayload removes a task's file unless the task is there and has not ended.
func (q *Queue) sweepPayload(ctx context.Context, name string) error {
	space, queue, id, digest, ok := splitPayloadName(name)
	if !ok {
		q.log.Warn("a file among the payloads is none", "file", name)
		return nil
	}
	// Not while it is submitted again.
	keys := &q.keys[stripe(space, id)%len(q.keys)]
	keys.Lock()
	defer keys.Unlock()
	defer q.lockID(space, id)()
	got, err := q.find(ctx, space, id, queue)
	switch {
	case err == nil && got.place != inOutcome && got.task.Digest == digest:
		return nil
	case err != nil && mayfly.KindOf(err) != mayfly.NotFound:
		return err
	}
	info, err := q.payloads.root.Stat(name)
	if err != nil {
		return nil // it went meanwhile
	}
	return q.payloads.remove(name, info.Size())
}

func splitPayloadName(name string) (space, queue, id, digest string, ok bool) {
	part := strings.Split(name, ".")
	if len(part) != 3 {
		return "", "", "", "", false
	}
	id, digest, ok = strings.Cut(part[2], "-")
	return part[0], part[1], id, digest, ok && checkID(part[0], id) == nil && (part[1] == imageQueue || mayfly.CheckName("workload", part[1]) == nil)
}
