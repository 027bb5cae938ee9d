package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/discovery"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

const (
	defaultData = "/var/lib/mayfly"
	defaultHTTP = "127.0.0.1:8080"
)

// upFlags are the flags of up.
type upFlags struct {
	data, driver, node, logLevel string
	http, lines                  string
	api, allowBind               []string
	waiting, tasks               int
	maxPayload                   string // as on the command line
	payload                      int64  // the same in bytes; 0 for the default
	keepAge                      time.Duration
	keepTasks                    int64
	labels                       map[string]string // of the node
	buildMemory                  string            // as on the command line
	buildTime                    time.Duration
	trustProxy                   []string
	proxies                      []netip.Prefix // the same, read
	accessLog                    string
	subnetText                   string // as on the command line
	subnet                       netip.Prefix
}

func (c *cli) up() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up [flags]",
		Short: "Run a node in the foreground",
		Long: `Run a node in the foreground. On SIGTERM or Ctrl-C it ends the calls that are
under way and leaves other containers running; the next start adopts them.
mayfly down stops them too.`,
		Example: `  mayfly up
  mayfly up --data /srv/mayfly --http 127.0.0.1:80 --driver crun`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(c.stderr, f.logLevel)
			if err != nil {
				return err
			}
			return runNode(cmd.Context(), f, log, c.stdout)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.data, "data", defaultData, "the data directory")
	fs.StringVar(&f.http, "http", defaultHTTP, "where functions are served, host:port; empty for nowhere")
	fs.StringArrayVar(&f.trustProxy, "trust-proxy", nil, "an address or network of proxies whose X-Forwarded-* and Forwarded are believed, such as 10.0.0.0/8; again for more")
	fs.StringVar(&f.accessLog, "access-log", "", "a file that gets a line of JSON for each web request, or - for standard output; SIGHUP opens it anew")
	fs.StringVar(&f.lines, "lines", "", "where programs that are not Mayfly's register endpoints and subscribe, host:port (default nowhere)")
	fs.StringArrayVar(&f.api, "api", []string{client.DefaultHost}, "where the API is served: unix:///path, or http:// and a loopback address; again for more")
	fs.StringVar(&f.driver, "driver", "", "how containers are made: native, crun, runc or another OCI runtime")
	fs.IntVar(&f.waiting, "waiting", 0, "most sandboxes of one function that wait for calls (default 32, -1 for none)")
	fs.IntVar(&f.tasks, "tasks", 0, "most tasks that run at once on this node (default 8 for each core, at least 16)")
	fs.StringVar(&f.maxPayload, "max-payload", "", "largest payload of a task, such as 64m or 1g (default 256m)")
	fs.DurationVar(&f.keepAge, "keep-age", 0, "how long tasks that have ended are kept (default 168h)")
	fs.Int64Var(&f.keepTasks, "keep-tasks", 0, "how many tasks that have ended are kept (default 500000)")
	fs.StringArrayVar(&f.allowBind, "allow-bind", nil, "a directory of this machine whose contents may be volumes (provider bind); again for more")
	fs.StringVar(&f.buildMemory, "build-memory", "", "what one build of code may use, its files included, such as 1g (default 2g, at most half of the machine's)")
	fs.DurationVar(&f.buildTime, "build-time", 0, "how long one build of code may take (default 10m)")
	fs.StringVar(&f.subnetText, "subnet", "", "where containers get their addresses from, such as 10.77.0.0/16 (default a private one that is free)")
	fs.StringVar(&f.node, "node", "", "name of this node (default the host's name)")
	fs.StringToStringVar(&f.labels, "label", nil, "a label of this node, such as zone=a; again for more")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// check refuses what cannot be served before anything is made.
func (f *upFlags) check() (err error) {
	if f.maxPayload != "" {
		if f.payload, err = parseSize(f.maxPayload); err != nil || f.payload < 1 {
			return usagef("--max-payload %q is not a size, such as 64m", f.maxPayload)
		}
	}
	if f.buildMemory != "" {
		if n, err := parseSize(f.buildMemory); err != nil || n < 64<<20 {
			return usagef("--build-memory %q is not a size of at least 64m", f.buildMemory)
		}
	}
	for _, text := range f.trustProxy {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); err != nil && aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return usagef("--trust-proxy %q is neither an address nor a network, such as 10.0.0.0/8", text)
		}
		f.proxies = append(f.proxies, p.Masked())
	}
	if f.subnetText != "" {
		if f.subnet, err = netip.ParsePrefix(f.subnetText); err != nil || !f.subnet.Addr().Is4() || f.subnet.Bits() < 8 || f.subnet.Bits() > 28 {
			return usagef("--subnet %q is not a range of IPv4 addresses between /8 and /28, such as 10.77.0.0/16", f.subnetText)
		}
	}
	if f.buildTime < 0 {
		return usagef("--build-time %s is negative", f.buildTime)
	}
	for _, address := range []string{f.http, f.lines} {
		if address == "" {
			continue
		}
		if err := api.CheckLoopback(address); err != nil {
			return err
		}
	}
	for _, address := range f.api {
		if err := api.CheckAddress(address); err != nil {
			return err
		}
	}
	return nil
}

func newLog(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level is debug, info, warn or error, not %q", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// node is what openNode opens and runNode runs.
type node struct {
	services  api.Services
	door      *api.Door                     // of programs in containers
	routes    http.Handler                  // for --http; nil serves nothing there
	endpoints *discovery.Discovery          // for --lines
	driver    string                        // the one that was chosen
	name      string                        // of the node
	url       string                        // where routes are served; empty: nowhere
	loops     []func(context.Context) error // what the services need; they end after them
	closers   []func() error
}

func (n *node) onClose(f func() error) { n.closers = append(n.closers, f) }

// close closes everything, the last that was opened first. Every loop has
// ended.
func (n *node) close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i]())
	}
	return errors.Join(errs...)
}

// runNode opens a node, serves it, and closes it when ctx ends, when it is
// told to go down or when a part of it fails.
func runNode(ctx context.Context, f upFlags, log *slog.Logger, ready io.Writer) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	n, err := openNode(ctx, f, log)
	if err != nil {
		return err
	}
	var web net.Listener
	if f.http != "" && n.routes != nil {
		if web, err = listenHTTP(f.http); err != nil {
			return errors.Join(err, n.close())
		}
		n.url = "http://" + web.Addr().String()
	}
	server, err := api.Open(f.api, n.services, api.Options{Log: log, Version: version, Node: n.name, Driver: n.driver, URL: n.url, Stop: stop})
	if err != nil {
		if web != nil {
			web.Close()
		}
		return errors.Join(err, n.close())
	}
	n.door.Lead(server)
	defer func() {
		err = errors.Join(err, n.close())
		server.Close() // whoever waits for the node's end sees it when nothing is left
	}()
	loops := []func(context.Context) error{server.Run}
	if web != nil {
		log.Info("serving routes", "address", n.url)
		loops = append(loops, serveHTTP(web, n.routes, log))
	}
	if f.lines != "" {
		l, err := listenLines(f.lines)
		if err != nil {
			return err
		}
		log.Info("serving the line protocol", "address", l.Addr())
		loops = append(loops, serveLines(l, n.endpoints))
	}
	for _, address := range server.Addresses() {
		log.Info("serving the API", "address", address)
	}
	fmt.Fprintln(ready, "ready") // for whoever started us
	return runUnder(ctx, loops, n.loops)
}

// runUnder runs upper loops and the lower ones that they need: the lower ones
// are told to end only when the upper ones have returned. The end of any loop
// ends all.
func runUnder(ctx context.Context, upper, lower []func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	below, stopBelow := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBelow()
	ended := make(chan error, 1)
	go func() {
		defer stop()
		ended <- runAll(below, lower...)
	}()
	err := runAll(ctx, upper...)
	stopBelow()
	return errors.Join(err, <-ended)
}

// runAll runs every loop until all have returned. The first that fails ends
// the others; the end of ctx ends them all and is no failure.
func runAll(ctx context.Context, loops ...func(context.Context) error) error {
	group, inner := errgroup.WithContext(ctx)
	for _, loop := range loops {
		group.Go(func() error {
			err := loop(inner)
			if errors.Is(err, context.Canceled) && inner.Err() != nil {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

func listenHTTP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Conflict, "serve functions: %w", err).WithHint("choose another address with --http")
	}
	return l, nil
}

// serveHTTP returns the loop that serves functions. What is under way when the
// end comes is ended: its containers go with it.
func serveHTTP(l net.Listener, handler http.Handler, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		base, end := context.WithCancelCause(context.WithoutCancel(ctx))
		defer end(nil)
		srv := &http.Server{
			Handler:           handler,
			Protocols:         new(http.Protocols),
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			BaseContext:       func(net.Listener) context.Context { return base },
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		select {
		case err := <-served:
			return fmt.Errorf("serve functions: %w", err)
		case <-ctx.Done():
			end(mayfly.Errorf(mayfly.Unavailable, "the daemon is stopping"))
		}
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err := srv.Shutdown(limit)
		if err != nil {
			err = srv.Close()
		}
		<-served
		return err
	}
}

func (c *cli) down() *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "Stop every container of the node, then the daemon",
		Example: `  mayfly down`,
		Args:    atMost(0),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, _ []string) error {
			view := c.progress()
			defer view.done()
			return cl.Down(ctx, view.report)
		}),
	}
}
