package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// RouteRow is how requests come through to one program that answers at once, over
// kept connections.
type RouteRow struct {
	What      string  `json:"what"`
	Clients   int     `json:"clients"`
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50ms"`
	P99       float64 `json:"p99ms"`
	CPU       float64 `json:"cpuUs"` // of what is between client and program, for each request
	Failed    int     `json:"failed"`
}

// TableRow is one client's request by one of so many routes.
type TableRow struct {
	Routes   int     `json:"routes"`
	Requests int     `json:"requests"`
	P50      float64 `json:"p50us"`
	P99      float64 `json:"p99us"`
}

const (
	routeClients  = 64
	routeService  = "mayfly, a service"
	routeFunction = "mayfly, a function"
	routeDirect   = "nothing between"
	routeCaddy    = "Caddy"
	routeHAProxy  = "HAProxy"
)

// way is one of the ways to the program.
type way struct {
	what    string
	address string
	path    string
	pids    []int // whose processor time it takes
	all     []RouteRow
}

// webRoutes compares routes with proxies to the same instance, in turns.
func (b *bench) webRoutes(ctx context.Context) error {
	d, err := b.up(ctx, "routes")
	if err != nil {
		return err
	}
	defer d.down(ctx)
	if err := b.importNoop(ctx, d); err != nil {
		return err
	}
	ways, err := b.ways(ctx, d)
	if err != nil {
		return err
	}
	for range pick(b, 7, 1) {
		for i := range ways {
			row, err := ways[i].load(ctx, pick(b, 3*time.Second, 100*time.Millisecond))
			if err != nil {
				return fmt.Errorf("%s: %w", ways[i].what, err)
			}
			ways[i].all = append(ways[i].all, row)
		}
	}
	for _, w := range ways {
		b.results.Routes = append(b.results.Routes, w.middle())
	}
	return b.tables(ctx, d)
}

// middle is the round whose rate is the median, with the failures of all.
func (w *way) middle() RouteRow {
	rates := make(sample, len(w.all))
	failed := 0
	for i, row := range w.all {
		rates[i] = time.Duration(row.PerSecond * 1000)
		failed += row.Failed
	}
	want := rates.quantile(0.5)
	for i, row := range w.all {
		if rates[i] == want {
			row.Failed = failed
			return row
		}
	}
	return RouteRow{What: w.what}
}

// ways has the program run as a service and as a function, and starts the proxies
// that are installed.
func (b *bench) ways(ctx context.Context, d *daemon) ([]way, error) {
	function := mayfly.Workload{
		Name: "fun", Image: noopImage, Process: mayfly.Process{Command: []string{"/noop", "serve"}},
		Protocol: mayfly.HTTP, Isolation: mayfly.IsolationInstance, Scale: mayfly.Scale{Max: 1, Concurrency: 2 * routeClients},
	}
	if err := d.deploy(ctx, function); err != nil {
		return nil, err
	}
	address, err := d.serveNoop(ctx)
	if err != nil {
		return nil, err
	}
	pid := d.cmd.Process.Pid
	ways := []way{
		{what: routeDirect, address: address, path: "/"},
		{what: routeService, address: d.http, path: "/web", pids: []int{pid}},
		{what: routeFunction, address: d.http, path: "/fun", pids: []int{pid}},
	}
	for _, start := range []func(context.Context, string) (*way, error){b.caddy, b.haproxy} {
		w, err := start(ctx, address)
		if err != nil {
			return nil, err
		}
		if w != nil {
			ways = append(ways, *w)
		}
	}
	return ways, nil
}

// serveNoop has the program run as a service at /web, and returns where its
// instance is.
func (d *daemon) serveNoop(ctx context.Context) (address string, err error) {
	w := mayfly.Workload{
		Name: "web", Image: noopImage, Process: mayfly.Process{Command: []string{"/noop", "serve"}, Env: map[string]string{"PORT": "8080"}},
		Provides: []mayfly.Provide{{Name: "http", Port: 8080, Protocol: "http"}}, Service: &mayfly.Service{},
	}
	if err := d.deploy(ctx, w); err != nil {
		return "", err
	}
	there := errors.New("there")
	err = d.api.WatchEndpoints(ctx, client.EndpointFilter{Service: "web"}, func(set client.EndpointSet) error {
		for _, e := range set.Endpoints {
			address = net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
			return there
		}
		return nil
	})
	if errors.Is(err, there) {
		err = nil
	}
	return address, err
}

func (b *bench) caddy(ctx context.Context, to string) (*way, error) {
	config := "{\n\tadmin off\n\tauto_https off\n}\nhttp://:%d {\n\tbind 127.0.0.1\n\treverse_proxy " + to + "\n}\n"
	return b.proxy(ctx, routeCaddy, "caddy", config, "run", "--adapter", "caddyfile", "--config")
}

func (b *bench) haproxy(ctx context.Context, to string) (*way, error) {
	config := "defaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 60s\n\ttimeout server 60s\n" +
		"frontend in\n\tbind 127.0.0.1:%d\n\tdefault_backend out\nbackend out\n\thttp-reuse always\n\tserver one " + to + "\n"
	return b.proxy(ctx, routeHAProxy, "haproxy", config, "-db", "-f")
}

// proxy starts a proxy; nil where it is not installed.
func (b *bench) proxy(ctx context.Context, what, program, config string, args ...string) (*way, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		b.say("%s is not installed", program)
		return nil, nil
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, program+".conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, port), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, append(args, file)...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.onClose(func() { cmd.Process.Kill(); cmd.Wait() })
	w := &way{what: what, address: "127.0.0.1:" + strconv.Itoa(port), path: "/", pids: []int{cmd.Process.Pid}}
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) { // nothing tells when it listens
		conn, err := net.Dial("tcp", w.address)
		if err == nil {
			return w, conn.Close()
		}
		if time.Now().After(limit) || ctx.Err() != nil {
			return nil, fmt.Errorf("start %s: %w", program, err)
		}
	}
}

// load has clients ask for so long, each the next question when it has the answer.
func (w *way) load(ctx context.Context, long time.Duration) (RouteRow, error) {
	row := RouteRow{What: w.what, Clients: routeClients}
	before := w.cpu()
	var all sync.WaitGroup
	var mu sync.Mutex
	var took sample
	begun := time.Now()
	end := begun.Add(long)
	for range routeClients {
		all.Go(func() {
			own, failed := w.ask(ctx, w.path, func(n int) bool { return n == 0 || time.Now().Before(end) })
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			row.Failed += failed
		})
	}
	all.Wait()
	if len(took) == 0 {
		return row, errors.New("nothing was answered")
	}
	row.PerSecond = round1(float64(len(took)) / time.Since(begun).Seconds())
	row.P50, row.P99 = ms(took.quantile(0.5)), ms(took.quantile(0.99))
	row.CPU = round1(float64((w.cpu() - before).Nanoseconds()) / 1000 / float64(len(took)))
	return row, nil
}

func (w *way) cpu() (sum time.Duration) {
	for _, pid := range w.pids {
		used, _ := cpuOf(pid)
		sum += used
	}
	return sum
}

// ask asks over one connection while more says so. It reads no more of an answer
// than that its head has come: the program's have no body.
func (w *way) ask(ctx context.Context, path string, more func(n int) bool) (took sample, failed int) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.address)
	if err != nil {
		return nil, 1
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	request := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	br := bufio.NewReader(conn)
	for n := 0; more(n); n++ {
		begun := time.Now()
		if _, err := io.WriteString(conn, request); err != nil {
			return took, failed + 1
		}
		for first := true; ; first = false {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return took, failed + 1
			}
			if first && !strings.HasPrefix(string(line), "HTTP/1.1 200") {
				return took, failed + 1
			}
			if len(line) == 2 {
				break
			}
		}
		took = append(took, time.Since(begun))
	}
	return took, failed
}

// tables compares a table of few routes with one of many, each of a daemon of its
// own, in turns.
func (b *bench) tables(ctx context.Context, few *daemon) error {
	many, err := b.up(ctx, "manyroutes")
	if err != nil {
		return err
	}
	defer many.down(ctx)
	if err := b.importNoop(ctx, many); err != nil {
		return err
	}
	if _, err := many.serveNoop(ctx); err != nil {
		return err
	}
	most := pick(b, 10_000, 100)
	rows := []TableRow{{Routes: 10}, {Routes: most}}
	took := make([]sample, len(rows))
	for i, d := range []*daemon{few, many} {
		for n := range rows[i].Routes {
			r := mayfly.Route{Host: fmt.Sprintf("h%d.test", n%1000), Path: fmt.Sprintf("/api/v%d", n)}
			if n == 0 {
				r = mayfly.Route{Path: "/asked"}
			}
			if _, err := d.api.MapRoute(ctx, "web", r); err != nil {
				return err
			}
		}
	}
	for range pick(b, 40, 1) {
		for i, d := range []*daemon{few, many} {
			w := way{address: d.http}
			own, failed := w.ask(ctx, "/asked", func(n int) bool { return n < 250 })
			if failed > 0 {
				return errors.New("a request by one of many routes failed")
			}
			took[i] = append(took[i], own...)
		}
	}
	for i := range rows {
		rows[i].Requests = len(took[i])
		rows[i].P50, rows[i].P99 = 1000*ms(took[i].quantile(0.5)), 1000*ms(took[i].quantile(0.99))
	}
	b.results.Tables = rows
	return nil
}

func (r *Results) route(what string) *RouteRow {
	for i := range r.Routes {
		if r.Routes[i].What == what {
			return &r.Routes[i]
		}
	}
	return nil
}

func (r *Results) judgeRoutes() {
	caddy := r.route(routeCaddy)
	for _, what := range []string{routeService, routeFunction} {
		if own := r.route(what); own != nil && caddy != nil {
			r.atLeast(what+", 64 clients: 1.5 times Caddy's requests per second", own.PerSecond, 1.5*caddy.PerSecond, "/s")
			r.atMost(what+", 64 clients: Caddy's p99", own.P99, caddy.P99, "ms")
		}
	}
	if len(r.Tables) == 2 {
		r.atMost(fmt.Sprintf("p50 with %d routes: 5 %% above that with %d", r.Tables[1].Routes, r.Tables[0].Routes), r.Tables[1].P50, 1.05*r.Tables[0].P50, "µs")
	}
}

// routeTables writes what was measured about routes.
func (r *Results) routeTables(t io.Writer) {
	rows(t, "to one program, 64 clients\t/s\tp50 ms\tp99 ms\tCPU µs each\tfailed\t", r.Routes, func(l RouteRow) string {
		return fmt.Sprintf("%s\t%.0f\t%.2f\t%.2f\t%.1f\t%d\t", l.What, l.PerSecond, l.P50, l.P99, l.CPU, l.Failed)
	})
	rows(t, "routes, one client\tp50 µs\tp99 µs\trequests\t", r.Tables, func(l TableRow) string {
		return fmt.Sprintf("%d\t%.0f\t%.0f\t%d\t", l.Routes, l.P50, l.P99, l.Requests)
	})
}
