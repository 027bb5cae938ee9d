package store

import (
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// InstanceOf returns the instance that ref means: its id, its name, SERVICE/N
// for that replica of a service, SERVICE for any of its replicas, or the
// beginning of an id. Of several instances of a replica it is the one that is
// ready, or else runs, or else was made last. A sidecar is not meant by its
// service.
func (s *Store) InstanceOf(space, ref string) (Instance, error) {
	if id := s.mirror.holder(Key{space, ref}); id != "" {
		return s.Instance(space, ref)
	}
	service, number := ref, 0
	if name, text, ok := strings.Cut(ref, "/"); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return Instance{}, mayfly.Errorf(mayfly.Invalid, "%q names no replica", ref).WithHint("write SERVICE/NUMBER, such as %s/1", name)
		}
		service, number = name, n
	}
	best, found := Instance{}, false
	for _, in := range s.Instances(space) {
		if in.Workload != service || in.Replica == 0 || in.Sidecar != "" || number > 0 && in.Replica != number {
			continue
		}
		if !found || s.standing(in) >= s.standing(best) { // they come oldest first
			best, found = in, true
		}
	}
	switch {
	case found:
		return best, nil
	case number > 0:
		return Instance{}, mayfly.Errorf(mayfly.NotFound, "no instance is replica %d of %q", number, service).
			WithHint("`mayfly ps -a` lists those there are")
	}
	return s.Instance(space, ref)
}

// standing orders instances by how much there is to ask of them.
func (s *Store) standing(in Instance) int {
	switch {
	case in.State == mayfly.Exited:
		return 0
	case in.State != mayfly.Running:
		return 1
	}
	for _, r := range s.Replicas.List(in.Space) {
		if r.Value.Instance == in.ID && (r.Value.State == mayfly.ReplicaReady || r.Value.State == mayfly.ReplicaStandby) {
			return 3
		}
	}
	return 2
}
