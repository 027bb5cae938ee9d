package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// rival is another way to run a program.
type rival struct {
	name  string
	slow  bool // takes part in a fraction of the rounds
	rooms bool // runs where crun's check of cgroups passes
	argv  func(p program, id string) []string
}

// The limits that every container gets here, of Mayfly and of the others.
const (
	memoryLimit = 256 << 20 // bytes
	pidsLimit   = 256
)

// ids numbers containers.
type ids struct{ n atomic.Int64 }

func (i *ids) next() string { return fmt.Sprintf("mfb-%d-%d", os.Getpid(), i.n.Add(1)) }

// run runs a program once and checks what it wrote.
func (b *bench) run(ctx context.Context, r *rival, p program, id string) error {
	once := func() error { return execute(ctx, r.argv(p, id)) }
	if r.rooms {
		return b.rooms.do(once)
	}
	return once()
}

// execute runs a command to its end. It must write the answer.
func execute(ctx context.Context, argv []string) error {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, lastLine(errs.String()))
	}
	if !strings.Contains(out.String(), answer) {
		return fmt.Errorf("%s wrote %q", argv[0], out.String())
	}
	return nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}

// openRivals finds what is installed and sets it up. What cannot be set up is
// left out, and the results say why.
func (b *bench) openRivals(ctx context.Context) ([]*rival, error) {
	all := []*rival{{name: "fork+exec", argv: func(p program, _ string) []string {
		if p.host {
			return p.argv
		}
		return append([]string{b.material.static + p.argv[0]}, p.argv[1:]...)
	}}}
	for _, open := range []struct {
		name string
		open func(context.Context) (*rival, error)
	}{
		{"crun run", func(ctx context.Context) (*rival, error) { return b.openRuntime(ctx, "crun") }},
		{"runc run", func(ctx context.Context) (*rival, error) { return b.openRuntime(ctx, "runc") }},
		{"podman run --rm", b.openPodman},
		{"docker run --rm", b.openDocker},
	} {
		r, err := open.open(ctx)
		if err == nil {
			r.name = open.name
			for _, p := range present() {
				err = errors.Join(err, b.run(ctx, r, p, new(ids).next()+"-first"))
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			b.say("without %s: %v", open.name, err)
			b.results.Notes = append(b.results.Notes, fmt.Sprintf("%s was left out: %v", open.name, err))
			continue
		}
		all = append(all, r)
	}
	return all, nil
}

// openRuntime makes a bundle for each program from the runtime's own default
// configuration, with limits on memory and processes.
func (b *bench) openRuntime(ctx context.Context, name string) (*rival, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, name)
	for _, p := range present() {
		if err := b.bundle(ctx, path, filepath.Join(dir, p.name), p); err != nil {
			return nil, err
		}
	}
	return &rival{rooms: name == "crun", argv: func(p program, id string) []string {
		return []string{path, "--root", dir + "/state", "run", "--bundle", filepath.Join(dir, p.name), id}
	}}, nil
}

func (b *bench) bundle(ctx context.Context, runtime, dir string, p program) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	spec := exec.CommandContext(ctx, runtime, "spec")
	spec.Dir = dir
	if out, err := spec.CombinedOutput(); err != nil {
		return fmt.Errorf("%s spec: %w: %s", runtime, err, out)
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c map[string]any
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	process, ok1 := c["process"].(map[string]any)
	linux, ok2 := c["linux"].(map[string]any)
	mounts, ok3 := c["mounts"].([]any)
	if !ok1 || !ok2 || !ok3 {
		return fmt.Errorf("%s spec wrote a configuration without process, linux or mounts", runtime)
	}
	process["terminal"], process["args"] = false, p.argv
	root := b.material.static
	if p.host {
		root = b.material.host
		c["mounts"] = append(mounts, map[string]any{
			"destination": "/usr", "type": "bind", "source": "/usr", "options": []string{"rbind", "ro"},
		})
	}
	c["root"] = map[string]any{"path": root}
	linux["resources"] = map[string]any{
		"memory": map[string]any{"limit": memoryLimit}, "pids": map[string]any{"limit": pidsLimit},
		"devices": []any{map[string]any{"allow": false, "access": "rwm"}},
	}
	if text, err = json.Marshal(c); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
