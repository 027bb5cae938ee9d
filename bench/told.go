package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// ToldRow is how long consumers wait for the news of one provider.
type ToldRow struct {
	What      string  `json:"what"`
	Consumers int     `json:"consumers"`
	Times     int     `json:"times"`
	FirstP50  float64 `json:"firstP50ms"` // until the first was told
	LastP50   float64 `json:"lastP50ms"`  // until the last was told
	LastP99   float64 `json:"lastP99ms"`
}

// What is measured of news.
const (
	toldCrash = "crash of a provider, until consumers are told"
	toldReady = "provider takes connections, until consumers are told"
	consumers = 100
)

// told measures how long it takes until the last of many consumers has been sent
// its signal, its files being replaced.
func (b *bench) told(ctx context.Context) error {
	ear, err := listen()
	if err != nil {
		return err
	}
	defer ear.close()
	d, err := b.serviceDaemon(ctx)
	if err != nil {
		return err
	}
	many := pick(b, consumers, 3)
	if err := d.serveDB(ctx, ear.address); err != nil {
		return err
	}
	if err := d.serveConsumers(ctx, ear.address, many); err != nil {
		return err
	}
	crash, ready := newNews(toldCrash, many), newNews(toldReady, many)
	if err := d.crashes(ctx, ear, many, pick(b, 100, 2), crash, ready); err != nil {
		return err
	}
	b.results.Told = append(b.results.Told, crash.row(), ready.row())
	return errors.Join(d.api.DeleteWorkload(ctx, "web"), d.api.DeleteWorkload(ctx, "db"))
}

// crashes kills the provider again and again.
func (d *daemon) crashes(ctx context.Context, ear *ear, many, times int, crash, ready *news) error {
	if err := ear.quiet(ctx, time.Second); err != nil {
		return err
	}
	for i := range times {
		if i%3 == 0 && i > 0 { // a fourth crash in a row would wait before it starts again
			if err := d.renewDB(ctx, ear, many); err != nil {
				return err
			}
		}
		if err := d.crashOnce(ctx, ear, many, crash, ready); err != nil {
			return fmt.Errorf("crash %d: %w", i+1, err)
		}
	}
	return nil
}

// news collects how long the first and the last were waiting, again and again.
type news struct {
	what        string
	consumers   int
	first, last sample
}

func newNews(what string, consumers int) *news { return &news{what: what, consumers: consumers} }

func (n *news) add(since time.Time, at []time.Time) {
	first, last := at[0], at[0]
	for _, t := range at {
		if t.Before(first) {
			first = t
		}
		if t.After(last) {
			last = t
		}
	}
	n.first, n.last = append(n.first, first.Sub(since)), append(n.last, last.Sub(since))
}

func (n *news) row() ToldRow {
	return ToldRow{
		What: n.what, Consumers: n.consumers, Times: len(n.last),
		FirstP50: ms(n.first.quantile(.5)), LastP50: ms(n.last.quantile(.5)), LastP99: ms(n.last.quantile(.99)),
	}
}

// crashOnce kills the provider and waits until everybody knows that it is gone,
// and then that another is ready.
func (d *daemon) crashOnce(ctx context.Context, ear *ear, many int, crash, ready *news) error {
	in, err := d.only(ctx, "db")
	if err != nil {
		return err
	}
	began := time.Now() // the call's own time counts, too
	if err := d.api.KillInstance(ctx, in.ID, syscall.SIGKILL); err != nil {
		return err
	}
	h := hearing{gone: map[string]time.Time{}, back: map[string]time.Time{}}
	for len(h.back) < many || len(h.gone) < many || h.listens.IsZero() {
		r, err := ear.next(ctx)
		if err != nil {
			return fmt.Errorf("%w: %d of %d know that it went, %d that it is back", err, len(h.gone), many, len(h.back))
		}
		h.take(r)
	}
	crash.add(began, values(h.gone))
	ready.add(h.listens, values(h.back))
	return nil
}

// hearing is what consumers have said of one crash.
type hearing struct {
	listens    time.Time
	gone, back map[string]time.Time
}

func (h *hearing) take(r said) {
	switch {
	case r.word == "listens":
		h.listens = r.at
	case r.known == 0:
		h.gone[r.name] = r.at
	case h.gone[r.name].IsZero(): // both changes in one: it was told of the first by the second
		h.gone[r.name], h.back[r.name] = r.at, r.at
	default:
		h.back[r.name] = r.at
	}
}

func values(m map[string]time.Time) []time.Time {
	var list []time.Time
	for _, t := range m {
		list = append(list, t)
	}
	return list
}

// renewDB has the provider replaced without a crash, which forgets those before.
func (d *daemon) renewDB(ctx context.Context, ear *ear, many int) error {
	before, err := d.only(ctx, "db")
	if err != nil {
		return err
	}
	if _, err := d.api.RestartService(ctx, "db"); err != nil {
		return err
	}
	for {
		in, err := d.only(ctx, "db")
		if err == nil && in.ID != before.ID {
			break
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if err := d.awaitReady(ctx, "db", 1); err != nil {
		return err
	}
	return ear.quiet(ctx, 300*time.Millisecond)
}

// said is what an appliance has reported.
type said struct {
	name, word string
	at         time.Time
	known      int
}

// ear is where appliances report.
type ear struct {
	conn    net.PacketConn
	address string
}

func listen() (*ear, error) {
	conn, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return nil, err
	}
	conn.(*net.UDPConn).SetReadBuffer(4 << 20)
	out, err := net.Dial("udp4", "192.0.2.1:9") // RFC 5737: only to see from where
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer out.Close()
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	return &ear{conn, net.JoinHostPort(out.LocalAddr().(*net.UDPAddr).IP.String(), port)}, nil
}

func (e *ear) close() { e.conn.Close() }

// next is the next report. It fails after a minute of silence.
func (e *ear) next(ctx context.Context) (said, error) { return e.within(ctx, time.Minute) }

func (e *ear) within(ctx context.Context, limit time.Duration) (r said, err error) {
	defer context.AfterFunc(ctx, func() { e.conn.SetReadDeadline(time.Unix(1, 0)) })()
	e.conn.SetReadDeadline(time.Now().Add(limit))
	var buf [512]byte
	n, _, err := e.conn.ReadFrom(buf[:])
	if err != nil {
		return r, err
	}
	var nano int64
	_, err = fmt.Sscanf(string(buf[:n]), "%s %s %d %d", &r.name, &r.word, &nano, &r.known)
	r.at = time.Unix(0, nano)
	return r, err
}

// quiet waits until nothing has been said for so long.
func (e *ear) quiet(ctx context.Context, long time.Duration) error {
	for {
		_, err := e.within(ctx, long)
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// serviceDaemon is the daemon that the parts about services share.
func (b *bench) serviceDaemon(ctx context.Context) (*daemon, error) {
	if b.services != nil {
		return b.services, nil
	}
	d, err := b.up(ctx, "services")
	if err != nil {
		return nil, err
	}
	tar, err := b.appliance(ctx)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(tar)
	if err != nil {
		return nil, err
	}
	if _, err := d.api.ImportImage(ctx, "appliance", bytes.NewReader(text), int64(len(text))); err != nil {
		return nil, err
	}
	b.services = d
	return d, nil
}

// appliance builds the program and returns an archive of a root with it.
func (b *bench) appliance(ctx context.Context) (string, error) {
	root := filepath.Join(b.dir, "appliance")
	tar := root + ".tar"
	if _, err := os.Stat(tar); err == nil {
		return tar, nil
	}
	for _, dir := range []string{"etc", "proc", "sys", "dev", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(root, "appliance"), "github.com/mayfly-run/mayfly/bench/appliance")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the appliance: %w: %s", err, lastLine(string(out)))
	}
	return tar, tarFile(tar, root)
}

// serve deploys a service.
func (d *daemon) serve(ctx context.Context, w mayfly.Workload) error {
	_, err := d.api.Deploy(ctx, w, "", func(client.Progress) {})
	return err
}

// serveDB deploys the provider, once the one of an earlier part has ended.
func (d *daemon) serveDB(ctx context.Context, report string) error {
	for {
		if _, err := d.only(ctx, "db"); err != nil {
			break
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	err := d.serve(ctx, mayfly.Workload{
		Name: "db", Image: "appliance", Service: &mayfly.Service{},
		Process:  mayfly.Process{Command: []string{"/appliance", "provide"}, Env: map[string]string{"REPORT": report}},
		Provides: []mayfly.Provide{{Name: "db"}},
	})
	if err != nil {
		return err
	}
	return d.awaitReady(ctx, "db", 1)
}

// serveConsumers deploys so many who require db.
func (d *daemon) serveConsumers(ctx context.Context, report string, many int) error {
	err := d.serve(ctx, mayfly.Workload{
		Name: "web", Image: "appliance", Scale: mayfly.Scale{Min: many}, Service: &mayfly.Service{},
		Process:  mayfly.Process{Command: []string{"/appliance", "watch"}, Env: map[string]string{"REPORT": report}},
		Requires: []mayfly.Require{{Name: "db", Service: "db", OnChange: mayfly.OnChange{Signal: "USR1"}}},
	})
	if err != nil {
		return err
	}
	return d.awaitReady(ctx, "web", many)
}

// awaitReady waits until so many instances of a service are ready.
func (d *daemon) awaitReady(ctx context.Context, name string, count int) error {
	done := errors.New("ready")
	err := d.api.WatchService(ctx, name, func(s mayfly.Supervised) error {
		if s.Ready >= count {
			return done
		}
		return nil
	})
	if errors.Is(err, done) {
		return nil
	}
	return fmt.Errorf("wait for %s: %w", name, err)
}

// only is the one running container of a service.
func (d *daemon) only(ctx context.Context, name string) (mayfly.Instance, error) {
	all, err := d.api.ListInstances(ctx, false)
	if err != nil {
		return mayfly.Instance{}, err
	}
	for _, in := range all {
		if in.Workload == name && in.State == mayfly.Running {
			return in, nil
		}
	}
	return mayfly.Instance{}, fmt.Errorf("no container of %s runs", name)
}
