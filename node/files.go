package node

import (
	"context"
	"io"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/tree"
)

// ReadFiles writes what is at a path of a running instance as a tar stream.
func (n *Node) ReadFiles(ctx context.Context, space, ref, path string, w io.Writer) error {
	_, root, err := n.rootOf(space, ref)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.Write(ctx, w, path)
}

// WriteFiles makes files of a tar stream at a path of a running instance. They
// become those of the container's user.
func (n *Node) WriteFiles(ctx context.Context, space, ref, path string, r io.Reader, o client.CopyOptions) (tree.Report, error) {
	s, root, err := n.rootOf(space, ref)
	if err != nil {
		return tree.Report{}, err
	}
	defer root.Close()
	return root.Extract(ctx, r, path, tree.Options{
		Owner: &tree.Owner{UID: int(s.User.UID), GID: int(s.User.GID)}, Keep: o.Keep, Into: o.Into,
	})
}

// rootOf opens the root directory of a running instance.
func (n *Node) rootOf(space, ref string) (*container.Sandbox, *tree.Dir, error) {
	in, s, err := n.runningOf(space, ref)
	if err != nil {
		return nil, nil, err
	}
	root, err := s.Root()
	if container.IsGone(err) {
		err = mayfly.Errorf(mayfly.Conflict, "instance %s has ended", in.Name)
	}
	return s, root, err
}
