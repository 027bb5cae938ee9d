package main

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/image"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// stackService is the stacks as package api asks for them: those that come with
// Mayfly, and those that the workloads of a space describe.
type stackService struct {
	stacks *build.Stacks
	record *store.Store
}

// describedStack is a stack that workloads describe.
type describedStack struct {
	name, stack string // the name it is listed under, and the one it has in its manifests
	base        *mayfly.StackSpec
	usedBy      []string
}

// described returns the stacks that the workloads of a space describe. Where
// several mean different things by one name, the first has it, and the others
// have the names of their images.
func (s stackService) described(space string) []*describedStack {
	var list []*describedStack
	images, names := map[string]*describedStack{}, map[string]bool{}
	for _, w := range s.record.Workloads(space) {
		if w.Workload.Base == nil {
			continue
		}
		name := build.ImageOf(w.Workload.Stack, w.Workload.Base)
		d := images[name]
		if d == nil {
			d = &describedStack{name: w.Workload.Stack, stack: w.Workload.Stack, base: w.Workload.Base}
			if names[d.name] {
				d.name = strings.TrimPrefix(name, build.StackImage(""))
			}
			images[name], names[d.name] = d, true
			list = append(list, d)
		}
		d.usedBy = append(d.usedBy, w.Workload.Name)
	}
	return list
}

// find returns the description of a stack, or what has only a name.
func (s stackService) find(space, name string) *describedStack {
	for _, d := range s.described(space) {
		if d.name == name {
			return d
		}
	}
	return &describedStack{name: name, stack: name}
}

func (s stackService) show(ctx context.Context, d *describedStack) (client.Stack, error) {
	stack, err := s.stacks.ShowOf(ctx, d.stack, d.base)
	if err != nil {
		return client.Stack{}, err
	}
	w := wireStack(stack)
	w.Name, w.UsedBy = d.name, d.usedBy
	return w, nil
}

func wireStack(s build.Stack) client.Stack {
	return client.Stack{
		Name: s.Name, Description: s.Description.Description, Host: s.Host, Variant: s.Variant, Packages: s.Packages,
		Env: s.Env, Loaders: s.Loaders, Suites: s.Suites, Files: s.Files, Prepare: s.Prepare, Build: s.Description.Build, Image: s.Image,
	}
}

func (s stackService) ListStacks(ctx context.Context, space string) ([]client.Stack, error) {
	var list []client.Stack
	own := map[string]bool{}
	for _, d := range s.described(space) {
		w, err := s.show(ctx, d)
		if err != nil {
			return nil, err
		}
		own[d.name] = true
		list = append(list, w)
	}
	all, err := s.stacks.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, stack := range all {
		if !own[stack.Name] { // the space's goes before it
			list = append(list, wireStack(stack))
		}
	}
	slices.SortFunc(list, func(a, b client.Stack) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

func (s stackService) GetStack(ctx context.Context, space, name string) (client.Stack, error) {
	return s.show(ctx, s.find(space, name))
}

func (s stackService) MakeStack(ctx context.Context, spec client.NewStack, report func(client.Progress)) (client.Stack, error) {
	return s.made(ctx, &describedStack{name: spec.Name, stack: spec.Name, base: &spec.StackSpec}, s.stacks.EnsureOf, report)
}

func (s stackService) BuildStack(ctx context.Context, space, name string, fresh bool, report func(client.Progress)) (client.Stack, error) {
	if fresh {
		return s.made(ctx, s.find(space, name), s.stacks.BuildOf, report)
	}
	return s.made(ctx, s.find(space, name), s.stacks.EnsureOf, report)
}

// makeStack is one of the ways to build a stack.
type makeStack func(ctx context.Context, name string, base *mayfly.StackSpec, progress io.Writer) (image.Image, error)

func (s stackService) made(ctx context.Context, d *describedStack, make makeStack, report func(client.Progress)) (client.Stack, error) {
	r, w := io.Pipe()
	var copied sync.WaitGroup
	copied.Go(func() { reportLines(r, report) })
	_, err := make(ctx, d.stack, d.base, w)
	w.Close()
	copied.Wait()
	if err != nil {
		return client.Stack{}, err
	}
	return s.show(ctx, d)
}

// reportLines reports each line until the end. A line that is too long to be
// one for people ends the reporting, and the rest is read and dropped.
func reportLines(r io.Reader, report func(client.Progress)) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if lines.Text() != "" {
			report(client.Progress{Text: lines.Text()})
		}
	}
	io.Copy(io.Discard, r)
}
