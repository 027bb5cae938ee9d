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
	"strconv"
	"strings"
	"time"
)

// peer is another job queue, with a program that has it run jobs.
type peer struct {
	name    string
	program string // path
	address string // of its store
	store   int    // process id of its store
}

// The peers' names in the results.
const (
	river = "River on PostgreSQL"
	asynq = "asynq on Redis"
)

// peerRates is what a peer's program prints.
type peerRates struct {
	Inserted, Worked, InAll float64
}

// openPeers builds the peers' programs and starts their stores. What cannot be
// set up is left out, and the results say why.
func (b *bench) openPeers(ctx context.Context) ([]*peer, error) {
	var all []*peer
	if b.alone {
		return nil, nil
	}
	for _, p := range []struct {
		name, dir string
		open      func(context.Context) (string, int, error)
	}{
		{river, "river", b.openPostgres}, {asynq, "asynq", b.openRedis},
	} {
		program, err := b.goBuild(ctx, "bench/peers", "./"+p.dir)
		var address string
		var store int
		if err == nil {
			address, store, err = p.open(ctx)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			b.say("without %s: %v", p.name, err)
			b.results.Notes = append(b.results.Notes, fmt.Sprintf("%s was left out: %v", p.name, err))
			continue
		}
		all = append(all, &peer{p.name, program, address, store})
	}
	return all, nil
}

// goBuild builds a static program from a module of the project, dir, and
// returns its path.
func (b *bench) goBuild(ctx context.Context, dir, program string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/mayfly-run/mayfly").Output()
	if err != nil {
		return "", fmt.Errorf("find the project: %w", err)
	}
	out := filepath.Join(b.dir, filepath.Base(program)+".program")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, program)
	build.Dir = filepath.Join(strings.TrimSpace(string(root)), dir)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", program, err, lastLine(string(text)))
	}
	return out, nil
}

// jobs has the peer run jobs, and returns the rates and the processor time of
// all of it: its store, its workers and the clients, which are one process.
func (p *peer) jobs(ctx context.Context, count int, apart bool) (r peerRates, used time.Duration, err error) {
	store, err := treeCPU(p.store)
	if err != nil {
		return r, 0, err
	}
	program, err := childrenCPU()
	if err != nil {
		return r, 0, err
	}
	cmd := exec.CommandContext(ctx, p.program, "-server", p.address, "-jobs", strconv.Itoa(count),
		"-clients", strconv.Itoa(submitClients), "-apart="+strconv.FormatBool(apart))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return r, 0, fmt.Errorf("%s: %w: %s", p.name, err, lastLine(errs.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, 0, fmt.Errorf("%s printed %q: %w", p.name, out.String(), err)
	}
	program2, err1 := childrenCPU()
	store2, err2 := treeCPU(p.store)
	return r, program2 - program + store2 - store, errors.Join(err1, err2)
}
