package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/manifest"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// pushFlags are the flags of push, as they were given.
type pushFlags struct {
	stack, handler, command, protocol, isolation string
	memory                                       string
	env, unset, paths                            []string
	route                                        mayfly.Route // its host, and whether its path is stripped
	cpus                                         float64
	timeout, idle                                time.Duration
	concurrency, min, max                        int
	reset, noCache                               bool
	given                                        func(flag string) bool
}

func (c *cli) pushCode() *cobra.Command {
	var f pushFlags
	cmd := &cobra.Command{
		Use:   "push [flags] NAME [DIR]",
		Short: "Make a function of a folder of code",
		Long: `Make a function of a folder of code: find out what it is, build it if need be, and
make it the next release, which takes over when one sandbox of it is ready.

What comes first counts: a Go module (go.mod); package.json; requirements.txt or
pyproject.toml; a file of Python, JavaScript or Go with a handler or a program;
index.html. The process web of a Procfile says how it is started.

What flags say holds for later pushes too, until they say otherwise; what was found
out is found out again each time. --reset begins anew.`,
		Example: `  mayfly push hello ./hello
  mayfly push hello ./hello --path /hello
  mayfly push shop . --stack python --command 'gunicorn -b :$PORT shop:app' --memory 512m -e DEBUG=1
  mayfly push shop --reset`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("the name is missing")
			}
			return atMost(2)(cmd, args)
		},
		ValidArgsFunction: c.completePush(),
	}
	c.pushFlags(&f, cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir := "."
		if len(args) == 2 {
			dir = args[1]
		}
		return c.runPush(cmd.Context(), &f, args[0], dir, *output == "json")
	}
	return cmd
}

// completePush completes the name; what follows is a folder.
func (c *cli) completePush() cobra.CompletionFunc {
	names := c.completeWorkloads()
	return func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return names(cmd, args, part)
	}
}

func (c *cli) pushFlags(f *pushFlags, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.stack, "stack", "", "what it runs on, see mayfly stack ls")
	fs.StringVar(&f.handler, "handler", "", "FILE.FUNCTION to call, as main.handle")
	fs.StringVarP(&f.command, "command", "c", "", "command line that starts it")
	fs.StringVar(&f.protocol, "protocol", "", "http, handler, stdio or cgi")
	fs.StringVar(&f.isolation, "isolation", "", "run: a container for each run; instance: one for many")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE, or NAME to pass ours on; again for more")
	fs.StringArrayVar(&f.unset, "unset", nil, "NAME of a variable of an earlier push to forget; again for more")
	fs.StringVarP(&f.memory, "memory", "m", "", "limit, such as 256m or 1g")
	fs.Float64Var(&f.cpus, "cpus", 0, "limit in cores, such as 0.5")
	fs.DurationVar(&f.timeout, "timeout", 0, "most that one run may take, such as 30s")
	fs.IntVar(&f.concurrency, "concurrency", 0, "most runs at once, over all nodes; 0 for no limit")
	fs.StringArrayVar(&f.paths, "path", nil, "path that web requests for it begin with, such as /hello; again for more, '' for none")
	fs.Var(routeHost{c, &f.route}, "host", "host of web requests for it, such as example.org (default any); with :// where the daemon is")
	fs.BoolVar(&f.route.Strip, "strip", false, "send it web requests without the path")
	fs.IntVar(&f.min, "min", 0, "instances that there always are")
	fs.IntVar(&f.max, "max", 0, "most instances; 0 for as many as the machine has room for")
	fs.DurationVar(&f.idle, "idle", 0, "an instance that was not needed for so long goes, such as 10m; 0 for 5m")
	fs.BoolVar(&f.reset, "reset", false, "forget what earlier pushes said")
	fs.BoolVar(&f.noCache, "no-cache", false, "build the code again, though it was built before")
	f.given = fs.Changed
}

func (c *cli) runPush(ctx context.Context, f *pushFlags, name, dir string, asJSON bool) error {
	if err := mayfly.CheckName("function", name); err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	w, err := c.pushed(ctx, cl, f, name)
	if err != nil {
		return err
	}
	if err := f.apply(&w); err != nil {
		return err
	}
	function := []manifest.Workload{{Workload: w, CodeDir: dir}}
	d := deployment{cli: c, cl: cl, manifest: &manifest.Manifest{Name: w.App, Functions: function}, chosen: function, wait: true, fresh: f.noCache}
	if asJSON {
		quiet := *c
		quiet.stdout = c.stderr
		d.cli = &quiet
	}
	if err := d.run(ctx); err != nil {
		return err
	}
	if !asJSON {
		return c.tellRoutes(ctx, cl, name)
	}
	r, err := cl.GetWorkload(ctx, name)
	if err != nil {
		return err
	}
	return printJSON(c.stdout, r)
}

// tellRoutes prints where a function is reached.
func (c *cli) tellRoutes(ctx context.Context, cl *client.Client, name string) error {
	list, err := cl.ListRoutes(ctx, name)
	if err != nil || len(list) == 0 {
		return err
	}
	at := servedAt(ctx, cl)
	for _, m := range list {
		fmt.Fprintln(c.stdout, urlOf(at, m.Route))
	}
	return nil
}

// pushed is what earlier pushes and deploys said of a function, without what was
// found out from its code.
func (c *cli) pushed(ctx context.Context, cl *client.Client, f *pushFlags, name string) (mayfly.Workload, error) {
	none := mayfly.Workload{Space: c.space, Name: name}
	r, err := cl.GetWorkload(ctx, name)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return none, nil
	}
	w := r.Workload
	switch {
	case err != nil:
		return none, err
	case w.Service != nil:
		return none, mayfly.Errorf(mayfly.Conflict, "%s is a service", name).WithHint("deploy its manifest, or choose another name")
	case f.reset:
		return none, nil
	}
	build.Forget(&w)
	if w.Image != "" { // its command was the image's business
		w.Image, w.Entrypoint, w.Command = "", nil, nil
	}
	w.Code = ""
	return w, nil
}

// apply lays what the flags say over what was said before.
func (f *pushFlags) apply(w *mayfly.Workload) error {
	if f.given("stack") {
		w.Stack, w.Base = f.stack, nil
	}
	if f.given("handler") && f.given("command") {
		return usagef("--handler and --command exclude each other")
	}
	if f.given("handler") {
		w.Handler, w.Command, w.Entrypoint = f.handler, nil, nil
	}
	if f.given("command") {
		w.Handler, w.Entrypoint, w.Command = "", nil, nil
		if f.command != "" {
			w.Command = build.Shell(f.command)
		}
	}
	if (f.given("handler") || f.given("command")) && !f.given("protocol") {
		w.Protocol, w.Isolation = "", ""
	}
	if f.given("protocol") {
		w.Protocol = mayfly.Protocol(f.protocol)
		if !f.given("isolation") {
			w.Isolation = ""
		}
	}
	if f.given("isolation") {
		w.Isolation = mayfly.Isolation(f.isolation)
	}
	if err := f.limits(w); err != nil {
		return err
	}
	if f.given("path") || f.route.Host != "" || f.given("strip") {
		w.Routes = f.routes()
	}
	return f.environment(w)
}

func (f *pushFlags) limits(w *mayfly.Workload) error {
	if f.given("memory") {
		n, err := parseSize(f.memory)
		if err != nil {
			return usagef("--memory: %w", err)
		}
		w.Memory = n
	}
	switch {
	case !(f.cpus >= 0):
		return usagef("--cpus %v is not a number of cores, such as 0.5", f.cpus)
	case f.timeout < 0:
		return usagef("--timeout %s is negative", f.timeout)
	case f.concurrency < 0:
		return usagef("--concurrency %d is negative", f.concurrency)
	case f.min < 0 || f.max < 0 || f.max > 0 && f.max < f.min:
		return usagef("--min %d and --max %d are no range", f.min, f.max)
	case f.idle < 0:
		return usagef("--idle %s is negative", f.idle)
	}
	if f.given("min") {
		w.Scale.Min = f.min
	}
	if f.given("max") {
		w.Scale.Max = f.max
	}
	if f.given("idle") {
		w.Scale.Idle = f.idle
	}
	if f.given("cpus") {
		w.CPUs = f.cpus
	}
	if f.given("timeout") {
		w.Timeout = f.timeout
	}
	if f.given("concurrency") {
		w.Concurrency = f.concurrency
	}
	return nil
}

// routes are those that are given, instead of those of the push before; none where
// the path is empty.
func (f *pushFlags) routes() (routes []mayfly.Route) {
	paths := f.paths
	if len(paths) == 0 && f.route.Host != "" {
		paths = []string{"/"}
	}
	for _, p := range paths {
		if p != "" {
			routes = append(routes, mayfly.Route{Host: strings.ToLower(f.route.Host), Path: p, Strip: f.route.Strip, Pushed: true})
		}
	}
	return routes
}

func (f *pushFlags) environment(w *mayfly.Workload) error {
	env := maps.Clone(w.Env)
	if env == nil {
		env = map[string]string{}
	}
	for _, name := range f.unset {
		delete(env, name)
	}
	for _, e := range f.env {
		if err := setEnv(env, e); err != nil {
			return fmt.Errorf("--env: %w", err)
		}
	}
	if w.Env = env; len(env) == 0 {
		w.Env = nil
	}
	w.Detected = slices.Clone(w.Detected)
	return nil
}
