package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// load asks at half the highest rate, whatever the answers do: once at even
// distances and once at random ones, as from many independent people. A time
// counts from when the request was due.
func (b *bench) load(ctx context.Context) error {
	d, err := b.upStatic(ctx, "load")
	if err != nil {
		return err
	}
	half := b.results.highest(freshRate) / 2
	if half == 0 { // the rate was not measured in this run
		n, err := crowd(ctx, func(ctx context.Context) error { return d.call(ctx, "static") }, 4, pick(b, 5*time.Second, time.Second))
		if err != nil {
			return err
		}
		half = float64(n) / pick(b, 5.0, 1.0) / 2
	}
	for _, random := range []bool{false, true} {
		if err := d.settle(ctx); err != nil {
			return err
		}
		row := d.openLoop(ctx, half, random, pick(b, 2, 1), pick(b, 15*time.Second, time.Second))
		b.results.Load = append(b.results.Load, row)
	}
	return d.down(ctx)
}

// openLoop asks perSecond times each second for a while. The first seconds,
// warm, do not count.
func (d *daemon) openLoop(ctx context.Context, perSecond float64, random bool, warm int, long time.Duration) LoadRow {
	gap := time.Duration(float64(time.Second) / perSecond)
	dice := rand.New(rand.NewPCG(1, 2))
	row := LoadRow{Arrivals: "even", PerSecond: float64(int(perSecond*10)) / 10}
	if random {
		row.Arrivals = "random"
	}
	var mu sync.Mutex
	var times sample
	var group sync.WaitGroup
	counted := time.Now().Add(time.Duration(warm) * time.Second)
	end := counted.Add(long)
	for due := time.Now(); due.Before(end) && ctx.Err() == nil; {
		time.Sleep(time.Until(due)) // the load is what is made here
		at := due
		group.Go(func() {
			r, err := d.request(ctx, "/static")
			took := time.Since(at)
			if at.Before(counted) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, took)
			if err != nil || r.status != http.StatusOK {
				row.Failed++
			}
		})
		if random {
			due = due.Add(time.Duration(dice.ExpFloat64() * float64(gap)))
		} else {
			due = due.Add(gap)
		}
	}
	group.Wait()
	row.Requests, row.P50, row.P99 = len(times), ms(times.quantile(0.5)), ms(times.quantile(0.99))
	return row
}

// burst sends many requests at once to a function that nobody has called for a
// while. Each must be answered: by the function, or with 429 and Retry-After.
func (b *bench) burst(ctx context.Context) error {
	d, err := b.upStatic(ctx, "burst")
	if err != nil {
		return err
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	row := BurstRow{Requests: pick(b, 500, 50)}
	var mu sync.Mutex
	var group sync.WaitGroup
	begun := time.Now()
	for range row.Requests {
		group.Go(func() {
			r, err := d.request(limit, "/static")
			mu.Lock()
			defer mu.Unlock()
			row.Slowest = ms(time.Since(begun))
			switch {
			case err != nil && limit.Err() != nil:
				row.Hung++
			case err != nil:
				row.Lost++
				row.Note = err.Error()
			case r.status == http.StatusOK:
				row.OK++
			case r.status == http.StatusTooManyRequests && r.retryAfter:
				row.Refused++
			default:
				row.Other++
				row.Note = fmt.Sprintf("status %d", r.status)
			}
		})
	}
	group.Wait()
	b.results.Burst = &row
	return d.down(ctx)
}
