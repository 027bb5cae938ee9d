package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// followMaterial tells the container of each change of its secrets and configs,
// one that an earlier daemon did not see included.
func (l *life) followMaterial(ctx context.Context) {
	n, w := l.k.node, &l.k.rel.Workload
	if len(w.Secrets)+len(w.Configs) == 0 {
		return
	}
	for {
		secrets, configs := n.store.Secrets.Changed(), n.store.Configs.Changed()
		if names := n.material.Changed(l.in.ID, w); len(names) > 0 {
			l.renewMaterial(ctx, names)
		}
		select {
		case <-secrets:
		case <-configs:
		case <-ctx.Done():
			return
		}
	}
}

// renewMaterial replaces the container's files and does what is asked for in the
// case of each change. A daemon that dies meanwhile leaves all of it to the next.
func (l *life) renewMaterial(ctx context.Context, names []string) {
	n, w := l.k.node, &l.k.rel.Workload
	begun := time.Now()
	v, err := n.material.Resolve(w.Space, w.Secrets, w.Configs)
	if err == nil {
		err = n.material.Renew(l.in.sandbox, v)
	}
	if err != nil {
		l.k.news("service.untold", fmt.Sprintf("%s changed, but %v", strings.Join(names, ", "), err))
		return
	}
	told := time.Since(begun).Round(10 * time.Microsecond)
	for _, name := range names {
		if !l.reactMaterial(ctx, name, onMaterial(w, name), told) {
			return
		}
	}
	if err := n.material.Note(l.in.ID, v); err != nil {
		n.opts.Log.Error("note that a container was told", "instance", l.in.Name, "err", err)
	}
}

// onMaterial is what is to be done when something changed, of which a workload may
// have several mounts. What is in a variable reaches a program by a restart only, and
// programs seldom read a secret twice.
func onMaterial(w *mayfly.Workload, name string) (todo mayfly.OnChange) {
	if strings.HasPrefix(name, "secret ") {
		return mayfly.OnChange{Restart: true}
	}
	for _, c := range w.Configs {
		runs := len(c.OnChange.Exec) > 0 || c.OnChange.Signal != ""
		switch {
		case "config "+c.Config != name:
		case c.OnChange.Restart || c.Env != "" && !runs:
			return mayfly.OnChange{Restart: true}
		case runs && len(todo.Exec) == 0 && todo.Signal == "":
			todo = c.OnChange
		}
	}
	return todo
}

// reactMaterial reports false when the container is to end.
func (l *life) reactMaterial(ctx context.Context, name string, c mayfly.OnChange, told time.Duration) bool {
	what := fmt.Sprintf("%s changed; its file was replaced in %s", name, told)
	var err error
	switch {
	case c.Restart:
		l.k.newsOfTelling(name + " changed; it is restarted")
		l.ask(ending{reason: name + " changed"})
		return false
	case len(c.Exec) > 0:
		sets, _ := l.req.now()
		var w *wiring
		if w, err = l.wiring(ctx, sets); err == nil {
			err = l.runOnChange(ctx, c, w)
		}
		what += ", and " + c.Exec[0] + " ran"
	case c.Signal != "":
		err = l.signalMain(ctx, c.Signal)
		what += ", and it was sent " + c.Signal
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		l.k.newsOfTelling(fmt.Sprintf("%s changed, and %v; it is restarted", name, err))
		l.ask(ending{reason: fmt.Sprintf("%s changed, and %v", name, err)})
		return false
	}
	l.k.newsOfTelling(what)
	return true
}

// refreshFunctions has the sandboxes of functions made anew whose secrets or
// configs change, until ctx ends. Runs under way go on with what they have.
func (n *Node) refreshFunctions(ctx context.Context) error {
	for {
		secrets, configs := n.store.Secrets.Changed(), n.store.Configs.Changed()
		n.mu.Lock()
		var stale []functionKey
		for key, f := range n.functions {
			if n.material.Outdated(f.values, &f.release.Workload) {
				stale = append(stale, key)
			}
		}
		n.mu.Unlock()
		for _, key := range stale {
			n.drop(ctx, key)
		}
		select {
		case <-secrets:
		case <-configs:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
