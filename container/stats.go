package container

import "github.com/mayfly-run/mayfly"

// Stats says what the container uses now.
func (s *Sandbox) Stats() (mayfly.Stats, error) {
	return mayfly.Stats{}, mayfly.Errorf(mayfly.Unavailable, "no stats yet")
}
