package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/image"
	"github.com/mayfly-run/mayfly/store"
)

// Deploy makes the next release of a function and makes it the active one as
// soon as one sandbox of it is ready. When none becomes ready, the release
// before stays active. A workload that is the same as the active release is
// left alone.
func (n *Node) Deploy(ctx context.Context, w mayfly.Workload, progress func(string)) (mayfly.Release, error) {
	none := mayfly.Release{}
	if w.Service != nil {
		return n.deployService(ctx, w, progress)
	}
	if err := checkWorkload(&w); err != nil {
		return none, err
	}
	if err := n.volumes.CheckFunction(&w); err != nil {
		return none, err
	}
	old := n.store.Snapshot().Workloads[store.Key{Space: w.Space, Name: w.Name}]
	if old != nil && old.Workload.Service != nil {
		return none, mayfly.Errorf(mayfly.Conflict, "%s is a service", w.Name).WithHint("delete it first, or choose another name")
	}
	fresh := w.Build != nil && w.Build.Fresh
	if fresh {
		kept := *w.Build
		kept.Fresh = false
		w.Build = &kept
	}
	img, err := n.resolve(ctx, &w, old, fresh, progress)
	if err != nil {
		return none, err
	}
	if old != nil && old.Image == img.Digest && reflect.DeepEqual(old.Workload, w) {
		progress(fmt.Sprintf("%s is unchanged: release %d", w.Name, old.Number))
		return old.Release, nil
	}
	rel, err := n.store.PutRelease(ctx, w, img.Digest)
	if err != nil {
		return none, err
	}
	progress("starting a sandbox")
	if err := n.activate(ctx, &rel, old); err != nil {
		return none, errors.Join(err, n.abandon(context.WithoutCancel(ctx), &rel, old))
	}
	progress(fmt.Sprintf("%s: release %d is active", w.Name, rel.Number))
	n.news("release.pushed", w.Space, w.Name, fmt.Sprintf("release %d is active", rel.Number))
	if err := n.supersede(context.WithoutCancel(ctx), &rel, old); err != nil {
		n.opts.Log.Error("clear away old releases", "workload", w.Name, "err", err)
	}
	return rel, nil
}

// activate makes a release the active one once a sandbox of it is ready.
func (n *Node) activate(ctx context.Context, rel *mayfly.Release, old *store.Workload) error {
	f, r, err := n.get(ctx, rel)
	if err != nil {
		return err
	}
	defer n.done(keyOf(rel))
	f.back(r)
	if err := n.images.Keep(keyOf(rel).owner()); err != nil {
		return err
	}
	var seen uint64
	if old != nil {
		seen = old.Revision
	}
	_, err = n.store.SetWorkload(ctx, rel.Workload.Space, rel.Workload.Name, rel.Number, seen)
	return err
}

// abandon takes back what a release that did not become active has.
func (n *Node) abandon(ctx context.Context, rel *mayfly.Release, old *store.Workload) error {
	w := &rel.Workload
	n.drop(ctx, keyOf(rel))
	n.releaseImages(ctx, keyOf(rel).owner())
	var err error
	if w.Code != "" {
		var active *mayfly.Release
		if old != nil {
			active = &old.Release
		}
		err = n.nameCode(ctx, w.Space, w.Name, active)
	}
	return errors.Join(err, n.images.Collect(ctx))
}

// supersede clears away what the releases before the active one need no more.
func (n *Node) supersede(ctx context.Context, rel *mayfly.Release, old *store.Workload) error {
	if old == nil {
		return nil
	}
	w := &rel.Workload
	if !n.active(keyOf(&old.Release)) {
		n.drop(ctx, keyOf(&old.Release))
	}
	var err error
	if old.Workload.Code != "" && w.Code == "" {
		err = n.nameCode(ctx, w.Space, w.Name, rel)
	}
	return errors.Join(err, n.pruneReleases(ctx, keyOf(rel)))
}

// resolve finds or makes the image that a workload runs; old is the release
// before, or nil. What is fresh is built again.
func (n *Node) resolve(ctx context.Context, w *mayfly.Workload, old *store.Workload, fresh bool, progress func(string)) (image.Image, error) {
	if w.Image != "" {
		return n.images.Get(ctx, w.Image)
	}
	base, err := n.stacks.EnsureOf(ctx, w.Stack, w.Base, &lineWriter{each: progress})
	if err != nil {
		return image.Image{}, err
	}
	if w.Code == "" {
		return base, nil
	}
	if img, ok := n.sameCode(ctx, w, old, base); ok && !fresh {
		return img, nil
	}
	spec := build.CodeSpec{Name: codeImage(w.Space, w.Name), Handler: w.Handler, TempDir: n.dir + "/code"}
	var tar *os.File
	if w.Build == nil {
		tar, err = n.openCode(w.Code)
	} else {
		spec.Built = &build.Recipe{}
		tar, *spec.Built, err = n.built(ctx, w, fresh, progress)
	}
	if err != nil {
		return image.Image{}, err
	}
	defer tar.Close()
	progress("adding the code to stack " + w.Stack)
	return build.Code(ctx, n.images, base, tar, spec)
}

// sameCode returns the image of the release before, if it has the same code on
// the same base: then it need not be made again, nor the code be there. With a
// handler a loader comes along, which may be another one by now.
func (n *Node) sameCode(ctx context.Context, w *mayfly.Workload, old *store.Workload, base image.Image) (image.Image, bool) {
	if old == nil || old.Workload.Code != w.Code || old.Workload.Stack != w.Stack || !reflect.DeepEqual(old.Workload.Build, w.Build) || w.Handler != "" || old.Workload.Handler != "" {
		return image.Image{}, false
	}
	img, err := n.images.Get(ctx, old.Image)
	if err != nil {
		return image.Image{}, false
	}
	below, all := base.Config.RootFS.DiffIDs, img.Config.RootFS.DiffIDs
	same := len(all) == len(below)+1 && slices.Equal(all[:len(below)], below)
	return img, same
}

// MaxCode is the largest upload of code, in bytes.
const MaxCode = 256 << 20

// PutCode stores a function's code until it is deployed, under the digest that
// it returns.
func (n *Node) PutCode(_ context.Context, tar io.Reader) (string, error) {
	dir := n.dir + "/code"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, partPrefix)
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(tar, MaxCode+1))
	if err != nil {
		return "", fmt.Errorf("receive code: %w", err)
	}
	if size > MaxCode {
		return "", mayfly.Errorf(mayfly.TooLarge, "the code is larger than %d MB", MaxCode>>20).
			WithHint("leave files out with .mayflyignore")
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if err := giveName(f, filepath.Join(dir, sum)); err != nil {
		return "", err
	}
	trim(dir, keepUploads)
	return "sha256:" + sum, nil
}

var codeDigest = regexp.MustCompile(`^sha256:([0-9a-f]{64})$`)

// FindCode returns nil when code of the digest was uploaded, else a NotFound
// error.
func (n *Node) FindCode(_ context.Context, digest string) error {
	f, err := n.openCode(digest)
	if err != nil {
		return err
	}
	return f.Close()
}

func (n *Node) openCode(digest string) (*os.File, error) {
	m := codeDigest.FindStringSubmatch(digest)
	if m == nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "%q is not the digest of uploaded code", digest)
	}
	f, err := os.Open(filepath.Join(n.dir, "code", m[1]))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mayfly.Errorf(mayfly.NotFound, "the code %s was not uploaded", digest).WithHint("upload it to /v1/code first")
	}
	return f, err
}

// ListWorkloads returns the active releases of a space.
func (n *Node) ListWorkloads(_ context.Context, space string) ([]mayfly.Release, error) {
	list := []mayfly.Release{}
	for _, w := range n.store.Snapshot().WorkloadsIn(space) {
		list = append(list, w.Release)
	}
	return list, nil
}

// GetWorkload returns the active release of a workload.
func (n *Node) GetWorkload(_ context.Context, space, name string) (mayfly.Release, error) {
	w, err := n.store.Workload(space, name)
	return w.Release, err
}

// DeleteWorkload removes a workload. Runs under way go on to their end.
func (n *Node) DeleteWorkload(ctx context.Context, space, name string) error {
	w, err := n.store.Workload(space, name)
	if err != nil {
		return err
	}
	if err := n.store.DeleteWorkload(ctx, space, name, w.Revision); err != nil {
		return err
	}
	n.drop(ctx, keyOf(&w.Release))
	for key := range n.owned(space, name) {
		n.drop(ctx, key)
	}
	return errors.Join(n.nameCode(ctx, space, name, nil), n.volumes.Leave(ctx, &w.Workload))
}

func (n *Node) news(kind, space, subject, text string) {
	n.store.RecordNews(mayfly.News{Space: space, Type: kind, Subject: subject, Node: n.opts.Name, Text: text})
}
