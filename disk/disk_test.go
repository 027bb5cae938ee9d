package disk_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/mayfly-run/mayfly/disk"
)

func TestSync(t *testing.T) {
	dir := t.TempDir()
	for name, sync := range map[string]func(string) error{"SyncDir": disk.SyncDir, "SyncFS": disk.SyncFS} {
		if err := sync(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var at *fs.PathError
		gone := filepath.Join(dir, "gone")
		if err := sync(gone); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &at) || at.Path != gone {
			t.Errorf("%s of what is not there: %v", name, err)
		}
	}
}
