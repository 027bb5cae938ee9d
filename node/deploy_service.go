package node

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/place"
	"github.com/mayfly-run/mayfly/store"
)

// deployService makes the next release of a service and has it wanted. That its
// instances become ready, or the release before stays, is the reconciler's.
func (n *Node) deployService(ctx context.Context, w mayfly.Workload, progress func(string)) (mayfly.Release, error) {
	none := mayfly.Release{}
	if err := cmp.Or(checkService(&w), n.checkPorts(&w)); err != nil {
		return none, err
	}
	old := n.store.Snapshot().Workloads[store.Key{Space: w.Space, Name: w.Name}]
	if old != nil && old.Workload.Service == nil {
		return none, mayfly.Errorf(mayfly.Conflict, "%s is a function", w.Name).WithHint("delete it first, or choose another name")
	}
	img, err := n.resolve(ctx, &w, old, false, progress)
	if err != nil {
		return none, err
	}
	if len(w.Service.Processes) == 0 && len(command(img.Config.Config.Entrypoint, img.Config.Config.Cmd, w.Process)) == 0 {
		return none, mayfly.Errorf(mayfly.Invalid, "service %s says no command, and its image says none", w.Name).
			WithHint("add command: [PROGRAM, ARGUMENT...]")
	}
	digests := []string{img.Digest}
	for i := range w.Service.Sidecars {
		c := &w.Service.Sidecars[i]
		side, err := n.images.Get(ctx, c.Image)
		if err != nil {
			return none, fmt.Errorf("sidecar %s: %w", c.Name, err)
		}
		c.Digest = side.Digest
		digests = append(digests, side.Digest)
	}
	if old != nil && old.Image == img.Digest && reflect.DeepEqual(old.Workload, w) {
		progress(fmt.Sprintf("%s is unchanged: release %d", w.Name, old.Number))
		return old.Release, nil
	}
	rel, err := n.store.PutRelease(ctx, w, img.Digest)
	if err != nil {
		return none, err
	}
	for _, digest := range digests { // for as long as one may roll back to it
		if _, err := n.images.Use(ctx, digest, keyOf(&rel).owner()); err != nil {
			return none, err
		}
	}
	if err := n.images.Keep(keyOf(&rel).owner()); err != nil {
		return none, err
	}
	var seen uint64
	if old != nil {
		seen = old.Revision
	}
	if _, err := n.store.SetWorkload(ctx, w.Space, w.Name, rel.Number, seen); err != nil {
		n.releaseImages(context.WithoutCancel(ctx), keyOf(&rel).owner())
		return none, err
	}
	progress(fmt.Sprintf("%s: release %d is wanted", w.Name, rel.Number))
	n.news("release.pushed", w.Space, w.Name, fmt.Sprintf("release %d is wanted", rel.Number))
	if old != nil {
		if err := n.pruneReleases(context.WithoutCancel(ctx), keyOf(&rel)); err != nil {
			n.opts.Log.Error("clear away old releases", "workload", w.Name, "err", err)
		}
	}
	return rel, nil
}

// checkPorts refuses a port of the only node that another service has already.
func (n *Node) checkPorts(w *mayfly.Workload) error {
	if len(w.Service.Ports) == 0 || len(n.store.Nodes.List("")) > 1 { // another node may have it
		return nil
	}
	for _, other := range n.store.Workloads("") {
		o := &other.Workload
		if o.Service == nil || o.Space == w.Space && o.Name == w.Name {
			continue
		}
		for _, p := range w.Service.Ports {
			if !slices.ContainsFunc(o.Service.Ports, func(q mayfly.Port) bool { return place.Clash(p, q) }) {
				continue
			}
			who := o.Name
			if o.Space != w.Space {
				who = o.Space + "/" + o.Name
			}
			return mayfly.Errorf(mayfly.Conflict, "host port %d is wanted by %s and taken by %s", p.Host, w.Name, who).
				WithHint("choose another, or none and one is picked")
		}
	}
	return nil
}

// checkService refuses what cannot be run, however long one waits.
func checkService(w *mayfly.Workload) error {
	if err := mayfly.CheckName("service", w.Name); err != nil {
		return err
	}
	if (w.Image == "") == (w.Stack == "") {
		return mayfly.Errorf(mayfly.Invalid, "service %s needs either an image or a stack", w.Name)
	}
	if len(w.Schedules) > 0 {
		return mayfly.Errorf(mayfly.Invalid, "service %s has schedules, which are a function's", w.Name)
	}
	switch w.Network {
	case "", "bridge":
	case "none", "host":
		if len(w.Service.Ports) > 0 {
			return mayfly.Errorf(mayfly.Invalid, "service %s: ports cannot be published with network %q", w.Name, w.Network)
		}
	default:
		return mayfly.Errorf(mayfly.Invalid, "service %s: network %q is not known", w.Name, w.Network).WithHint("use bridge, none or host")
	}
	return cmp.Or(checkBase(w), checkHostname(w.Service.Hostname), checkResources(w.Resources), checkMounts(w.Mounts), checkVolumes(w.Volumes),
		checkMaterial(w), checkConnections(w), checkParts(w), checkRoutes(w))
}

var connectionName = regexp.MustCompile(`^[a-zA-Z]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?$`)

func checkConnections(w *mayfly.Workload) error {
	seen := make(map[string]bool)
	for _, p := range w.Provides {
		if !connectionName.MatchString(p.Name) || seen[p.Name] {
			return mayfly.Errorf(mayfly.Invalid, "service %s: provides %q, which is twice or not a name", w.Name, p.Name)
		}
		seen[p.Name] = true
	}
	clear(seen)
	for _, r := range w.Requires {
		prefix := variable(r.Name)
		if !connectionName.MatchString(r.Name) || seen[prefix] {
			return mayfly.Errorf(mayfly.Invalid, "service %s: requires %q, which is twice or not a name", w.Name, r.Name)
		}
		seen[prefix] = true
		if r.Service == "" && r.Role == "" {
			return mayfly.Errorf(mayfly.Invalid, "service %s: requires %s, but says neither a service nor a role", w.Name, r.Name)
		}
		if err := checkSignal(w, r.OnChange.Signal); err != nil {
			return err
		}
	}
	return nil
}

func checkSignal(w *mayfly.Workload, name string) error {
	if _, ok := mayfly.ParseSignal(name); name != "" && !ok {
		return mayfly.Errorf(mayfly.Invalid, "service %s: there is no signal %q", w.Name, name)
	}
	return nil
}

func checkParts(w *mayfly.Workload) error {
	if err := checkSignal(w, w.Service.StopSignal); err != nil {
		return err
	}
	names := make(map[string]bool)
	for _, p := range w.Service.Processes {
		if err := mayfly.CheckName("process", p.Name); err != nil {
			return err
		}
		if names[p.Name] || len(p.Entrypoint)+len(p.Command) == 0 {
			return mayfly.Errorf(mayfly.Invalid, "service %s: process %s is twice, or says no command", w.Name, p.Name)
		}
		names[p.Name] = true
	}
	clear(names)
	for _, c := range w.Service.Sidecars {
		if err := mayfly.CheckName("sidecar", c.Name); err != nil {
			return err
		}
		if names[c.Name] || strings.TrimSpace(c.Image) == "" {
			return mayfly.Errorf(mayfly.Invalid, "service %s: sidecar %s is twice, or has no image", w.Name, c.Name)
		}
		names[c.Name] = true
		if err := checkVolumes(c.Volumes); err != nil {
			return err
		}
	}
	return nil
}
