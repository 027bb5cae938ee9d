package claim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// notes say, for the next daemon, which instance uses which volumes: a file
// for each instance. Nobody syncs them: after a power cut no instance is left.
type notes struct{ dir string }

type note struct {
	Space    string   `json:"space"`
	Group    string   `json:"group"`
	Name     string   `json:"name"`
	Workload string   `json:"workload,omitempty"`
	Volumes  []string `json:"volumes"`            // each once
	ReadOnly []string `json:"readOnly,omitempty"` // of Volumes, those that it only reads
}

func (ns notes) path(instance string) string { return filepath.Join(ns.dir, instance+".json") }

func (ns notes) write(in mayfly.Instance, mounts []mayfly.VolumeMount) error {
	n := note{Space: in.Space, Group: cmp.Or(in.Beside, in.ID), Name: personName(in), Workload: in.Workload}
	writes := make(map[string]bool)
	for _, m := range mounts {
		if _, seen := writes[m.Volume]; !seen {
			n.Volumes = append(n.Volumes, m.Volume)
		}
		writes[m.Volume] = writes[m.Volume] || !m.ReadOnly
	}
	for _, name := range n.Volumes {
		if !writes[name] {
			n.ReadOnly = append(n.ReadOnly, name)
		}
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	temp := ns.path("." + in.ID)
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, ns.path(in.ID))
}

// read returns an instance's note, nil if it has none.
func (ns notes) read(instance string) (*note, error) {
	text, err := os.ReadFile(ns.path(instance))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	n := &note{}
	if err == nil {
		err = json.Unmarshal(text, n)
	}
	return n, err
}

// remove forgets a note; one that is not there was removed for the same reason.
func (ns notes) remove(instance string) error {
	if err := os.Remove(ns.path(instance)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// list returns the instances that have a note.
func (ns notes) list() (ids []string, err error) {
	entries, err := os.ReadDir(ns.dir)
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// Recover takes up the claims of instances that live and ends those of the
// others; then it does what an earlier daemon was killed over.
func (vs *Volumes) Recover(ctx context.Context, lives func(instance string) bool) error {
	if err := os.MkdirAll(vs.notes.dir, 0o700); err != nil {
		return err
	}
	if err := vs.fills.recover(); err != nil {
		return fmt.Errorf("clean up after volumes that were being filled: %w", err)
	}
	ids, err := vs.notes.list()
	if err != nil {
		return err
	}
	var ended []string
	for _, id := range ids {
		noted, err := vs.notes.read(id)
		switch {
		case err != nil: // nobody syncs them
			err = os.Remove(vs.notes.path(id))
		case lives(id):
			vs.adopt(id, noted)
		default:
			ended = append(ended, id)
		}
		if err != nil {
			return err
		}
	}
	for _, id := range ended {
		if err := vs.Release(ctx, id); err != nil {
			return err
		}
	}
	if err := vs.unpin(lives); err != nil {
		return err
	}
	for _, rec := range vs.store.Volumes.List("") {
		if err := vs.settle(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

func (vs *Volumes) adopt(id string, noted *note) {
	for _, name := range noted.Volumes {
		u := use{group: noted.Group, name: noted.Name, workload: noted.Workload}
		for _, r := range noted.ReadOnly {
			u.readOnly = u.readOnly || r == name
		}
		vs.held(store.Key{Space: noted.Space, Name: name}).users[id] = u
	}
}

// unpin takes away what is pinned for instances that do not live.
func (vs *Volumes) unpin(lives func(string) bool) error {
	pinned, err := vs.room.Pinned()
	for _, id := range pinned {
		if !lives(id) {
			err = errors.Join(err, vs.room.Unpin(id))
		}
	}
	return err
}

// settle brings a volume's record and the volume together.
func (vs *Volumes) settle(ctx context.Context, rec store.Record[mayfly.Volume]) error {
	v := rec.Value
	h := vs.held(rec.Key)
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.Leaving && (v.Node == vs.node || v.Node == "") {
		return vs.finishRemove(ctx, v, "")
	}
	if v.Node != vs.node {
		return nil
	}
	if v.Writer != "" && h.writer(v.Writer) == "" {
		v.Writer, v.WriterName = "", ""
		if _, err := vs.store.Volumes.Put(ctx, v.Space, v.Name, v, rec.Revision); err != nil {
			return err
		}
	}
	if len(h.users) > 0 {
		return nil
	}
	p, err := vs.room.Provider(v)
	if err != nil {
		return nil // a provider that this daemon was not given
	}
	if err := p.Close(ctx, v); err != nil {
		return err
	}
	return vs.purge(ctx, h, v)
}
