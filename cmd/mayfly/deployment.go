package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/manifest"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// deployment is one deploy of a manifest. It asks for what the node can say at
// once, and sends nothing that is there already.
type deployment struct {
	*cli
	cl       *client.Client
	manifest *manifest.Manifest
	chosen   []manifest.Workload // of it
	whole    bool                // all of it is chosen
	wait     bool                // for services to be as they shall be
	prune    bool
	fresh    bool // code is built again that was built before

	planned map[string]mayfly.Planned // by workload
	others  []string                  // workloads of the app that are not chosen
	codes   map[string]string         // digests, by folder
	images  map[string]bool           // that are there
	secrets map[string]bool           // likewise
	done    []string                  // workloads whose deploy has been carried out
}

func (d *deployment) run(ctx context.Context) error {
	d.images = map[string]bool{}
	if err := d.plan(ctx); err != nil {
		return err
	}
	if err := d.store(ctx); err != nil {
		return err
	}
	if err := d.stacks(ctx); err != nil {
		return err
	}
	rolling := map[string]int{}
	for _, w := range d.chosen {
		if w.Service == nil && len(w.Requires) > 0 { // its first sandbox needs what is ready of them
			if err := d.rollouts(ctx, rolling); err != nil {
				return err
			}
		}
		release, err := d.one(ctx, w)
		if err != nil {
			return d.interrupted(ctx, fmt.Errorf("deploy %s: %w", w.Name, err))
		}
		d.done = append(d.done, w.Name)
		if w.Service != nil && !d.planned[w.Name].Settled {
			rolling[w.Name] = release
		}
	}
	if err := d.removed(ctx); err != nil {
		return err
	}
	if !d.wait {
		return nil
	}
	return d.rollouts(ctx, rolling)
}

// plan asks what there is to do, and says of what will wait what it lacks.
func (d *deployment) plan(ctx context.Context) error {
	d.codes, d.planned = map[string]string{}, map[string]mayfly.Planned{}
	ask := client.PlanRequest{App: d.manifest.Name}
	for i := range d.chosen {
		w := &d.chosen[i]
		if w.CodeDir != "" {
			if err := d.detect(w); err != nil {
				return fmt.Errorf("deploy %s: %w", w.Name, err)
			}
			var err error
			if w.Code, err = d.digest(ctx, w); err != nil {
				return fmt.Errorf("deploy %s: %w", w.Name, err)
			}
		}
		ask.Workloads = append(ask.Workloads, w.Workload)
	}
	plan, err := d.cl.Plan(ctx, ask)
	if err != nil {
		return err
	}
	d.others = plan.Others
	for _, p := range plan.Workloads {
		d.planned[p.Name] = p
		if p.App != "" {
			fmt.Fprintf(d.stderr, "mayfly: %s takes the place of the function of that name of %s\n", p.Name, p.App)
		}
		if p.Scale != nil {
			fmt.Fprintf(d.stderr, "mayfly: %s stays scaled to %d; mayfly scale %s=default leaves it to the manifest\n", p.Name, *p.Scale, p.Name)
		}
		for _, lack := range p.Lacks {
			fmt.Fprintf(d.stderr, "mayfly: %s will wait for %s\n", p.Name, lack)
		}
	}
	return nil
}

// detect finds out what the code of a function is, where it does not say all that
// itself, and says what it found.
func (d *deployment) detect(w *manifest.Workload) error {
	if w.Service != nil {
		return nil
	}
	found, err := build.Fill(&w.Workload, w.CodeDir)
	if err != nil {
		return err
	}
	if w.Build != nil && d.fresh {
		w.Build.Fresh = true
	}
	if found.Text != "" {
		fmt.Fprintf(d.stderr, "%s is %s; it runs on stack %s\n", w.Name, found.Text, w.Stack)
	}
	return nil
}

// stacks has the stacks built that are not there, at the same time: one build
// keeps little more than a core busy.
func (d *deployment) stacks(ctx context.Context) error {
	specs := map[string]client.NewStack{}
	for _, w := range d.chosen {
		if w.Base != nil && d.planned[w.Name].Stack {
			specs[build.ImageOf(w.Stack, w.Base)] = client.NewStack{Name: w.Stack, StackSpec: *w.Base}
		}
	}
	if len(specs) < 2 {
		return nil // the deploy of its workload does it
	}
	view := d.progress()
	defer view.done()
	g, ctx := errgroup.WithContext(ctx)
	for _, spec := range specs {
		g.Go(func() error {
			_, err := d.cl.MakeStack(ctx, spec, func(p client.Progress) {
				p.ID = spec.Name
				view.report(p)
			})
			return err
		})
	}
	return g.Wait()
}

// one deploys one workload and returns its release. What has not changed costs
// nothing more.
func (d *deployment) one(ctx context.Context, from manifest.Workload) (release int, err error) {
	begun := time.Now()
	w, plan := from.Workload, d.planned[from.Name]
	if plan.Change == mayfly.PlanNone {
		fmt.Fprintf(d.stdout, "%s release %d unchanged\n", w.Name, plan.Release)
		return plan.Release, nil
	}
	if from.CodeDir != "" {
		if err := d.upload(ctx, &from); err != nil {
			return 0, err
		}
	}
	for _, name := range imagesOf(&w) {
		if err := d.image(ctx, name); err != nil {
			return 0, err
		}
	}
	view := d.progress()
	r, err := d.cl.Deploy(ctx, w, mayfly.NewID(), func(p client.Progress) {
		if !view.live || !isTerminal(d.stdout) || !isOutcome(w.Name, p.Text) {
			view.report(p)
		}
	})
	view.done()
	if err != nil {
		return 0, err
	}
	took := humanDuration(time.Since(begun))
	switch {
	case plan.Change == mayfly.PlanRetry:
		fmt.Fprintf(d.stdout, "%s release %d unchanged, tried again\n", w.Name, r.Number)
	case plan.Release == r.Number:
		fmt.Fprintf(d.stdout, "%s release %d unchanged\n", w.Name, r.Number)
	case w.Service == nil:
		fmt.Fprintf(d.stdout, "%s release %d ready after %s\n", w.Name, r.Number, took)
	default:
		fmt.Fprintf(d.stdout, "%s release %d wanted after %s\n", w.Name, r.Number, took)
	}
	return r.Number, nil
}

// isOutcome says whether a text tells how the deploy of a workload ended, which
// stdout says as well: a terminal that shows both has it once.
func isOutcome(name, text string) bool {
	return strings.HasPrefix(text, name+" is unchanged:") || strings.HasPrefix(text, name+": release ")
}

// imagesOf lists the images that a workload names.
func imagesOf(w *mayfly.Workload) (names []string) {
	if w.Image != "" {
		names = append(names, w.Image)
	}
	if w.Service != nil {
		for _, c := range w.Service.Sidecars {
			names = append(names, c.Image)
		}
	}
	return names
}

// image fetches an image that is not there.
func (d *deployment) image(ctx context.Context, name string) error {
	if d.images[name] {
		return nil
	}
	_, err := d.cl.GetImage(ctx, name)
	if mayfly.KindOf(err) == mayfly.NotFound {
		err = d.fetch(ctx, d.cl, client.Transfer{Name: name})
	}
	d.images[name] = err == nil
	return err
}

// digest is that of the code in a function's folder. What of the folder is left out
// is said once.
func (d *deployment) digest(ctx context.Context, w *manifest.Workload) (string, error) {
	key := w.CodeDir
	if w.Build != nil {
		key += "\x00" + w.Build.Recipe
	}
	if digest := d.codes[key]; digest != "" {
		return digest, nil
	}
	h := sha256.New()
	left, err := build.Pack(ctx, h, w.CodeDir, w.Build)
	if err != nil {
		return "", err
	}
	if text := left.String(); text != "" {
		fmt.Fprintf(d.stderr, "%s: %s\n", w.Name, text)
	}
	d.codes[key] = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return d.codes[key], nil
}

// upload uploads a function's folder unless it is there already.
func (d *deployment) upload(ctx context.Context, w *manifest.Workload) error {
	there, err := d.cl.HasCode(ctx, w.Code)
	if err != nil || there {
		return err
	}
	pack := func(out io.Writer) error {
		_, err := build.Pack(ctx, out, w.CodeDir, w.Build)
		return err
	}
	put, err := piped(pack, func(in io.Reader) (string, error) { return d.cl.PutCode(ctx, in) })
	if err == nil && put != w.Code {
		err = mayfly.Errorf(mayfly.Conflict, "%s was changed while it was read", w.CodeDir).WithHint("deploy it again")
	}
	return err
}

// removed deletes what the manifest deployed before and has no more, or says
// what that is.
func (d *deployment) removed(ctx context.Context) error {
	if !d.whole {
		return nil
	}
	var gone []string
	for _, name := range d.others {
		if !d.has(name) {
			gone = append(gone, name)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if !d.prune {
		fmt.Fprintf(d.stderr, "mayfly: %s was deployed before and is not in this manifest any more; --prune deletes it\n", strings.Join(gone, ", "))
		return nil
	}
	list, err := d.cl.ListWorkloads(ctx)
	if err != nil {
		return err
	}
	d.warnConsumers(list, gone)
	return d.each(gone, func(name string) error {
		if err := d.cl.DeleteWorkload(ctx, name); err != nil {
			return fmt.Errorf("delete %s: %w", name, err)
		}
		fmt.Fprintf(d.stdout, "%s deleted\n", name)
		return nil
	})
}

// has says whether the manifest has a workload, be its profile on or not.
func (d *deployment) has(name string) bool {
	named := func(w manifest.Workload) bool { return w.Name == name }
	return slices.ContainsFunc(d.manifest.Functions, named) || slices.ContainsFunc(d.manifest.Services, named) || slices.Contains(d.manifest.Off, name)
}
