package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) forward() *cobra.Command {
	return &cobra.Command{
		Use:   "forward [ADDRESS:]PORT:SERVICE[/PORTNAME]...",
		Short: "Listen here, and lead connections to a service",
		Long: `Listen on a port of this machine, and lead each connection to an endpoint of a
service, through the daemon. A connection goes to where the service is at that
time; one that is open stays where it is. It listens on 127.0.0.1, or on ADDRESS;
port 0 is any that is free. Where a service provides several ports, PORTNAME says
which.`,
		Example: `  mayfly forward 3306:db
  mayfly forward 8080:web/http 127.0.0.1:0:db`,
		Args:              atLeast("service"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			var all []*forwarding
			defer func() {
				for _, f := range all {
					f.listener.Close()
				}
			}()
			for _, arg := range args {
				f, err := c.openForwarding(cl, arg)
				if err != nil {
					return err
				}
				all = append(all, f)
			}
			return runForwardings(ctx, all)
		}),
	}
}

// forwarding is one port that leads to a service.
type forwarding struct {
	client   *client.Client
	to       client.EndpointFilter
	name     string // of the service and its port
	listener net.Listener

	mu  sync.Mutex
	out io.Writer
	err io.Writer
}

func (c *cli) openForwarding(cl *client.Client, text string) (*forwarding, error) {
	address, to, err := parseForward(text)
	if err != nil {
		return nil, err
	}
	f := &forwarding{client: cl, to: to, name: to.Service, out: c.stdout, err: c.stderr}
	if to.Port != "" {
		f.name += "/" + to.Port
	}
	if f.listener, err = net.Listen("tcp", address); err != nil {
		return nil, mayfly.Errorf(mayfly.Conflict, "listen: %w", err).WithHint("choose another port")
	}
	return f, nil
}

// parseForward reads [ADDRESS:]PORT:SERVICE[/PORTNAME].
func parseForward(text string) (address string, to client.EndpointFilter, err error) {
	wrong := usagef("%q is not [ADDRESS:]PORT:SERVICE[/PORTNAME], such as 3306:db", text)
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", to, wrong
	}
	here, service := text[:i], text[i+1:]
	to.Service, to.Port, _ = strings.Cut(service, "/")
	host, port := "127.0.0.1", here
	if strings.Contains(here, ":") {
		if host, port, err = net.SplitHostPort(here); err != nil || host == "" {
			return "", to, wrong
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || to.Service == "" {
		return "", to, wrong
	}
	return net.JoinHostPort(host, port), to, nil
}

// runForwardings serves until the first fails or ctx ends.
func runForwardings(ctx context.Context, all []*forwarding) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2*len(all))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, f := range all {
		running.Go(func() { ended <- f.follow(ctx) })
		running.Go(func() { ended <- f.serve(ctx) })
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// retryTime is how long a daemon that is away is left alone.
const retryTime = time.Second

// follow says where connections lead, whenever that changes.
func (f *forwarding) follow(ctx context.Context) error {
	said := ""
	say := func(where string) {
		if where != said {
			said = where
			f.say(f.out, "%s -> %s (%s)", f.listener.Addr(), f.name, where)
		}
	}
	for {
		err := f.client.WatchEndpoints(ctx, f.to, func(set client.EndpointSet) error {
			var list []string
			for _, e := range set.Endpoints {
				if e.Port != 0 && e.Protocol != "udp" {
					list = append(list, net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port))))
				}
			}
			slices.Sort(list)
			if len(list) == 0 {
				list = []string{"no endpoint just now"}
			}
			say(strings.Join(list, ", "))
			return nil
		})
		if kind := mayfly.KindOf(err); ctx.Err() != nil || kind == mayfly.Invalid || kind == mayfly.Denied {
			return err
		}
		if said == "" {
			return err // it was never there
		}
		select { // it may be starting again
		case <-time.After(retryTime):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve leads each connection to the service.
func (f *forwarding) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { f.listener.Close() })()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return err
		}
		running.Go(func() {
			defer conn.Close()
			if err := f.lead(ctx, conn); err != nil && ctx.Err() == nil {
				f.say(f.err, "mayfly: %s: %s", f.name, err)
			}
		})
	}
}

// lead passes a connection on until both sides have ended it.
func (f *forwarding) lead(ctx context.Context, conn net.Conn) error {
	to, _, err := f.client.Forward(ctx, f.to)
	if err != nil {
		return err
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() {
		conn.Close()
		to.Close()
	})()
	var ways sync.WaitGroup
	ways.Go(func() { passHalf(to, conn) })
	ways.Go(func() { passHalf(conn, to) })
	ways.Wait()
	return nil
}

// passHalf copies one direction, and ends it; where that is not possible, both.
func passHalf(to, from io.ReadWriteCloser) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		return
	}
	if !errors.Is(err, net.ErrClosed) {
		from.Close()
	}
	to.Close()
}

func (f *forwarding) say(w io.Writer, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(w, format+"\n", args...)
}
