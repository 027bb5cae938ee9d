package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// FunctionReleases returns the releases of a function that still exist, newest
// first. One that never became ready, and so keeps no image, is given up.
func (n *Node) FunctionReleases(ctx context.Context, space, name string) ([]mayfly.ServiceRelease, error) {
	w, err := n.store.Workload(space, name)
	if err != nil {
		return nil, err
	}
	all, err := n.store.Releases(ctx, space, name)
	if err != nil {
		return nil, err
	}
	owned := n.owned(space, name)
	list := make([]mayfly.ServiceRelease, len(all))
	for i, rel := range all {
		active := rel.Number == w.Number
		list[i] = mayfly.ServiceRelease{Release: rel, Wanted: active, Stable: active, GivenUp: !active && !owned[keyOf(&rel)]}
	}
	return list, nil
}

// RollbackFunction makes another release of a function the active one, as soon as
// one sandbox of it is ready: the one with that number, or, for 0, the newest that
// was active before the present one.
func (n *Node) RollbackFunction(ctx context.Context, space, name string, number int, progress func(string)) (mayfly.Release, error) {
	none := mayfly.Release{}
	old := n.store.Snapshot().Workloads[store.Key{Space: space, Name: name}]
	if old == nil {
		_, err := n.store.Workload(space, name)
		return none, err
	}
	list, err := n.FunctionReleases(ctx, space, name)
	if err != nil {
		return none, err
	}
	if number == old.Number {
		return old.Release, nil
	}
	rel, err := goBack(list, name, old.Number, number)
	if err != nil {
		return none, err
	}
	if rel.Workload.Service != nil {
		return none, mayfly.Errorf(mayfly.Conflict, "release %d of %s is a service's", rel.Number, name)
	}
	progress("starting a sandbox")
	if err := n.activate(ctx, &rel, old); err != nil {
		n.drop(context.WithoutCancel(ctx), keyOf(&rel))
		return none, err
	}
	n.drop(context.WithoutCancel(ctx), keyOf(&old.Release))
	n.news("release.rolled-back", space, name, fmt.Sprintf("release %d is active again, after release %d", rel.Number, old.Number))
	progress(fmt.Sprintf("%s: release %d is active", name, rel.Number))
	return rel, errors.Join(n.nameCode(context.WithoutCancel(ctx), space, name, &rel))
}

// goBack chooses the release that a function goes back to. The list has the newest
// first.
func goBack(list []mayfly.ServiceRelease, name string, active, number int) (mayfly.Release, error) {
	var kept []string
	for _, r := range list {
		if r.GivenUp {
			continue
		}
		if r.Number == number || number == 0 && r.Number < active {
			return r.Release, nil
		}
		if r.Number != active {
			kept = append(kept, strconv.Itoa(r.Number))
		}
	}
	slices.Reverse(kept)
	hint := "there is none yet"
	if len(kept) > 0 {
		hint = "there are " + strings.Join(kept, ", ")
	}
	if number == 0 {
		return mayfly.Release{}, mayfly.Errorf(mayfly.Conflict, "there is no release of %s before release %d to go back to", name, active).
			WithHint("name another one with --to: %s", hint)
	}
	return mayfly.Release{}, mayfly.Errorf(mayfly.NotFound, "there is no release %d of %s to go back to", number, name).WithHint("%s", hint)
}
