package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// leftTemp is what DATA/tmp of an earlier daemon is called until it is removed.
const leftTemp = "tmp-left-"

// newTemp makes DATA/tmp, where roots of stacks grow. What a killed daemon left
// there is put aside, for clear to remove while the node is at work: a root is
// many files, and what wrote them may be a moment in dying. The caller holds the
// data directory's lock.
func newTemp(data string, log *slog.Logger) (dir string, clear func(context.Context) error, err error) {
	if data, err = filepath.Abs(data); err != nil {
		return "", nil, fmt.Errorf("find the temporary directory: %w", err)
	}
	dir = filepath.Join(data, "tmp")
	aside, err := os.MkdirTemp(data, leftTemp)
	if err == nil {
		err = os.Rename(dir, filepath.Join(aside, "tmp"))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("put the temporary directory aside: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the temporary directory: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(data, leftTemp+"*"))
	if err != nil { // only for a directory with brackets in its name
		left = []string{aside}
	}
	return dir, func(ctx context.Context) error {
		for _, dir := range left {
			if ctx.Err() != nil {
				return nil // the next daemon goes on
			}
			if err := os.RemoveAll(dir); err != nil {
				log.Warn("what an earlier daemon left is there still; the next one removes it", "directory", dir, "error", err)
			}
		}
		return nil
	}, nil
}
