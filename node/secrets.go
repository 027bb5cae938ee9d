package node

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
func (n *Node) SetSecret(ctx context.Context, space, name string, value []byte) (mayfly.Secret, error) {
	if err := mayfly.CheckName("secret", name); err != nil {
		return mayfly.Secret{}, err
	}
	if len(value) == 0 {
		return mayfly.Secret{}, mayfly.Errorf(mayfly.Invalid, "the value of secret %s is empty, and nothing was set", name).
			WithHint("give it one, or leave the secret out")
	}
	sealed, err := n.materials.keys.Seal(sealName(space, name), value)
	if err != nil {
		return mayfly.Secret{}, err
	}
	changed := false
	s, err := n.store.Secrets.Update(ctx, space, name, func(old mayfly.Secret, found bool) (mayfly.Secret, bool, error) {
		changed = true
		if found {
			was, err := n.materials.keys.Open(sealName(space, name), old.Sealed)
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
		n.news("secret.set", space, name, fmt.Sprintf("secret %s was set: version %d", name, s.Version))
	}
	s.Sealed = nil
	return s, nil
}

// ListSecrets returns the secrets of a space by name, without their values.
func (n *Node) ListSecrets(_ context.Context, space string) ([]mayfly.Secret, error) {
	list := []mayfly.Secret{}
	for _, rec := range n.store.Secrets.List(space) {
		s := rec.Value
		s.Sealed = nil
		list = append(list, s)
	}
	return list, nil
}

// RemoveSecret forgets a secret. While a workload names it, it is a Conflict,
// unless force says that this is known.
func (n *Node) RemoveSecret(ctx context.Context, space, name string, force bool) error {
	rec, err := n.store.Secrets.Get(space, name)
	if err != nil {
		return err
	}
	names := func(w *mayfly.Workload) bool {
		return slices.ContainsFunc(w.Secrets, func(m mayfly.SecretMount) bool { return m.Secret == name })
	}
	if err := n.unnamed("secret", space, name, names); err != nil && !force {
		return err
	}
	if err := n.store.Secrets.Delete(ctx, space, name, rec.Revision); err != nil {
		return err
	}
	n.news("secret.removed", space, name, "secret "+name+" was removed")
	return nil
}

// unnamed refuses what a workload names that is deployed.
func (n *Node) unnamed(what, space, name string, names func(*mayfly.Workload) bool) error {
	for _, w := range n.store.Snapshot().WorkloadsIn(space) {
		if names(&w.Workload) {
			return mayfly.Errorf(mayfly.Conflict, "%s %s is named by workload %s", what, name, w.Workload.Name).
				WithHint("delete that first, or remove the %s with --force: the workload cannot be started then", what)
		}
	}
	return nil
}

func (n *Node) news(kind, space, subject, text string) {
	n.store.RecordNews(mayfly.News{Space: space, Type: kind, Subject: subject, Node: n.opts.Name, Text: text})
}
