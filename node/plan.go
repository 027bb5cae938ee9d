package node

import (
	"context"
	"reflect"
	"slices"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
	"github.com/mayfly-run/mayfly/store"
)

// Plan says what a deploy of workloads of a space does, and changes nothing.
// What is wrong with one of them is left for its deploy to say, except that it
// would take the place of another app's, which is a Conflict.
func (n *Node) Plan(ctx context.Context, space, app string, list []mayfly.Workload) (mayfly.Plan, error) {
	plan := mayfly.Plan{Workloads: make([]mayfly.Planned, len(list)), Others: []string{}}
	snap := n.store.Snapshot()
	p := planner{node: n, images: map[string]foundImage{}}
	given := map[string]bool{}
	for i := range list {
		w := &list[i]
		given[w.Name] = true
		old := snap.Workloads[store.Key{Space: space, Name: w.Name}]
		if err := otherApp(old, w); err != nil {
			return plan, err
		}
		plan.Workloads[i] = p.one(ctx, w, old)
	}
	n.lacking(snap, space, list, plan.Workloads)
	for key, w := range snap.Workloads {
		if key.Space == space && app != "" && w.Workload.App == app && !given[key.Name] {
			plan.Others = append(plan.Others, key.Name)
		}
	}
	slices.Sort(plan.Others)
	return plan, nil
}

// otherApp refuses to replace a service that another manifest deployed.
func otherApp(old *store.Workload, w *mayfly.Workload) error {
	if old == nil || old.Workload.App == "" || old.Workload.App == w.App || w.Service == nil && old.Workload.Service == nil {
		return nil
	}
	return mayfly.Errorf(mayfly.Conflict, "%s is of %s, and this manifest is %s", w.Name, old.Workload.App, w.App).
		WithHint("rename it, use another space (--space), or run mayfly delete %s first", w.Name)
}

// planner makes one plan.
type planner struct {
	node   *Node
	images map[string]foundImage // by name: most workloads share theirs with others
}

type foundImage struct {
	image.Image
	ok bool
}

func (p *planner) one(ctx context.Context, w *mayfly.Workload, old *store.Workload) mayfly.Planned {
	made := mayfly.Planned{Name: w.Name, Change: mayfly.PlanCreate}
	wish, _ := p.node.store.Wishes.Find(w.Space, w.Name)
	if n := wish.Value.Scale; w.Service != nil && n != nil && wish.Value.By == "" && (*n != w.Scale.Count() || w.Scale.Scaled()) {
		made.Scale = n
	}
	if old != nil {
		made.Release, made.Change = old.Number, mayfly.PlanUpdate
		if old.Workload.App != w.App {
			made.App = old.Workload.App
		}
	}
	if w.Stack != "" {
		_, there, err := p.node.stacks.CurrentOf(ctx, w.Stack, w.Base)
		made.Stack = err == nil && !there
	}
	if old == nil || made.Stack || !p.same(ctx, w, old) {
		return made
	}
	made.Change = mayfly.PlanNone
	if w.Service == nil {
		made.Settled = true
		return made
	}
	made.Settled = p.node.settled(old)
	if p.node.givenUp(old) {
		made.Change = mayfly.PlanRetry
	}
	return made
}

// same reports whether a deploy leaves a workload alone. It sets what the deploy
// would set of it.
func (p *planner) same(ctx context.Context, w *mayfly.Workload, old *store.Workload) bool {
	if (w.Service == nil) != (old.Workload.Service == nil) || len(w.Schedules) > 0 {
		return false // schedules are written again, in case they were not at the time
	}
	if w.Service == nil {
		if checkWorkload(w) != nil || p.node.volumes.CheckFunction(w) != nil {
			return false
		}
	} else if checkService(w) != nil || p.node.checkPorts(w) != nil {
		return false
	}
	img, ok := p.resolve(ctx, w, old)
	if !ok || img.Digest != old.Image {
		return false
	}
	if w.Service != nil {
		for i := range w.Service.Sidecars {
			c := &w.Service.Sidecars[i]
			side := p.image(ctx, c.Image)
			if !side.ok {
				return false
			}
			c.Digest = side.Digest
		}
	}
	return reflect.DeepEqual(old.Workload, *w)
}

// resolve is Node.resolve for what is there already.
func (p *planner) resolve(ctx context.Context, w *mayfly.Workload, old *store.Workload) (image.Image, bool) {
	if w.Image != "" {
		found := p.image(ctx, w.Image)
		return found.Image, found.ok
	}
	base, ok, err := p.node.stacks.CurrentOf(ctx, w.Stack, w.Base)
	if err != nil || !ok || w.Code == "" {
		return base, ok && err == nil
	}
	return p.node.sameCode(ctx, w, old, base)
}

func (p *planner) image(ctx context.Context, name string) foundImage {
	found, known := p.images[name]
	if !known {
		img, err := p.node.images.Get(ctx, name)
		found = foundImage{img, err == nil}
		p.images[name] = found
	}
	return found
}

// rollout is how far a service has come to its release; false where the
// reconciler has not seen what is wanted yet.
func (n *Node) rollout(w *store.Workload) (mayfly.Rollout, bool) {
	ro, ok := n.store.Rollouts.Find(w.Workload.Space, w.Workload.Name)
	wish, _ := n.store.Wishes.Find(w.Workload.Space, w.Workload.Name)
	return ro.Value, ok && ro.Value.Release == w.Number && wish.Value.Generation <= ro.Value.Generation
}

func (n *Node) settled(w *store.Workload) bool {
	ro, seen := n.rollout(w)
	return seen && ro.State == mayfly.RolloutDone
}

func (n *Node) givenUp(w *store.Workload) bool {
	ro, seen := n.rollout(w)
	return seen && (ro.State == mayfly.RolloutRolledBack || ro.State == mayfly.RolloutFailed)
}

// lacking notes of each service that is given, and not all there already, what it
// will wait for because nothing is it: neither another that is given, nor one that
// is deployed, nor anything outside.
func (n *Node) lacking(snap *store.Snapshot, space string, list []mayfly.Workload, made []mayfly.Planned) {
	declared := make(map[string]string) // SPACE/service NAME, SPACE/role NAME, and why it will not be there
	put := func(key, why string) {
		if old, found := declared[key]; !found || old != "" {
			declared[key] = why
		}
	}
	declare := func(w *mayfly.Workload) {
		why := ""
		if n.scaledToNone(w) {
			why = "which is scaled to none"
		}
		put(w.Space+"/service "+w.Name, why)
		for _, p := range w.Provides {
			if p.Role != "" {
				put(w.Space+"/role "+p.Role, why)
			}
		}
	}
	given := make(map[string]*mayfly.Planned)
	for i := range list {
		declare(&list[i])
		given[list[i].Name] = &made[i]
	}
	for key, w := range snap.Workloads {
		if key.Space != space || given[key.Name] == nil {
			declare(&w.Workload)
		}
	}
	for _, e := range n.store.Outside.List("") {
		put(e.Value.Space+"/service "+e.Value.Service, "")
		put(e.Value.Space+"/role "+e.Value.Role, "")
	}
	stuck := func(name string) bool {
		other := given[name]
		return other != nil && other.Change == mayfly.PlanCreate && other.Lacks != nil
	}
	for again := true; again; {
		again = false
		for i := range list {
			if made[i].Lacks == nil && !made[i].Settled {
				made[i].Lacks = lacksOf(&list[i], declared, stuck)
				again = again || made[i].Lacks != nil
			}
		}
	}
}

// scaledToNone reports whether a service has no replicas, and no request brings one.
func (n *Node) scaledToNone(w *mayfly.Workload) bool {
	if w.Service == nil {
		return false
	}
	if wish, _ := n.store.Wishes.Find(w.Space, w.Name); wish.Value.Scale != nil {
		return *wish.Value.Scale == 0
	}
	return w.Scale.Most() == 0
}

// lacksOf lists what a service waits for that is not declared, or that is stuck
// itself.
func lacksOf(w *mayfly.Workload, declared map[string]string, stuck func(service string) bool) (lacks []string) {
	if w.Service == nil {
		return nil // its calls say what they lack
	}
	need := func(space, what, name string) {
		own := space == "" || space == w.Space
		text := what + " " + name
		if own {
			space = w.Space
		} else {
			text += " of space " + space
		}
		switch why, found := declared[space+"/"+what+" "+name]; {
		case found && own && what == "service" && stuck(name):
			lacks = append(lacks, text+", which waits itself")
		case why != "":
			lacks = append(lacks, text+", "+why)
		case found:
		case what == "role":
			lacks = append(lacks, text+", which nothing has that is deployed")
		default:
			lacks = append(lacks, text+", which is not deployed")
		}
	}
	for _, r := range w.Requires {
		switch {
		case r.Optional:
		case r.Service != "":
			need(r.Space, "service", r.Service)
		default:
			need(r.Space, "role", r.Role)
		}
	}
	for _, a := range w.Service.After {
		if !a.Optional {
			need("", "service", a.Workload)
		}
	}
	slices.Sort(lacks)
	return slices.Compact(lacks)
}
