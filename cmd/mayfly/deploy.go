package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/manifest"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// manifestFiles are looked for in this order when no file is named.
func manifestFiles() []string {
	return []string{"mayfly.yaml", "mayfly.yml", "compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"}
}

var errUnread = errors.New("nobody reads any more")

// isUnread says whether err only tells that the reader has gone. net/http
// closes a body that it could not send.
func isUnread(err error) bool { return errors.Is(err, errUnread) || errors.Is(err, io.ErrClosedPipe) }

func (c *cli) deploy() *cobra.Command {
	var f manifestFlags
	var wait, noWait, prune bool
	cmd := &cobra.Command{
		Use:   "deploy [flags] [NAME...]",
		Short: "Deploy the functions and services of a manifest",
		Long: `Deploy the functions and services of a manifest, mayfly.yaml or a Compose file,
or only those that are named. Each that is another than before gets a release.

A function's release fails, with the log, unless one sandbox of it becomes ready.
A service's replaces the one before step by step; the deploy waits until that is
done, and fails if it was rolled back. What has not changed is left alone.`,
		Example: `  mayfly deploy
  mayfly deploy -f examples/thumbnail thumbnail
  mayfly deploy -f compose.yaml --prune`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := c.readManifest(f)
			if err != nil {
				return err
			}
			for _, w := range m.Warnings {
				fmt.Fprintf(c.stderr, "mayfly: %s\n", w)
			}
			chosen, err := choose(m, args)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			d := deployment{cli: c, cl: cl, manifest: m, chosen: chosen, whole: len(args) == 0, wait: wait && !noWait, prune: prune}
			return d.run(cmd.Context())
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&wait, "wait", true, "return when the services are as they shall be")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when it is written down what is wanted")
	cmd.Flags().BoolVar(&prune, "prune", false, "delete what this manifest deployed before and has no more")
	return cmd
}

// manifestFlags say which manifest is meant.
type manifestFlags struct {
	file     string
	profiles []string
}

func (f *manifestFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "the manifest, or its folder (default mayfly.yaml, else compose.yaml)")
	cmd.Flags().StringArrayVar(&f.profiles, "profile", nil, "a Compose profile that is on; again for more")
}

// manifestIn is the manifest of a folder: the first of the usual names that is
// there.
func manifestIn(dir string) string {
	for _, name := range manifestFiles() {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return filepath.Join(dir, name)
		}
	}
	return filepath.Join(dir, manifestFiles()[0])
}

func (c *cli) readManifest(f manifestFlags) (*manifest.Manifest, error) {
	file := f.file
	if info, err := os.Stat(file); file == "" || err == nil && info.IsDir() {
		file = manifestIn(file)
	}
	env := map[string]string{}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	return manifest.Load(file, manifest.Options{Env: env, Profiles: f.profiles, Space: c.space})
}

// choose returns the workloads with those names, or all: functions first, each
// service after those that it waits for, and last the functions that require
// something.
func choose(m *manifest.Manifest, names []string) ([]manifest.Workload, error) {
	requires := func(w manifest.Workload) bool { return len(w.Requires) > 0 }
	all := slices.DeleteFunc(slices.Concat(m.Functions, m.Services), func(w manifest.Workload) bool { return w.Service == nil && requires(w) })
	for _, w := range m.Functions {
		if requires(w) {
			all = append(all, w)
		}
	}
	if len(all) == 0 {
		return nil, mayfly.Errorf(mayfly.Invalid, "there is nothing to deploy: the manifest has no functions and no services").
			WithHint("add one under functions: or services:")
	}
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if slices.ContainsFunc(all, func(w manifest.Workload) bool { return w.Name == name }) {
			continue
		}
		var there []string
		for _, w := range all {
			there = append(there, w.Name)
		}
		return nil, mayfly.Errorf(mayfly.NotFound, "the manifest has no function or service %q", name).WithHint("it has %s", strings.Join(there, ", "))
	}
	return slices.DeleteFunc(all, func(w manifest.Workload) bool { return !slices.Contains(names, w.Name) }), nil
}

func (c *cli) workloads() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "workloads",
		Short:   "List functions and services",
		Example: `  mayfly workloads -o json`,
		Args:    atMost(0),
	}
	header := headings("NAME", "RELEASE", "FROM", "PROTOCOL", "ISOLATION", "DEPLOYED", "ROUTES").sparing("ISOLATION", "PROTOCOL", "DEPLOYED")
	return listing(c, cmd, all((*client.Client).ListWorkloads), header, func(r mayfly.Release) []string {
		w := r.Workload
		from := w.Image
		if w.Stack != "" {
			from = "stack " + w.Stack
		}
		var routes []string
		for _, route := range w.Routes {
			routes = append(routes, route.Host+route.Path)
		}
		return []string{w.Name, fmt.Sprint(r.Number), from, string(w.Protocol), string(w.Isolation), ago(r.Created), strings.Join(routes, ", ")}
	})
}

func (c *cli) runs() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "runs [flags] [FUNCTION]",
		Short: "List the newest runs of functions",
		Example: `  mayfly runs thumbnail
  mayfly runs --limit 500 -o json`,
		Args:              atMost(1),
		ValidArgsFunction: c.completeWorkloads(),
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "most runs to show")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if limit < 1 {
			return usagef("--limit is at least 1")
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		list, err := cl.ListRuns(cmd.Context(), strings.Join(args, ""), limit)
		if err != nil {
			return err
		}
		header := headings("RUN", "FUNCTION", "RELEASE", "STARTED", "QUEUE", "SANDBOX", "HANDLER", "STATUS", "END").sparing("SANDBOX", "QUEUE", "RELEASE")
		return print(c.stdout, output, list, header, runRow)
	}
	return cmd
}

func runRow(r mayfly.Run) []string {
	end, status := "running", ""
	if r.Exit != nil {
		end = string(r.Exit.Reason)
		if r.Exit.Code != 0 {
			end += fmt.Sprintf(" (%d)", r.Exit.Code)
		}
	}
	if r.Status != 0 {
		status = fmt.Sprint(r.Status)
	}
	return []string{r.ID, r.Workload, fmt.Sprint(r.Release), ago(r.Started), humanDuration(r.Queue), humanDuration(r.Sandbox), humanDuration(r.Handler), status, end}
}
