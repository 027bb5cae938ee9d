package image

import (
	"context"
	"io"
	"os"

	"github.com/mayfly-run/mayfly"
)

// TarDir writes a directory as a tar that Import takes: what ImportPath would
// import, for sending it to a node. Of a root it takes one file system only.
func TarDir(ctx context.Context, w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "read directory: %w", err)
	}
	defer root.Close()
	_, err = writeTar(ctx, w, root)
	return err
}
