package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/manifest"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// manifestFiles are looked for in this order when no file is named.
func manifestFiles() []string {
	return []string{"mayfly.yaml", "mayfly.yml", "compose.yaml", "compose.yml"}
}

var errUnread = errors.New("nobody reads any more")

// isUnread says whether err only tells that the reader has gone. net/http
// closes a body that it could not send.
func isUnread(err error) bool { return errors.Is(err, errUnread) || errors.Is(err, io.ErrClosedPipe) }

func (c *cli) deploy() *cobra.Command {
	var file string
	var profiles []string
	cmd := &cobra.Command{
		Use:   "deploy [flags] [NAME...]",
		Short: "Deploy the functions of a manifest",
		Long: `Deploy the functions of a manifest, or only those that are named. Each deploy
makes a release and fails, with the log, unless one sandbox of it becomes ready;
the release before serves until then.`,
		Example: `  mayfly deploy
  mayfly deploy -f examples/thumbnail thumbnail`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := c.readManifest(file, profiles)
			if err != nil {
				return err
			}
			for _, w := range m.Warnings {
				fmt.Fprintf(c.stderr, "mayfly: %s\n", w)
			}
			functions, err := chosen(m.Functions, args)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			for _, f := range functions {
				if err := c.deployOne(cmd.Context(), cl, f); err != nil {
					return fmt.Errorf("deploy %s: %w", f.Name, err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the manifest, or its folder (default mayfly.yaml)")
	cmd.Flags().StringArrayVar(&profiles, "profile", nil, "a Compose profile that is on; again for more")
	return cmd
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

func (c *cli) readManifest(file string, profiles []string) (*manifest.Manifest, error) {
	if info, err := os.Stat(file); file == "" || err == nil && info.IsDir() {
		file = manifestIn(file)
	}
	env := map[string]string{}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	return manifest.Load(file, manifest.Options{Env: env, Profiles: profiles, Space: c.space})
}

// chosen returns the functions with those names, in their order, or all.
func chosen(all []manifest.Function, names []string) ([]manifest.Function, error) {
	if len(all) == 0 {
		return nil, mayfly.Errorf(mayfly.Invalid, "there is nothing to deploy: the manifest has no functions").WithHint("add one under functions:")
	}
	if len(names) == 0 {
		return all, nil
	}
	var some []manifest.Function
	for _, name := range names {
		i := slices.IndexFunc(all, func(f manifest.Function) bool { return f.Name == name })
		if i < 0 {
			var there []string
			for _, f := range all {
				there = append(there, f.Name)
			}
			return nil, mayfly.Errorf(mayfly.NotFound, "the manifest has no function %q", name).WithHint("it has %s", strings.Join(there, ", "))
		}
		some = append(some, all[i])
	}
	return some, nil
}

func (c *cli) deployOne(ctx context.Context, cl *client.Client, f manifest.Function) error {
	begun := time.Now()
	w := f.Workload
	if f.CodeDir != "" {
		digest, err := piped(func(out io.Writer) error { return build.Tar(ctx, out, f.CodeDir) },
			func(in io.Reader) (string, error) { return cl.PutCode(ctx, in) })
		if err != nil {
			return err
		}
		w.Code = digest
	}
	if w.Image != "" {
		_, err := cl.GetImage(ctx, w.Image)
		if mayfly.KindOf(err) == mayfly.NotFound {
			err = c.fetch(ctx, cl, client.Transfer{Name: w.Image})
		}
		if err != nil {
			return err
		}
	}
	view := c.progress()
	r, err := cl.Deploy(ctx, w, mayfly.NewID(), view.report)
	view.done()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s release %d ready after %s\n", w.Name, r.Number, humanDuration(time.Since(begun)))
	return nil
}

func (c *cli) delete() *cobra.Command {
	return &cobra.Command{
		Use:               "delete FUNCTION...",
		Short:             "Take functions away",
		Example:           `  mayfly delete thumbnail`,
		Args:              atLeast("function"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			return cl.DeleteWorkload(ctx, name)
		}),
	}
}

func (c *cli) workloads() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "workloads",
		Short:   "List functions",
		Example: `  mayfly workloads -o json`,
		Args:    atMost(0),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cl, err := c.client()
		if err != nil {
			return err
		}
		list, err := cl.ListWorkloads(cmd.Context())
		if err != nil {
			return err
		}
		return print(c.stdout, output, list, []string{"NAME", "RELEASE", "FROM", "PROTOCOL", "ISOLATION", "ROUTES", "DEPLOYED"}, func(r mayfly.Release) []string {
			w := r.Workload
			from := w.Image
			if w.Stack != "" {
				from = "stack " + w.Stack
			}
			var routes []string
			for _, route := range w.Routes {
				routes = append(routes, route.Host+route.Path)
			}
			return []string{w.Name, fmt.Sprint(r.Number), from, string(w.Protocol), string(w.Isolation), strings.Join(routes, ", "), ago(r.Created)}
		})
	}
	return cmd
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
		return print(c.stdout, output, list, []string{"RUN", "FUNCTION", "RELEASE", "STARTED", "QUEUE", "SANDBOX", "HANDLER", "STATUS", "END"}, runRow)
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
