package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
)

// StepRow is what became of requests that began all at once, from none, and went
// on: each client asks as soon as it was answered. A program takes 50 ms for each.
type StepRow struct {
	What      string  `json:"what"` // "function" or "service"
	Clients   int     `json:"clients"`
	Instances int     `json:"instances"` // the most that there may be
	Requests  int     `json:"requests"`
	Errors    int     `json:"errors"`
	All       float64 `json:"allSeconds"`    // until all instances were there; 0: never
	Steady    float64 `json:"steadySeconds"` // until no later second's p99 is over 1.5 times the last one's
	P99       float64 `json:"p99ms"`         // of the last second
}

// WakeRow is how long a program takes that begins with its first request.
type WakeRow struct {
	What string  `json:"what"`
	Runs int     `json:"runs"`
	P50  float64 `json:"p50ms"`
	P99  float64 `json:"p99ms"`
}

// What they are called in the results.
const (
	wakeOwn      = "the program alone, on the machine"
	wakeFunction = "function"
	wakeService  = "service"
)

// ScaleRows are the results of the part scale.
type ScaleRows struct {
	Wake []WakeRow `json:"wake"`
	Step []StepRow `json:"step"`
}

// web is a program that answers at /, and at /cgi-bin/slow after 50 ms.
func web(name string, s mayfly.Scale) mayfly.Workload {
	script := "mkdir -p /tmp/w/cgi-bin && cd /tmp/w && echo " + answer + ` > index.html && printf '#!/bin/busybox sh\necho; /bin/busybox sleep 0.05; echo ` + answer +
		`\n' > cgi-bin/slow && /bin/busybox chmod +x cgi-bin/slow && exec /bin/httpd -f -p $PORT -h /tmp/w`
	w := static(name)
	w.Protocol, w.Isolation, w.Scale = mayfly.HTTP, mayfly.IsolationInstance, s
	w.Command = []string{"/bin/sh", "-c", "/bin/busybox " + script}
	return w
}

// service is the same as a service.
func service(name string, s mayfly.Scale) mayfly.Workload {
	w := web(name, s)
	w.Protocol, w.Isolation, w.Service = "", "", &mayfly.Service{}
	w.Env = map[string]string{"PORT": "8080"}
	w.Provides = []mayfly.Provide{{Name: "http", Port: 8080, Protocol: "http"}}
	return w
}

// scale times first requests of what sleeps, and has many clients begin at once.
func (b *bench) scale(ctx context.Context) error {
	d, err := b.upStatic(ctx, "scale")
	if err != nil {
		return err
	}
	rows := &ScaleRows{}
	b.results.Scale = rows
	short := mayfly.Scale{None: true, Max: 1, Idle: time.Millisecond}
	awake := service("wake-service", short)
	awake.Command = []string{"/bin/httpd", "-f", "-p", "8080", "-h", "/www"}
	waking := web("wake-function", mayfly.Scale{Max: 1, Idle: time.Millisecond})
	waking.Command = []string{"/bin/sh", "-c", "exec /bin/httpd -f -p $PORT -h /www"}
	many := pick(b, 50, 4)
	all := mayfly.Scale{None: true, Max: many, Concurrency: 2}
	for _, w := range []mayfly.Workload{awake, waking, service("step-service", all), web("step-function", mayfly.Scale{Max: many, Concurrency: 2})} {
		w.Routes = []mayfly.Route{{Path: "/" + w.Name, Strip: true}}
		w.Memory, w.Pids = memoryLimit, pidsLimit
		if _, err := d.api.Deploy(ctx, w, mayfly.NewID(), nil); err != nil {
			return fmt.Errorf("deploy %s: %w", w.Name, err)
		}
	}
	if err := b.wakes(ctx, d, rows); err != nil {
		return err
	}
	for _, what := range []string{wakeFunction, wakeService} {
		row, err := d.step(ctx, what, many, pick(b, 20*time.Second, 2*time.Second))
		if err != nil {
			return err
		}
		rows.Step = append(rows.Step, row)
	}
	return d.down(ctx)
}

// wakes takes turns between the program alone, a function and a service.
func (b *bench) wakes(ctx context.Context, d *daemon, rows *ScaleRows) error {
	ways := []struct {
		what  string
		once  func(context.Context) (time.Duration, error)
		times sample
	}{
		{what: wakeOwn, once: b.startAlone},
		{what: wakeFunction, once: func(ctx context.Context) (time.Duration, error) { return d.wake(ctx, "wake-function") }},
		{what: wakeService, once: func(ctx context.Context) (time.Duration, error) { return d.wake(ctx, "wake-service") }},
	}
	warm, count := pick(b, 3, 1), pick(b, 50, 3)
	for i := range warm + count {
		for j := range ways {
			took, err := ways[j].once(ctx)
			if err != nil {
				return fmt.Errorf("wake %s: %w", ways[j].what, err)
			}
			if i >= warm {
				ways[j].times = append(ways[j].times, took)
			}
		}
	}
	for _, w := range ways {
		rows.Wake = append(rows.Wake, WakeRow{What: w.what, Runs: len(w.times), P50: ms(w.times.quantile(0.5)), P99: ms(w.times.quantile(0.99))})
	}
	return nil
}

// wake times a request to what has no instance.
func (d *daemon) wake(ctx context.Context, name string) (time.Duration, error) {
	for {
		l, err := d.api.Load(ctx, name)
		if err != nil {
			return 0, err
		}
		if l.Instances+l.Starting+l.Wanted == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := d.settle(ctx); err != nil {
		return 0, err
	}
	begun := time.Now()
	err := d.call(ctx, name+"/static-reused") // the file that there is
	return time.Since(begun), err
}

// startAlone times the same program from its start until it has answered.
func (b *bench) startAlone(ctx context.Context) (time.Duration, error) {
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, b.material.static+"/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:"+strconv.Itoa(port), "-h", b.material.static+"/www")
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for { // its port is not open yet
		conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			conn.Close()
			break
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		time.Sleep(100 * time.Microsecond)
	}
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/static-reused")
	took := time.Since(begun)
	if err == nil {
		resp.Body.Close()
	}
	return took, err
}

// step has as many clients begin at once as all instances together serve.
func (d *daemon) step(ctx context.Context, what string, instances int, long time.Duration) (StepRow, error) {
	name := "step-" + what
	row := StepRow{What: what, Clients: 2 * instances, Instances: instances}
	seconds := make([]sample, int(long.Seconds())+1)
	var mu sync.Mutex
	var group sync.WaitGroup
	begun := time.Now()
	for range row.Clients {
		group.Go(func() {
			for time.Since(begun) < long && ctx.Err() == nil {
				at := time.Now()
				r, err := d.request(ctx, "/"+name+"/cgi-bin/slow")
				mu.Lock()
				row.Requests++
				if err != nil || r.status != http.StatusOK {
					row.Errors++
				}
				second := min(int(time.Since(begun).Seconds()), len(seconds)-1)
				seconds[second] = append(seconds[second], time.Since(at))
				mu.Unlock()
			}
		})
	}
	for time.Since(begun) < long && row.All == 0 {
		l, err := d.api.Load(ctx, name)
		if err != nil {
			return row, err
		}
		if l.Instances == instances {
			row.All = time.Since(begun).Seconds()
		}
		time.Sleep(10 * time.Millisecond)
	}
	group.Wait()
	last := len(seconds) - 2 // the one after it is not whole
	steady := ms(seconds[last].quantile(0.99))
	row.P99 = steady
	for i := last; i >= 0 && len(seconds[i]) > 0 && ms(seconds[i].quantile(0.99)) <= 1.5*steady; i-- {
		row.Steady = float64(i)
	}
	return row, nil
}

// judgeScale holds the part scale against its goals.
func (r *Results) judgeScale() {
	if r.Scale == nil {
		return
	}
	alone := 0.0
	for _, w := range r.Scale.Wake {
		if w.What == wakeOwn {
			alone = w.P50
			continue
		}
		r.atMost("waking a "+w.What+" of a static program, p50: its own start and 30 ms", w.P50, alone+30, "ms")
	}
	for _, s := range r.Scale.Step {
		r.atMost(fmt.Sprintf("0 to %d instances of a %s at a step: errors", s.Instances, s.What), float64(s.Errors), 0, "requests")
	}
}

// scaleTable is the part's for people.
func (r *Results) scaleTable(t io.Writer) {
	if r.Scale == nil {
		return
	}
	rows(t, "from none to the first answer\tp50 ms\tp99 ms\truns\t", r.Scale.Wake, func(w WakeRow) string {
		return fmt.Sprintf("%s\t%.1f\t%.1f\t%d\t", w.What, w.P50, w.P99, w.Runs)
	})
	rows(t, "clients that begin at once\tinstances\trequests\terrors\tall instances s\tp99 steady s\tp99 ms\t", r.Scale.Step, func(s StepRow) string {
		return fmt.Sprintf("%d, %s\t%d\t%d\t%d\t%.1f\t%.0f\t%.0f\t", s.Clients, s.What, s.Instances, s.Requests, s.Errors, s.All, s.Steady, s.P99)
	})
}
