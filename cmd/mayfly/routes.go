package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) mapRoute() *cobra.Command {
	var r mayfly.Route
	cmd := &cobra.Command{
		Use:   "map-route [flags] NAME",
		Short: "Have web requests lead to a function or a service",
		Long: `Have web requests lead to a function or a service: those of a host, a path and
what is beneath it, and a method; of any where nothing is said. It stays
through releases, until unmap-route or delete.

A route of this very host comes before one of a wildcard, and that before one of
any host; then the longest path. Two workloads share a route by their weights.`,
		Example: `  mayfly map-route hello --path /hello
  mayfly map-route shop --host '*.example.org' --path /api --strip
  mayfly map-route web --weight 90 && mayfly map-route web --weight 10 --release 7`,
		Args:              exactly("name"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			m, err := cl.MapRoute(ctx, args[0], r)
			if err != nil {
				return err
			}
			return c.said(fmt.Sprintf("%s leads to %s", urlOf(servedAt(ctx, cl), m.Route), args[0]), nil)
		}),
	}
	c.routeFlags(cmd, &r)
	cmd.Flags().BoolVar(&r.Strip, "strip", false, "send the requests without the path, which is in X-Forwarded-Prefix")
	cmd.Flags().IntVar(&r.Weight, "weight", 0, "share of the requests, among routes with the same host, path and method")
	cmd.Flags().StringVar(&r.Port, "port", "", "name or number of a provided port of a service (default its only one, or http)")
	return cmd
}

// routeHost is the value of --host: of every other verb that is where the daemon
// is, which is an URL, as no route's host is.
type routeHost struct {
	cli   *cli
	route *mayfly.Route
}

func (h routeHost) String() string { return "" }

// Type is part of pflag.Value.
func (h routeHost) Type() string { return "string" }

// Set is part of pflag.Value.
func (h routeHost) Set(s string) error {
	if strings.Contains(s, "://") {
		h.cli.host = s
	} else {
		h.route.Host = s
	}
	return nil
}

func (c *cli) routeFlags(cmd *cobra.Command, r *mayfly.Route) {
	cmd.Flags().Var(routeHost{c, r}, "host", "host of the requests, such as example.org or '*.example.org' (default any); with :// where the daemon is")
	cmd.Flags().StringVar(&r.Path, "path", "/", "path of the requests, with all beneath it")
	cmd.Flags().StringVar(&r.Method, "method", "", "method of the requests, such as POST (default any)")
	cmd.Flags().IntVar(&r.Release, "release", 0, "of a function, not the active release but this one")
}

func (c *cli) unmapRoute() *cobra.Command {
	var r mayfly.Route
	var everything bool
	cmd := &cobra.Command{
		Use:   "unmap-route [flags] NAME",
		Short: "Take away routes that map-route made",
		Long: `Take away a route that map-route made: the one with the same host, path and
method. Those of a manifest go when they are not in it any more.`,
		Example: `  mayfly unmap-route hello --path /hello
  mayfly unmap-route hello --all`,
		Args:              exactly("name"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) (err error) {
			var gone []mayfly.MappedRoute
			if everything {
				gone, err = cl.UnmapRoutes(ctx, args[0])
			} else {
				gone, err = cl.UnmapRoute(ctx, args[0], r)
			}
			at := servedAt(ctx, cl)
			for _, m := range gone {
				fmt.Fprintf(c.stdout, "%s leads to %s no more\n", urlOf(at, m.Route), args[0])
			}
			return err
		}),
	}
	c.routeFlags(cmd, &r)
	cmd.Flags().BoolVar(&everything, "all", false, "all that were mapped to it")
	cmd.MarkFlagsMutuallyExclusive("all", "path")
	return cmd
}

func (c *cli) routes() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "routes [flags] [NAME]",
		Short: "List routes, and where they lead and come from",
		Example: `  mayfly routes
  mayfly routes hello -o json`,
		Args:              atMost(1),
		ValidArgsFunction: c.completeWorkloads(),
	}
	list := func(ctx context.Context, cl *client.Client, args []string) ([]listedRoute, error) {
		list, err := cl.ListRoutes(ctx, append(args, "")[0])
		at, all := servedAt(ctx, cl), []listedRoute{}
		for _, m := range list {
			all = append(all, listedRoute{m, urlOf(at, mayfly.Route{Host: m.Host, Path: m.Path})})
		}
		return all, err
	}
	header := headings("URL", "METHOD", "LEADS TO", "WEIGHT", "STRIP", "FROM").sparing("STRIP", "FROM")
	return listing(c, cmd, list, header, func(m listedRoute) []string {
		to, weight, strip, method := m.Workload, "", "", "any"
		if m.Method != "" {
			method = m.Method
		}
		if m.Release != 0 {
			to += fmt.Sprintf(" release %d", m.Release)
		}
		if m.Port != "" {
			to += " port " + m.Port
		}
		if m.Weight != 0 {
			weight = strconv.Itoa(m.Weight)
		}
		if m.Strip {
			strip = "yes"
		}
		return []string{m.URL, method, to, weight, strip, m.From}
	})
}

// listedRoute is a route, and what one enters to get there.
type listedRoute struct {
	mayfly.MappedRoute
	URL string `json:"url"`
}

// servedAt is where the daemon serves routes; empty where that is not known.
func servedAt(ctx context.Context, cl *client.Client) string {
	v, err := cl.Version(ctx)
	if err != nil {
		return ""
	}
	return v.URL
}

// urlOf is a route as one enters it: on this machine where it has no host. at is
// where routes are served, as the daemon's Version says.
func urlOf(at string, r mayfly.Route) string {
	u, err := url.Parse(at)
	if at == "" || err != nil {
		return r.String()
	}
	host := r.Host
	if host == "" {
		host = "localhost"
	}
	if port := u.Port(); port != "80" && port != "" {
		host += ":" + port
	}
	text := u.Scheme + "://" + host + (&url.URL{Path: r.Path}).EscapedPath()
	if r.Method != "" {
		text = r.Method + " " + text
	}
	return text
}
