package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) endpoint() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "endpoint",
		Short: "See where services are, and add what Mayfly does not run",
		Example: `  mayfly endpoint ls
  mayfly endpoint add crm 192.0.2.7:3306 --protocol mysql --check tcp
  mayfly endpoint rm crm`,
	}, c.endpointAdd(), c.endpointList(), c.endpointRemove(), c.endpointHeartbeat())
}

// completeEndpoints completes the names under which endpoints were added.
func (c *cli) completeEndpoints() cobra.CompletionFunc {
	list := func(cl *client.Client, ctx context.Context) ([]mayfly.EndpointStatus, error) {
		all, err := cl.ListEndpoints(ctx, client.EndpointFilter{})
		var added []mayfly.EndpointStatus
		for _, e := range all {
			if e.Outside {
				added = append(added, e)
			}
		}
		return added, err
	}
	return complete(c, list, func(e mayfly.EndpointStatus) string { return e.Registered })
}

// endpointFlags are the flags of endpoint add.
type endpointFlags struct {
	client.EndpointRequest
	tags, checks   []string
	every, timeout time.Duration
	failures       int
	replace        bool
}

func (c *cli) endpointAdd() *cobra.Command {
	var f endpointFlags
	cmd := &cobra.Command{
		Use:   "add [flags] NAME ADDRESS:PORT",
		Short: "Add something that Mayfly does not run, such as a database",
		Long: `Add something that Mayfly does not run, such as a database, so that services can
require it by its name, its role and its tags as they require each other.

Its endpoint is there while all its checks are well, and with --ttl only as long
as "endpoint heartbeat" is heard so often. Without either it is always there.

A check is tcp, http:/path, grpc, grpc:SERVICE or exec:COMMAND, each with
:PORT after its kind where that is another one, as in http:8080:/health. A command
runs on the node, by a shell, with ENDPOINT_ADDRESS and ENDPOINT_PORT.`,
		Example: `  mayfly endpoint add crm 192.0.2.7:3306 --protocol mysql --role primary --check tcp
  mayfly endpoint add search 192.0.2.8:9200 --protocol http --check http:/_cluster/health --every 10s
  mayfly endpoint add ledger db.example.com:5432 --tag region=eu --check 'exec:pg_isready -h $ENDPOINT_ADDRESS'
  mayfly endpoint add sensor 192.0.2.9:7000 --ttl 30s`,
		Args: exactly("name", "address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(args); err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			add := cl.AddEndpoint
			if f.replace {
				add = cl.PutEndpoint
			}
			if ip := net.ParseIP(f.Address); f.Address == "localhost" || ip != nil && ip.IsLoopback() {
				fmt.Fprintf(c.stderr, "mayfly: in a container %s is the container itself; name an address of the machine that containers reach\n", f.Address)
			}
			_, err = add(cmd.Context(), f.EndpointRequest)
			return c.said(f.Name, err)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.Protocol, "protocol", "", "what a URL of it begins with, such as mysql (default tcp)")
	fs.StringVar(&f.Service, "service", "", "what others require (default the name)")
	fs.StringVar(&f.PortName, "port-name", "", "what others may call the port (default the protocol)")
	fs.StringVar(&f.Role, "role", "", "what it is to others, such as primary")
	fs.StringArrayVar(&f.tags, "tag", nil, "KEY=VALUE; again for more")
	fs.StringArrayVar(&f.checks, "check", nil, "tcp, http:/path, grpc[:SERVICE] or exec:COMMAND; again for more")
	fs.DurationVar(&f.every, "every", 0, "how often the checks are asked (default 5s)")
	fs.DurationVar(&f.timeout, "timeout", 0, "how long one answer may take (default 3s)")
	fs.IntVar(&f.failures, "failures", 0, "how often in a row a check must fail (default 3)")
	fs.DurationVar(&f.TTL, "ttl", 0, "how often it must be heard of, such as 30s")
	fs.BoolVar(&f.replace, "replace", false, "replace the endpoint of that name, if there is one")
	return cmd
}

// parse completes the request with what has a form of its own.
func (f *endpointFlags) parse(args []string) error {
	f.Name = args[0]
	host, port, err := net.SplitHostPort(args[1])
	if err != nil || host == "" {
		return usagef("%q is not ADDRESS:PORT, such as 192.0.2.7:3306", args[1])
	}
	f.Address = host
	if f.Port, err = portNumber(port); err != nil {
		return usagef("%s", err)
	}
	for _, tag := range f.tags {
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" {
			return usagef("--tag %q is not KEY=VALUE", tag)
		}
		if f.Tags == nil {
			f.Tags = map[string]string{}
		}
		f.Tags[key] = value
	}
	for _, text := range f.checks {
		p, err := parseCheck(text)
		if err != nil {
			return err
		}
		p.Every, p.Timeout, p.Failures = f.every, f.timeout, f.failures
		f.Checks = append(f.Checks, p)
	}
	if len(f.checks) == 0 && (f.every != 0 || f.timeout != 0 || f.failures != 0) {
		return usagef("--every, --timeout and --failures are about checks, and there is none")
	}
	return nil
}

// parseCheck reads KIND[:PORT][:REST].
func parseCheck(text string) (p mayfly.Probe, err error) {
	kind, rest, _ := strings.Cut(text, ":")
	if kind == "exec" {
		if rest == "" {
			return p, usagef("--check %q lacks its command", text)
		}
		return mayfly.Probe{Exec: []string{"sh", "-c", rest}}, nil
	}
	var port uint16
	if first, after, _ := strings.Cut(rest, ":"); first != "" && strings.Trim(first, "0123456789") == "" {
		if port, err = portNumber(first); err != nil {
			return p, usagef("%s", err)
		}
		rest = after
	}
	switch {
	case kind == "tcp" && rest == "":
		p.TCP = &mayfly.TCPProbe{Port: port}
	case kind == "http" && (rest == "" || rest[0] == '/'):
		if rest == "" {
			rest = "/"
		}
		p.HTTP = &mayfly.HTTPProbe{Path: rest, Port: port}
	case kind == "grpc":
		p.GRPC = &mayfly.GRPCProbe{Port: port, Service: rest}
	default:
		return p, usagef("--check %q is none of tcp, http:/path, grpc[:SERVICE] and exec:COMMAND", text)
	}
	return p, nil
}

func (c *cli) endpointList() *cobra.Command {
	var f client.EndpointFilter
	cmd := &cobra.Command{
		Use:   "ls [flags] [SERVICE]",
		Short: "List endpoints: those that are there, and what was added and is not well",
		Example: `  mayfly endpoint ls
  mayfly endpoint ls db -o json`,
		Args:              atMost(1),
		ValidArgsFunction: c.completeWorkloads(),
	}
	cmd.Flags().StringVar(&f.Role, "role", "", "only those of this role")
	get := func(ctx context.Context, cl *client.Client, args []string) ([]mayfly.EndpointStatus, error) {
		if len(args) > 0 {
			f.Service = args[0]
		}
		return cl.ListEndpoints(ctx, f)
	}
	header := headings("SERVICE", "PORT", "ADDRESS", "ROLE", "OF", "SINCE", "STATE").sparing("SINCE", "ROLE", "OF")
	return listing(c, cmd, get, header, func(e mayfly.EndpointStatus) []string {
		address, state := e.Address, "ready"
		if e.Port != 0 {
			address = net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
		}
		if !e.Ready {
			state = "away: " + e.Reason
		}
		return []string{e.Service, e.Name, address, e.Role, endpointOwner(&e), ago(e.Since), state}
	})
}

// endpointOwner is who has an endpoint.
func endpointOwner(e *mayfly.EndpointStatus) string {
	switch {
	case e.Outside:
		return "outside"
	case e.Replica > 0:
		return fmt.Sprintf("%s/%d", e.Service, e.Replica)
	}
	return e.Instance
}

func (c *cli) endpointRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Short:             "Take away what was added; what it stands for goes on",
		Example:           `  mayfly endpoint rm crm`,
		Args:              atLeast("name"),
		ValidArgsFunction: c.completeEndpoints(),
		RunE:              c.toEach(func(ctx context.Context, cl *client.Client, name string) error { return cl.RemoveEndpoint(ctx, name) }),
	}
}

func (c *cli) endpointHeartbeat() *cobra.Command {
	return &cobra.Command{
		Use:               "heartbeat NAME...",
		Short:             "Say that what was added with a TTL is there",
		Example:           `  while sleep 10; do mayfly endpoint heartbeat sensor; done`,
		Args:              atLeast("name"),
		ValidArgsFunction: c.completeEndpoints(),
		RunE:              c.toEach(func(ctx context.Context, cl *client.Client, name string) error { return cl.Heartbeat(ctx, name) }),
	}
}
