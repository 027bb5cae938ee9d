package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// PutRelease records the next release of a workload, with the digest of the
// image that it resolved to. The release is not active until SetWorkload says
// so, and never changes. Numbers go up and are never used twice, not even
// after the workload was deleted.
func (s *Store) PutRelease(ctx context.Context, w mayfly.Workload, digest string) (mayfly.Release, error) {
	if err := checkNames(w.Space, "workload", w.Name); err != nil {
		return mayfly.Release{}, err
	}
	last, _, err := s.lastRelease(ctx, w.Space, w.Name)
	if err != nil {
		return mayfly.Release{}, err
	}
	rel := mayfly.Release{Workload: w, Number: last, Image: digest, Created: time.Now().UTC()}
	for {
		rel.Number++
		_, err := s.publish(ctx, bus.ReleaseSubject(bus.ReleaseKey(w.Space, w.Name, rel.Number)), rel, condition{})
		if err == nil {
			return rel, nil
		}
		if !errors.Is(err, errLost) {
			return mayfly.Release{}, err
		}
	}
}

// lastRelease returns the highest number that was ever used, and the revision
// of the newest release that still exists, 0 if none does. Deleting takes the
// releases away, but leaves the number in the workload's record.
func (s *Store) lastRelease(ctx context.Context, space, name string) (number int, revision uint64, err error) {
	last := s.mirror.workload(Key{space, name}).Last
	msg, err := s.bus.Last(ctx, bus.ReleasesStream, bus.ReleaseSubject(releaseKeys(space, name)))
	if errors.Is(err, bus.ErrNoMessage) {
		return last, 0, nil
	}
	if err != nil {
		return 0, 0, unavailable("read the releases of "+name, err)
	}
	n, err := strconv.Atoi(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
	if err != nil {
		return 0, 0, fmt.Errorf("read the releases of %s: %w", name, err)
	}
	return max(last, n), msg.Sequence, nil
}

// releaseKeys matches the keys of all releases of a workload.
func releaseKeys(space, name string) string {
	return strings.TrimSuffix(bus.ReleaseKey(space, name, 0), "00000000") + "*"
}

// SetWorkload makes a release the active one, the first or another. seen is
// the workload's revision that the decision was based on, 0 when there was no
// such workload; when it has another one by now, the error is a Conflict. So
// it is when a route of the release belongs to another workload of the space.
// It returns the new revision.
//
// Two deploys at the same time cannot both win a route: each write is bound to
// the newest write to any workload of the space, and the routes are compared
// with exactly that state.
func (s *Store) SetWorkload(ctx context.Context, space, name string, number int, seen uint64) (uint64, error) {
	rel, err := s.Release(ctx, space, name, number)
	if err != nil {
		return 0, err
	}
	return s.putWorkload(ctx, Key{space, name}, workloadRecord{Last: number, Release: &rel}, seen)
}

// DeleteWorkload removes a workload, the routes that were mapped to it and its
// releases; its call history stays until it is too old. seen is as for SetWorkload.
func (s *Store) DeleteWorkload(ctx context.Context, space, name string, seen uint64) error {
	if _, err := s.Workload(space, name); err != nil {
		return err
	}
	last, newest, err := s.lastRelease(ctx, space, name)
	if err != nil {
		return err
	}
	if err := checkSeen(Key{space, name}, s.mirror.workload(Key{space, name}), seen); err != nil {
		return err
	}
	if err := s.unmapAll(ctx, Key{space, name}); err != nil {
		return err
	}
	if _, err := s.putWorkload(ctx, Key{space, name}, workloadRecord{Last: last}, seen); err != nil {
		return err
	}
	stream, err := s.bus.JetStream().Stream(ctx, bus.ReleasesStream)
	if err != nil {
		return unavailable("delete the releases of "+name, err)
	}
	// Only those that the record's number covers: a deploy may be writing the
	// next one at this moment.
	err = stream.Purge(ctx,
		jetstream.WithPurgeSubject(bus.ReleaseSubject(releaseKeys(space, name))),
		jetstream.WithPurgeSequence(newest+1))
	if err != nil {
		return unavailable("delete the releases of "+name, err)
	}
	return nil
}

// putWorkload writes a workload's record. Its Last never goes down.
func (s *Store) putWorkload(ctx context.Context, key Key, next workloadRecord, seen uint64) (uint64, error) {
	s.deploys.Lock()
	defer s.deploys.Unlock()
	return s.writeDeployed(ctx, key, func(m *mirror) (any, error) {
		var rec workloadRecord
		if old := m.workloads[key]; old != nil {
			rec = *old
		}
		if err := checkSeen(key, rec, seen); err != nil {
			return nil, err
		}
		made := next
		made.Last = max(next.Last, rec.Last)
		if next.Release == nil {
			return made, nil
		}
		return made, m.checkRoutes(key, next.Release.Workload.Routes)
	})
}

// checkSeen compares the revision that a caller acted on with the present one.
func checkSeen(key Key, rec workloadRecord, seen uint64) error {
	switch {
	case rec.Release == nil && seen == 0, rec.Release != nil && rec.revision == seen:
		return nil
	case rec.Release == nil:
		return mayfly.Errorf(mayfly.Conflict, "workload %q was deleted meanwhile", key.Name).
			WithHint("deploy again if it is still wanted")
	default:
		return mayfly.Errorf(mayfly.Conflict, "workload %q was deployed meanwhile: release %d is active", key.Name, rec.Release.Number).
			WithHint("look at that one, then try again")
	}
}

// workload returns a copy of a workload's record, zero when there is none.
func (m *mirror) workload(key Key) workloadRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rec := m.workloads[key]; rec != nil {
		return *rec
	}
	return workloadRecord{}
}

// Workload returns a workload's active release, or a NotFound error.
func (s *Store) Workload(space, name string) (Workload, error) {
	rec := s.mirror.workload(Key{space, name})
	if rec.Release == nil {
		return Workload{}, mayfly.Errorf(mayfly.NotFound, "there is no workload %q", name).
			WithHint("`mayfly workloads` lists those there are")
	}
	return Workload{Release: *rec.Release, Revision: rec.revision}, nil
}

// Function returns a function's active release, or a NotFound error. A service
// is an Invalid one: it runs by itself.
func (s *Store) Function(space, name string) (Workload, error) {
	w, err := s.Workload(space, name)
	if err == nil && w.Workload.Service != nil {
		return Workload{}, mayfly.Errorf(mayfly.Invalid, "%s is a service, which is not called but runs by itself", name).
			WithHint("`mayfly services` shows where it is")
	}
	return w, err
}

// Workloads returns the workloads of a space by name; of all spaces when space
// is empty.
func (s *Store) Workloads(space string) []Workload { return s.Snapshot().WorkloadsIn(space) }

// Release returns one release of a workload, active or not, or a NotFound
// error.
func (s *Store) Release(ctx context.Context, space, name string, number int) (mayfly.Release, error) {
	if err := checkNames(space, "workload", name); err != nil {
		return mayfly.Release{}, err
	}
	if rec := s.mirror.workload(Key{space, name}); rec.Release != nil && rec.Release.Number == number {
		return *rec.Release, nil
	}
	msg, err := s.bus.Last(ctx, bus.ReleasesStream, bus.ReleaseSubject(bus.ReleaseKey(space, name, number)))
	if errors.Is(err, bus.ErrNoMessage) {
		return mayfly.Release{}, mayfly.Errorf(mayfly.NotFound, "workload %q has no release %d", name, number)
	}
	if err != nil {
		return mayfly.Release{}, unavailable("read release", err)
	}
	return decodeRelease(msg)
}

// Releases returns all releases of a workload, newest first.
func (s *Store) Releases(ctx context.Context, space, name string) ([]mayfly.Release, error) {
	if err := checkNames(space, "workload", name); err != nil {
		return nil, err
	}
	var list []mayfly.Release
	from := bus.From{Subject: bus.ReleaseSubject(releaseKeys(space, name)), Limit: 256}
	for more := true; more; {
		var msgs []bus.Message
		var err error
		msgs, more, err = s.bus.Read(ctx, bus.ReleasesStream, from)
		if err != nil {
			return nil, unavailable("read the releases of "+name, err)
		}
		for _, msg := range msgs {
			rel, err := decodeRelease(msg)
			if err != nil {
				return nil, err
			}
			list = append(list, rel)
			from.Sequence = msg.Sequence + 1
		}
	}
	slices.SortFunc(list, func(a, b mayfly.Release) int { return b.Number - a.Number })
	return list, nil
}

// DeleteRelease removes a release that is not active. One that is not there is
// no error. Its number is not used again as long as a higher one was used.
func (s *Store) DeleteRelease(ctx context.Context, space, name string, number int) error {
	if err := checkNames(space, "workload", name); err != nil {
		return err
	}
	if rec := s.mirror.workload(Key{space, name}); rec.Release != nil && rec.Release.Number == number {
		return mayfly.Errorf(mayfly.Conflict, "release %d of workload %q is the active one", number, name)
	}
	stream, err := s.bus.JetStream().Stream(ctx, bus.ReleasesStream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(bus.ReleaseSubject(bus.ReleaseKey(space, name, number))))
	}
	if err != nil {
		return unavailable("delete release", err)
	}
	return nil
}

func decodeRelease(msg bus.Message) (mayfly.Release, error) {
	var rel mayfly.Release
	if err := json.Unmarshal(msg.Data, &rel); err != nil {
		return rel, fmt.Errorf("read %s: %w", msg.Subject, err)
	}
	return rel, nil
}
