package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/discovery"
)

// required is what a workload requires, watched.
type required struct {
	reqs    []mayfly.Require
	subs    []*discovery.Subscription // of each
	changed chan struct{}             // something is in when one of them has changed

	done    chan struct{}
	once    sync.Once
	passing sync.WaitGroup
}

// watchRequired watches what the workload of a keeper requires, for the container
// that it has, which uses the endpoints of those ids. One that only looks is never
// waited for.
func (k *keeper) watchRequired(looks bool, has []string) (*required, error) {
	w := &k.rel.Workload
	who := discovery.Consumer{
		Space: k.a.Space, App: w.App, Workload: w.Name, Instance: k.status.Instance, Zone: k.node.opts.Labels["zone"], Has: has, NoAck: looks,
	}
	return watchRequired(k.r.dir, who, w.Requires)
}

func watchRequired(dir *discovery.Discovery, who discovery.Consumer, reqs []mayfly.Require) (*required, error) {
	r := &required{reqs: reqs, changed: make(chan struct{}, 1), done: make(chan struct{})}
	for _, req := range reqs {
		sub, err := dir.Watch(who, req)
		if err != nil {
			r.close()
			return nil, err
		}
		r.subs = append(r.subs, sub)
		r.passing.Go(func() {
			for {
				select {
				case <-sub.C():
					wake(r.changed)
				case <-r.done:
					return
				}
			}
		})
	}
	return r, nil
}

// close ends the watching. Nobody waits for its acknowledgements any more.
func (r *required) close() {
	if r == nil {
		return
	}
	r.once.Do(func() {
		close(r.done)
		for _, s := range r.subs {
			s.Close()
		}
		r.passing.Wait()
	})
}

// now is what there is of each requirement, and what to acknowledge of each once
// the container knows.
func (r *required) now() (sets [][]mayfly.Endpoint, revisions []uint64) {
	for _, s := range r.subs {
		endpoints, revision := s.Current()
		sets = append(sets, endpoints)
		revisions = append(revisions, revision)
	}
	return sets, revisions
}

// lacks is the first requirement of which there must be something and is nothing
// in the sets, as now gives them; nil if there is none.
func (r *required) lacks(sets [][]mayfly.Endpoint) *mayfly.Require {
	for i := range r.reqs {
		if len(sets[i]) == 0 && !r.reqs[i].Optional {
			return &r.reqs[i]
		}
	}
	return nil
}

func (r *required) ack(revisions []uint64) {
	for i, s := range r.subs {
		s.Ack(revisions[i])
	}
}

// rewire begins to watch for a container that was taken over. What it was told
// before is in its files; while on_change is owed it may use what was there before,
// too.
func (l *life) rewire() (err error) {
	if data, err := l.in.sandbox.ReadFile(endpointsName); err == nil {
		l.wired = string(data)
	}
	switch data, err := l.in.sandbox.ReadFile(owedName); {
	case err == nil:
		l.owed = wiredBefore(string(data))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	var has []string
	for _, sets := range []map[string][]wired{wiredBefore(l.wired), l.owed} {
		for _, set := range sets {
			for _, x := range set {
				has = append(has, x.ID)
			}
		}
	}
	l.req, err = l.k.watchRequired(false, has)
	return err
}

// follow tells the container of each change of what it requires. A container
// that was taken over is told nothing before those that it was told of have been
// taken over as well.
func (l *life) follow(ctx context.Context) {
	select {
	case <-l.k.r.settled:
	case <-ctx.Done():
		return
	}
	for {
		var again <-chan time.Time
		if !l.tell(ctx) {
			again = time.After(tellAgain)
		}
		select {
		case <-l.req.changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// tellAgain is when a container is told that could not be.
const tellAgain = 2 * time.Second

// tell replaces the files that say what there is, has done what was asked for in
// that case, and acknowledges. It reports false when it did not come so far, as
// where a name outside was not found, and is to be called again.
func (l *life) tell(ctx context.Context) bool {
	sets, revisions := l.req.now()
	w, err := l.wiring(ctx, sets)
	if err != nil {
		if ctx.Err() == nil {
			l.k.node.opts.Log.Error("wire a container; it is tried again", "instance", l.in.Name, "err", err)
		}
		return false
	}
	endpoints := w.endpoints()
	if string(endpoints) == l.wired && l.owed == nil {
		l.req.ack(revisions)
		return true
	}
	begun := time.Now()
	changed := l.changes(w)
	err = l.owe(changed)
	if err == nil {
		err = l.in.sandbox.PutFile(envName, container.EnvFile(w.env))
	}
	if err == nil {
		err = l.in.sandbox.PutFile(endpointsName, endpoints)
	}
	if err != nil {
		l.ask(ending{reason: fmt.Sprintf("it could not be told of what it requires: %v", err)})
		return true
	}
	l.wired, l.told = string(endpoints), w.sets
	l.checks.poke() // whether it lacks something
	done := true
	for _, req := range changed {
		done = l.react(ctx, req, w, begun) && done
	}
	if done {
		if err := l.settleOwed(); err != nil {
			l.k.node.opts.Log.Error("note that a container was told", "instance", l.in.Name, "err", err)
		}
	}
	if ctx.Err() == nil {
		l.req.ack(revisions)
	}
	return true
}

// changes lists the requirements that are not as the container was told, or not
// as on_change was last done for.
func (l *life) changes(w *wiring) (changed []*mayfly.Require) {
	old := l.knows()
	for i := range l.req.reqs {
		req := &l.req.reqs[i]
		now := w.sets[req.Name]
		if !slices.EqualFunc(old[req.Name], now, sameWired) || l.owed != nil && !slices.EqualFunc(l.owed[req.Name], now, sameWired) {
			changed = append(changed, req)
		}
	}
	return changed
}

// knows is what the container was told last.
func (l *life) knows() map[string][]wired {
	if l.told == nil {
		l.told = wiredBefore(l.wired)
	}
	return l.told
}

// owe notes, before the container's files are replaced, that on_change is to be
// done for those requirements: where the daemon dies meanwhile, the next one does
// it.
func (l *life) owe(changed []*mayfly.Require) error {
	acts := func(req *mayfly.Require) bool {
		c := &req.OnChange
		return len(c.Exec) > 0 || c.Signal != "" || c.Restart
	}
	if l.owed != nil || !slices.ContainsFunc(changed, acts) {
		return nil
	}
	l.owed = l.knows()
	return l.in.sandbox.KeepFile(endpointsName, owedName)
}

// settleOwed notes that all was done.
func (l *life) settleOwed() error {
	if l.owed == nil {
		return nil
	}
	l.owed = nil
	return l.in.sandbox.DropFile(owedName)
}

func wiredBefore(text string) map[string][]wired {
	sets := make(map[string][]wired)
	json.Unmarshal([]byte(text), &sets) // nothing was told if it is not JSON
	return sets
}

func sameWired(a, b wired) bool { return a.URL == b.URL }

// react does what a workload wants done when a requirement has changed. It
// reports false when that was not done, or is that the container ends.
func (l *life) react(ctx context.Context, req *mayfly.Require, w *wiring, begun time.Time) bool {
	now := "there is none"
	if set := w.sets[req.Name]; len(set) > 0 {
		now = "it is " + w.env[variable(req.Name)+"_ENDPOINTS"]
	}
	what := fmt.Sprintf("it was told that %s changed: %s", req.Name, now)
	told := time.Since(begun).Round(10 * time.Microsecond)
	c := req.OnChange
	switch {
	case len(c.Exec) > 0:
		if err := l.runOnChange(ctx, c, w); err != nil {
			if ctx.Err() != nil {
				return false
			}
			l.k.newsOfTelling(fmt.Sprintf("%s; its files were replaced in %s, and %s", what, told, err))
			l.ask(ending{reason: fmt.Sprintf("%s changed, and %s", req.Name, err)})
			return false
		}
		l.k.newsOfTelling(fmt.Sprintf("%s; its files were replaced in %s, and %s ran in %s", what, told, c.Exec[0], time.Since(begun).Round(time.Millisecond)))
	case c.Signal != "":
		if err := l.signalMain(ctx, c.Signal); err != nil {
			l.ask(ending{reason: fmt.Sprintf("%s changed, and %s", req.Name, err)})
			return false
		}
		l.k.newsOfTelling(fmt.Sprintf("%s; its files were replaced in %s, and it was sent %s", what, told, c.Signal))
	case c.Restart && len(w.sets[req.Name]) > 0:
		l.k.newsOfTelling(what + "; it is restarted")
		l.ask(ending{reason: req.Name + " changed"})
		return false
	default:
		l.k.newsOfTelling(fmt.Sprintf("%s; its files were replaced in %s", what, told))
	}
	return true
}

// onChangeTimeout is how long a command may take where nobody says.
const onChangeTimeout = time.Minute

func (l *life) runOnChange(ctx context.Context, c mayfly.OnChange, w *wiring) error {
	limit := c.Timeout
	if limit == 0 {
		limit = onChangeTimeout
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	code, tail, err := l.exec(bounded, c.Exec, l.rewired(w))
	switch {
	case bounded.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("%s did not end within %s", c.Exec[0], limit)
	case err != nil:
		return fmt.Errorf("%s: %w", c.Exec[0], err)
	case code != 0:
		return fmt.Errorf("%s failed with exit code %d%s", c.Exec[0], code, lastWords(tail))
	}
	return nil
}

// rewired is the container's environment with what it requires as it is now.
func (l *life) rewired(w *wiring) []string {
	own := l.k.rel.Workload.Env
	env := slices.DeleteFunc(slices.Clone(l.in.sandbox.Env()), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		_, fixed := own[name]
		return !fixed && l.tells(name)
	})
	return w.environ(env, own)
}

// tells reports whether a variable is one that tells of a requirement.
func (l *life) tells(name string) bool {
	for _, req := range l.req.reqs {
		rest, ok := strings.CutPrefix(name, variable(req.Name)+"_")
		if !ok {
			continue
		}
		rest = strings.TrimLeft(rest, "0123456789_")
		switch rest {
		case "HOST", "PORT", "URL", "ENDPOINTS":
			return true
		}
	}
	return false
}
