package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
)

func (c *cli) delete() *cobra.Command {
	var f manifestFlags
	var app string
	cmd := &cobra.Command{
		Use:   "delete NAME... | -f FILE | --app NAME",
		Short: "Take functions and services away",
		Long: `Take functions and services away: those that are named, or everything that a
manifest deployed. Their volumes, secrets and configs stay.`,
		Example: `  mayfly delete thumbnail
  mayfly delete -f examples/blog
  mayfly delete --app blog`,
		ValidArgsFunction: c.completeWorkloads(),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		byFile := cmd.Flags().Changed("file")
		switch {
		case byFile && app != "", (byFile || app != "") && len(args) > 0:
			return usagef("give names, or -f, or --app")
		case !byFile && app == "" && len(args) == 0:
			return usagef("name what to delete, or give -f or --app")
		case !byFile && app == "":
			return c.deleteNamed(cmd.Context(), args)
		}
		if byFile {
			m, err := c.readManifest(f)
			if err != nil {
				return err
			}
			app = m.Name
		}
		return c.deleteApp(cmd.Context(), app)
	}
	f.add(cmd)
	cmd.Flags().StringVar(&app, "app", "", "everything that the manifest of this name deployed")
	return cmd
}

func (c *cli) deleteNamed(ctx context.Context, names []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := cl.ListWorkloads(ctx)
	if err != nil {
		return err
	}
	c.warnConsumers(list, names)
	return c.each(names, func(name string) error { return c.said(name, cl.DeleteWorkload(ctx, name)) })
}

// warnConsumers says who of those that stay requires what goes. It runs on, and
// waits when it is started again.
func (c *cli) warnConsumers(list []mayfly.Release, gone []string) {
	for _, name := range gone {
		i := slices.IndexFunc(list, func(r mayfly.Release) bool { return r.Workload.Name == name })
		if i < 0 {
			continue
		}
		var who []string
		for _, r := range list {
			if !slices.Contains(gone, r.Workload.Name) && requires(&r.Workload, &list[i].Workload, list, gone) {
				who = append(who, r.Workload.Name)
			}
		}
		if len(who) > 0 {
			fmt.Fprintf(c.stderr, "mayfly: %s is required by %s, which will wait for it at the next start\n", name, strings.Join(who, ", "))
		}
	}
}

// requires says whether a workload cannot start without another: by name, or by a
// role that nothing else of what stays has.
func requires(w, other *mayfly.Workload, list []mayfly.Release, gone []string) bool {
	for _, r := range w.Requires {
		if r.Optional || r.Space != "" && r.Space != w.Space {
			continue
		}
		if r.Service == other.Name {
			return true
		}
		if r.Service == "" && hasRole(other, r.Role) && !slices.ContainsFunc(list, func(l mayfly.Release) bool {
			return !slices.Contains(gone, l.Workload.Name) && hasRole(&l.Workload, r.Role)
		}) {
			return true
		}
	}
	return w.Service != nil && slices.ContainsFunc(w.Service.After, func(a mayfly.After) bool { return !a.Optional && a.Workload == other.Name })
}

func hasRole(w *mayfly.Workload, role string) bool {
	return slices.ContainsFunc(w.Provides, func(p mayfly.Provide) bool { return p.Role == role })
}

// deleteApp takes away all that a manifest deployed, consumers first.
func (c *cli) deleteApp(ctx context.Context, app string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	list, err := cl.ListWorkloads(ctx)
	if err != nil {
		return err
	}
	all := slices.Clone(list)
	list = slices.DeleteFunc(list, func(r mayfly.Release) bool { return r.Workload.App != app })
	if len(list) == 0 {
		return mayfly.Errorf(mayfly.NotFound, "nothing of %s is deployed", app).WithHint("`mayfly workloads` lists what is")
	}
	var names []string
	for _, r := range consumersFirst(list) {
		names = append(names, r.Workload.Name)
	}
	c.warnConsumers(all, names)
	return c.each(names, func(name string) error {
		err := cl.DeleteWorkload(ctx, name)
		if err != nil && mayfly.KindOf(err) != mayfly.NotFound {
			return fmt.Errorf("delete %s: %w", name, err)
		}
		return c.said(name, nil)
	})
}

// consumersFirst puts each workload before those that it requires or comes after.
func consumersFirst(list []mayfly.Release) []mayfly.Release {
	byName := map[string]mayfly.Release{}
	for _, r := range list {
		byName[r.Workload.Name] = r
	}
	var order []mayfly.Release
	done := map[string]bool{}
	var visit func(r mayfly.Release)
	visit = func(r mayfly.Release) {
		w := &r.Workload
		if done[w.Name] {
			return // and a circle, which optional requirements may make, ends
		}
		done[w.Name] = true
		var needs []string
		for _, need := range w.Requires {
			needs = append(needs, need.Service)
		}
		if w.Service != nil {
			for _, a := range w.Service.After {
				needs = append(needs, a.Workload)
			}
		}
		for _, name := range needs {
			if next, ok := byName[name]; ok {
				visit(next)
			}
		}
		order = append(order, r)
	}
	for _, r := range list {
		visit(r)
	}
	slices.Reverse(order)
	return order
}
