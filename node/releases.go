package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/store"
)

// keepReleases is how many releases of a function keep their images, the
// active one included.
const keepReleases = 10

// functionKey names one release of a function.
type functionKey struct {
	space, name string
	number      int
}

func keyOf(r *mayfly.Release) functionKey {
	return functionKey{r.Workload.Space, r.Workload.Name, r.Number}
}

// owner is the name under which the release keeps its image.
func (k functionKey) owner() string {
	return fmt.Sprintf("release.%s.%s.%d", k.space, k.name, k.number)
}

// keyOfOwner is the release that keeps images under a name.
func keyOfOwner(owner string) (k functionKey, ok bool) {
	part := strings.Split(owner, ".") // no name has a dot
	if len(part) != 4 || part[0] != "release" {
		return k, false
	}
	number, err := strconv.Atoi(part[3])
	return functionKey{part[1], part[2], number}, err == nil
}

// codeImage is the name of the newest image of a function's code.
func codeImage(space, name string) string { return "code/" + space + "/" + name }

// use begins a use of a release, for which Run waits until done.
func (n *Node) use(key functionKey) error {
	<-n.begun
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx == nil {
		return errShuttingDown()
	}
	n.tasks.Add(1)
	n.users[key]++
	return nil
}

// done ends a use of a release. With the last one, what is not active any more
// goes.
func (n *Node) done(key functionKey) {
	n.mu.Lock()
	n.users[key]--
	last := n.users[key] == 0
	if last {
		delete(n.users, key)
	}
	n.mu.Unlock()
	if last && !n.active(key) {
		n.goTask(func(ctx context.Context) {
			n.drop(ctx, key)
			n.collect(ctx)
		})
	}
	n.tasks.Done()
}

// active reports whether requests come to a release: it is the active one, or a
// route leads to it.
func (n *Node) active(key functionKey) bool {
	w, err := n.store.Workload(key.space, key.name)
	return err == nil && (w.Number == key.number || n.store.Routed(key.space, key.name, key.number))
}

// drop stops keeping sandboxes of a release; those who wait for one still get
// it. The image goes when the release is gone and nobody uses it.
func (n *Node) drop(ctx context.Context, key functionKey) {
	n.mu.Lock()
	f := n.functions[key]
	delete(n.functions, key)
	used := n.users[key] > 0
	n.mu.Unlock()
	if f != nil {
		f.drain()
		wake(n.dropped)
	}
	if used {
		return
	}
	if key.number == 0 { // of an image's tasks
		n.releaseImages(ctx, key.owner())
		return
	}
	if _, err := n.store.Release(ctx, key.space, key.name, key.number); mayfly.KindOf(err) == mayfly.NotFound {
		n.releaseImages(ctx, key.owner())
	}
}

// collect removes the images that were let go of.
func (n *Node) collect(ctx context.Context) {
	if err := n.images.Collect(ctx); err != nil {
		n.opts.Log.Error("collect images", "err", err)
	}
}

func (n *Node) releaseImages(ctx context.Context, owner string) {
	if err := n.images.Release(ctx, owner); err != nil {
		n.opts.Log.Error("release image", "owner", owner, "err", err)
	}
}

// owned is the set of releases of a function that keep images.
func (n *Node) owned(space, name string) map[functionKey]bool {
	set := make(map[functionKey]bool)
	for _, o := range n.images.Owners() {
		if key, ok := keyOfOwner(o.Name); ok && key.space == space && key.name == name {
			set[key] = true
		}
	}
	return set
}

// pruneReleases deletes the releases before the active one, and their images,
// but for those that are in use, those that tasks wait for or routes lead to, and
// the newest that keep an image. What never became active keeps none.
func (n *Node) pruneReleases(ctx context.Context, active functionKey) error {
	all, err := n.store.Releases(ctx, active.space, active.name)
	if err != nil {
		return err
	}
	owned := n.owned(active.space, active.name)
	kept := 0
	var old []int
	for _, rel := range all { // newest first
		key := keyOf(&rel)
		n.mu.Lock()
		used := n.users[key] > 0
		n.mu.Unlock()
		if key.number >= active.number || used || owned[key] && kept < keepReleases || n.supervised(key) || n.store.Routed(key.space, key.name, key.number) {
			if owned[key] {
				kept++
			}
			continue
		}
		old = append(old, key.number)
	}
	if len(old) == 0 {
		return nil
	}
	pinned, err := n.pinned(ctx, active.space, active.name, old)
	if err != nil {
		return err
	}
	for _, number := range old {
		if slices.Contains(pinned, number) {
			continue
		}
		if err := n.store.DeleteRelease(ctx, active.space, active.name, number); err != nil {
			return err
		}
		n.releaseImages(ctx, functionKey{active.space, active.name, number}.owner())
	}
	return n.images.Collect(ctx)
}

// supervised reports whether a release of a service runs, or may come back.
func (n *Node) supervised(key functionKey) bool {
	ro, _ := n.store.Rollouts.Find(key.space, key.name)
	if key.number == ro.Value.Stable || key.number == ro.Value.Before {
		return true
	}
	return slices.ContainsFunc(n.store.Assignments.List(key.space), func(a store.Record[mayfly.Assignment]) bool {
		return a.Value.Workload == key.name && a.Value.Release == key.number
	})
}

// pinned returns those of the releases of a function that tasks wait for.
func (n *Node) pinned(ctx context.Context, space, name string, releases []int) ([]int, error) {
	n.mu.Lock()
	runner := n.runner
	n.mu.Unlock()
	if runner == nil {
		return nil, nil
	}
	return runner.queue.Pins(ctx, space, name, releases)
}

// nameCode gives the name of a function's code to the release that is active,
// and takes it away when that has no code, or is nil.
func (n *Node) nameCode(ctx context.Context, space, name string, active *mayfly.Release) error {
	if active != nil && active.Workload.Code != "" {
		_, err := n.images.Tag(ctx, active.Image, codeImage(space, name))
		return err
	}
	err := n.images.Remove(ctx, codeImage(space, name), true)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil
	}
	return err
}

// NeededImages returns the names of images that nothing may be running of, but
// without which what is deployed could not be deployed again as it is.
func (n *Node) NeededImages() []string {
	names := []string{build.StackImage("host")}
	for _, w := range n.store.Snapshot().WorkloadsIn("") {
		if w.Workload.Stack != "" {
			names = append(names, build.ImageOf(w.Workload.Stack, w.Workload.Base))
		}
		if w.Workload.Code != "" {
			names = append(names, codeImage(w.Workload.Space, w.Workload.Name))
		}
		if b := w.Workload.Build; b != nil && b.Recipe == "go" {
			names = append(names, build.StackImage("go"))
		} else if b != nil {
			names = append(names, build.ToolsImage(w.Workload.Stack, w.Workload.Base))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// OwnerName says for people who keeps an image, as image.Owner names it.
func (n *Node) OwnerName(owner string) string {
	if key, ok := keyOfOwner(owner); ok && key.number == 0 {
		return "tasks of an image"
	} else if ok {
		return fmt.Sprintf("release %d of function %s", key.number, key.name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if in := n.instances[owner]; in != nil {
		return "container " + in.Name
	}
	return owner
}

// named puts the names of instances in place of the ids in an error for people.
func (n *Node) named(err error) error {
	var said *mayfly.Error
	if !errors.As(err, &said) {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, in := range n.instances {
		said.Text = strings.ReplaceAll(said.Text, id, in.Name)
	}
	return err
}
