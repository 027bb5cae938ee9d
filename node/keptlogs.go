package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// keptLogs holds the logs of sandboxes that are gone: the newest ones, up to a
// number. A sandbox that wrote nothing has none.
type keptLogs struct {
	dir string

	mu  sync.Mutex
	ids []string // oldest first, as ids sort by time
}

// maxKeptLogs bounds how many logs of ended runs are kept.
const maxKeptLogs = 2000

func openKeptLogs(dir string) (*keptLogs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	k := &keptLogs{dir: dir}
	for _, e := range entries {
		k.ids = append(k.ids, e.Name())
	}
	sort.Strings(k.ids)
	return k, nil
}

// keep takes over the log of a sandbox that has ended.
func (k *keptLogs) keep(s *container.Sandbox) error {
	if !container.HasLog(s.Dir()) {
		return nil
	}
	if err := s.KeepLog(filepath.Join(k.dir, s.ID)); err != nil {
		return err
	}
	k.mu.Lock()
	k.ids = append(k.ids, s.ID)
	var drop []string
	if n := len(k.ids) - maxKeptLogs; n > 0 {
		drop = append(drop, k.ids[:n]...)
		k.ids = append([]string(nil), k.ids[n:]...)
	}
	k.mu.Unlock()
	var errs []error
	for _, id := range drop {
		errs = append(errs, os.RemoveAll(filepath.Join(k.dir, id)))
	}
	return errors.Join(errs...)
}

// read passes a kept log on; one that was dropped, or never was, is empty.
func (k *keptLogs) read(ctx context.Context, id string, o mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	o.Follow = false
	err := container.ReadLog(ctx, filepath.Join(k.dir, filepath.Base(id)), o, nil, each)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
