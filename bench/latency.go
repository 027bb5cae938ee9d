package main

import (
	"context"
	"fmt"
	"time"
)

// contender is one way to run one program, to be timed.
type contender struct {
	what   string
	slow   bool
	once   func(ctx context.Context) error
	settle func(ctx context.Context) error
	times  sample
}

// latency times each contender by itself, in rounds: one of each, and the next
// begins with another. Between two nothing is under way.
func (b *bench) latency(ctx context.Context) error {
	hit, err := b.up(ctx, "hit")
	if err != nil {
		return err
	}
	miss, err := b.up(ctx, "miss", "--waiting", "-1")
	if err != nil {
		return err
	}
	for _, p := range present() {
		all, err := b.contenders(ctx, p, hit, miss)
		if err != nil {
			return err
		}
		b.say("latency: %s", p.name)
		if err := b.rounds(ctx, all, pick(b, 200, 3), pick(b, 6, 3)); err != nil {
			return err
		}
		for _, c := range all {
			b.results.Latency = append(b.results.Latency, LatencyRow{
				Program: p.name, What: c.what, Runs: len(c.times),
				P50: ms(c.times.quantile(0.5)), P99: ms(c.times.quantile(0.99)), Min: ms(c.times.quantile(0)),
			})
		}
	}
	if err := hit.down(ctx); err != nil {
		return err
	}
	return miss.down(ctx)
}

// contenders are all ways to run a program.
func (b *bench) contenders(ctx context.Context, p program, hit, miss *daemon) ([]*contender, error) {
	var all []*contender
	number := new(ids)
	for _, r := range b.rivals {
		all = append(all, &contender{
			what: r.name, slow: r.slow,
			once:   func(ctx context.Context) error { return b.run(ctx, r, p, number.next()) },
			settle: func(context.Context) error { return nil },
		})
	}
	for _, m := range []struct {
		what   string
		daemon *daemon
		reused bool
	}{
		{poolHit, hit, false}, {poolMiss, miss, false}, {reused, hit, true},
	} {
		name, err := b.prepare(ctx, m.daemon, p, m.reused)
		if err != nil {
			return nil, err
		}
		all = append(all, &contender{
			what:   m.what,
			once:   func(ctx context.Context) error { return m.daemon.call(ctx, name) },
			settle: m.daemon.settle,
		})
	}
	return all, nil
}

// What Mayfly's ways are called in the results.
const (
	poolHit  = "mayfly, pool hit"
	poolMiss = "mayfly, pool miss"
	reused   = "mayfly, reused instance"
)

// prepare deploys a program and returns the name of its function.
func (b *bench) prepare(ctx context.Context, d *daemon, p program, reused bool) (string, error) {
	var code string
	var err error
	if p.host {
		code, err = d.putCode(ctx, b.material)
	} else {
		err = d.importStatic(ctx, b.material)
	}
	if err != nil {
		return "", err
	}
	w := function(p, code, reused)
	if err := d.deploy(ctx, w); err != nil {
		return "", err
	}
	return w.Name, d.settle(ctx)
}

// rounds times every contender in turn. The first rounds do not count.
func (b *bench) rounds(ctx context.Context, all []*contender, count, every int) error {
	warm := pick(b, 3, 1)
	for i := range warm + count {
		for j := range all {
			c := all[(i+j)%len(all)]
			if c.slow && i%every != 0 {
				continue
			}
			if err := c.settle(ctx); err != nil {
				return err
			}
			begun := time.Now()
			if err := c.once(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
			took := time.Since(begun)
			if i >= warm {
				c.times = append(c.times, took)
			}
			if err := c.settle(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
