package material

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
)

// SetSecret keeps a value under a name, sealed. The value that is there already
// stays as it is, so that setting it again changes nothing. An empty one is Invalid:
// a program that is not there wrote it, or Enter was pressed too early. What it
// returns does not have the value in it.
func (s *Store) SetSecret(ctx context.Context, space, name string, value []byte) (mayfly.Secret, error) {
	if err := mayfly.CheckName("secret", name); err != nil {
		return mayfly.Secret{}, err
	}
	if len(value) == 0 {
		return mayfly.Secret{}, mayfly.Errorf(mayfly.Invalid, "the value of secret %s is empty, and nothing was set", name).
			WithHint("give it one, or leave the secret out")
	}
	sealed, err := s.keys.Seal(sealName(space, name), value)
	if err != nil {
		return mayfly.Secret{}, err
	}
	changed := false
	set, err := s.record.Secrets.Update(ctx, space, name, func(old mayfly.Secret, found bool) (mayfly.Secret, bool, error) {
		changed = true
		if found {
			was, err := s.keys.Open(sealName(space, name), old.Sealed)
			if err == nil && bytes.Equal(was, value) { // one that does not open is replaced
				changed = false
				return old, false, nil
			}
		}
		return mayfly.Secret{Space: space, Name: name, Version: old.Version + 1, Sealed: sealed, Changed: time.Now().UTC()}, true, nil
	})
	if err != nil {
		return mayfly.Secret{}, err
	}
	if changed {
		s.news("secret.set", space, name, fmt.Sprintf("secret %s was set: version %d", name, set.Version))
	}
	set.Sealed = nil
	return set, nil
}

// ListSecrets returns the secrets of a space by name, without their values.
func (s *Store) ListSecrets(_ context.Context, space string) ([]mayfly.Secret, error) {
	list := []mayfly.Secret{}
	for _, rec := range s.record.Secrets.List(space) {
		v := rec.Value
		v.Sealed = nil
		list = append(list, v)
	}
	return list, nil
}

// RemoveSecret forgets a secret. While a workload names it, it is a Conflict,
// unless force says that this is known.
func (s *Store) RemoveSecret(ctx context.Context, space, name string, force bool) error {
	rec, err := s.record.Secrets.Get(space, name)
	if err != nil {
		return err
	}
	names := func(w *mayfly.Workload) bool {
		return slices.ContainsFunc(w.Secrets, func(m mayfly.SecretMount) bool { return m.Secret == name })
	}
	if err := s.unnamed("secret", space, name, names); err != nil && !force {
		return err
	}
	if err := s.record.Secrets.Delete(ctx, space, name, rec.Revision); err != nil {
		return err
	}
	s.news("secret.removed", space, name, "secret "+name+" was removed")
	return nil
}

// sealName is the name to which a sealed value is bound.
func sealName(space, name string) string { return space + "/" + name }
