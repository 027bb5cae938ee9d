package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// serviceLogs shows what all containers of a service wrote, also those that
// ended, by time; and with follow goes on with those that run and that come.
func (c *cli) serviceLogs(ctx context.Context, cl *client.Client, sv mayfly.Supervised, opts mayfly.LogOptions, times bool) error {
	p := &servicePrinter{to: map[string]io.Writer{"stdout": c.stdout, "stderr": c.stderr}, times: times, open: make(map[string][]byte)}
	begun, err := containersOf(ctx, cl, sv, true)
	if err != nil {
		return err
	}
	past := opts
	past.Follow, past.Tail = false, -1
	last := make(map[string]time.Time)
	var all []serviceEntry
	for _, in := range begun {
		err := cl.InstanceLogs(ctx, in.ID, past, func(e mayfly.LogEntry) error {
			all = append(all, serviceEntry{in, e})
			last[in.ID] = e.Time
			return nil
		})
		if err != nil && mayfly.KindOf(err) != mayfly.NotFound { // it may have gone meanwhile
			return err
		}
	}
	slices.SortStableFunc(all, func(a, b serviceEntry) int { return a.Time.Compare(b.Time) })
	if opts.Tail >= 0 {
		all = all[max(0, len(all)-opts.Tail):]
	}
	for _, e := range all {
		if err := p.print(e); err != nil {
			return err
		}
		if e.in.State == mayfly.Exited && e.Time.Equal(last[e.in.ID]) { // nothing ends its last line
			if err := p.flush(e.in.ID); err != nil {
				return err
			}
		}
	}
	if !opts.Follow {
		return p.flush("")
	}
	return followService(ctx, cl, sv, opts.Since, last, p)
}

// containersOf lists the containers of a service, with ended those that have ended
// too; not those of another app's service that had its name before.
func containersOf(ctx context.Context, cl *client.Client, sv mayfly.Supervised, ended bool) ([]mayfly.Instance, error) {
	all, err := cl.ListInstances(ctx, ended)
	return slices.DeleteFunc(all, func(in mayfly.Instance) bool { return in.Workload != sv.Name || in.App != sv.App }), err
}

// errServiceGone ends the watch of a service that was deleted.
var errServiceGone = errors.New("the service is gone")

// followService follows each container from the entry after the last one that
// was shown, and new ones from their beginning or from since, until the service
// is deleted.
func followService(ctx context.Context, cl *client.Client, sv mayfly.Supervised, since time.Time, last map[string]time.Time, p *servicePrinter) error {
	group, ctx := errgroup.WithContext(ctx)
	var followed sync.Map // ids
	group.Go(func() error {
		err := cl.WatchService(ctx, sv.Name, func(now mayfly.Supervised) error {
			if now.State == mayfly.ServiceDeleted && len(now.Replicas) == 0 {
				return errServiceGone
			}
			list, err := containersOf(ctx, cl, sv, true)
			if err != nil {
				return err
			}
			for _, in := range list {
				if _, before := followed.LoadOrStore(in.ID, true); before {
					continue
				}
				opts := mayfly.LogOptions{Follow: true, Tail: -1, Since: since}
				if t, ok := last[in.ID]; ok {
					opts.Since = t.Add(time.Nanosecond)
				}
				group.Go(func() error {
					err := cl.InstanceLogs(ctx, in.ID, opts, func(e mayfly.LogEntry) error { return p.print(serviceEntry{in, e}) })
					switch {
					case mayfly.KindOf(err) == mayfly.NotFound: // it has gone, or is not there yet
						followed.Delete(in.ID)
					case err != nil:
						return err
					}
					return p.flush(in.ID)
				})
			}
			return nil
		})
		if errors.Is(err, errServiceGone) {
			return nil // and the logs end with their containers
		}
		return err
	})
	err := group.Wait()
	if flushed := p.flush(""); err == nil {
		err = flushed
	}
	return err
}

// serviceEntry is an entry and whose it is.
type serviceEntry struct {
	in mayfly.Instance
	mayfly.LogEntry
}

// servicePrinter writes whole lines, each with the name of the replica before it.
type servicePrinter struct {
	times bool

	mu   sync.Mutex
	to   map[string]io.Writer
	open map[string][]byte // by container, process and stream: a line that has not ended
}

// prefix is SERVICE/REPLICA, and of a sidecar, or of one of several programs, its
// name besides.
func (e *serviceEntry) prefix() string {
	text := fmt.Sprintf("%s/%d", e.in.Workload, e.in.Replica)
	if e.in.Sidecar != "" {
		text += " " + e.in.Sidecar
	}
	if e.Process != "" {
		text += " " + e.Process
	}
	return text
}

func (p *servicePrinter) print(e serviceEntry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.to[e.Stream]
	if !ok {
		return fmt.Errorf("print log: unknown stream %q", e.Stream)
	}
	key := e.in.ID + " " + e.Process + " " + e.Stream
	var b bytes.Buffer
	for line := range bytes.Lines(e.Data) {
		if len(p.open[key]) == 0 {
			if p.times {
				p.open[key] = append(p.open[key], e.Time.UTC().Format("2006-01-02T15:04:05.000000Z ")...)
			}
			p.open[key] = append(p.open[key], e.prefix()+" | "...)
		}
		p.open[key] = append(p.open[key], line...)
		if line[len(line)-1] == '\n' {
			b.Write(p.open[key])
			delete(p.open, key)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// flush ends the lines of a container that have not ended, "" being all.
func (p *servicePrinter) flush(instance string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(p.open)) {
		if !strings.HasPrefix(key, instance) {
			continue
		}
		line, stream := p.open[key], key[len(key)-len("stdout"):]
		delete(p.open, key)
		if _, err := p.to[stream].Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}
