package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// rate counts fresh containers per second, with several clients that each ask
// for the next as soon as they have the last. The contenders take turns in
// slices; what Mayfly leaves to do after a slice counts as part of it.
func (b *bench) rate(ctx context.Context) error {
	d, err := b.upStatic(ctx, "rate")
	if err != nil {
		return err
	}
	for _, clients := range []int{1, 4, mostRooms} {
		b.say("rate: %d clients", clients)
		runners := b.runners(d)
		for range pick(b, 3, 1) {
			for _, r := range runners {
				if err := b.slice(ctx, r, clients); err != nil {
					return fmt.Errorf("%s: %w", r.row.What, err)
				}
			}
		}
		for _, r := range runners {
			r.row.Clients = clients
			r.row.PerSecond = float64(int(float64(r.row.Count)/r.took.Seconds()*10)) / 10
			r.row.Seconds = float64(int(r.took.Seconds()*10)) / 10
			r.row.Drain = round3(r.drain.Seconds())
			if r.row.Count > 0 {
				r.row.CPU = ms(r.used / time.Duration(r.row.Count))
			}
			b.results.Rate = append(b.results.Rate, r.row)
		}
	}
	return d.down(ctx)
}

// runner is one way to make many containers.
type runner struct {
	row    RateRow
	once   func(ctx context.Context) error
	settle func(ctx context.Context) error
	cpu    func() (time.Duration, error) // that it has used so far
	took   time.Duration
	drain  time.Duration // part of took
	used   time.Duration // processor time
}

func (b *bench) runners(d *daemon) []*runner {
	var all []*runner
	static := programs()[0]
	number := new(ids)
	for _, r := range b.rivals {
		if r.slow {
			continue
		}
		all = append(all, &runner{
			row:    RateRow{What: r.name},
			once:   func(ctx context.Context) error { return b.run(ctx, r, static, "r"+number.next()) },
			settle: func(context.Context) error { return nil },
			cpu:    childrenCPU,
		})
	}
	return append(all, &runner{
		row:    RateRow{What: freshRate},
		once:   func(ctx context.Context) error { return d.call(ctx, "static") },
		settle: d.settle,
		cpu:    d.totalCPU,
	})
}

// freshRate is what Mayfly's fresh containers are called among the rates.
const freshRate = "mayfly, fresh containers"

// slice has clients run for a while. What makes a pool full before it is not
// counted against anybody: the first part only brings it to a steady state.
func (b *bench) slice(ctx context.Context, r *runner, clients int) error {
	if _, err := crowd(ctx, r.once, clients, pick(b, time.Second, 100*time.Millisecond)); err != nil {
		return err
	}
	used, err := r.cpu()
	if err != nil {
		return err
	}
	begun := time.Now()
	n, err := crowd(ctx, r.once, clients, pick(b, 8*time.Second, 500*time.Millisecond))
	if err != nil {
		return err
	}
	asked := time.Since(begun)
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.row.Count += n
	r.took += time.Since(begun)
	r.drain += time.Since(begun) - asked
	now, err := r.cpu()
	r.used += now - used
	return err
}

// crowd has clients call once again and again for a while, and returns how
// many calls ended.
func crowd(ctx context.Context, once func(context.Context) error, clients int, long time.Duration) (int, error) {
	var done atomic.Int64
	var group sync.WaitGroup
	errs := make(chan error, clients)
	end := time.Now().Add(long)
	for range clients {
		group.Go(func() {
			for first := true; first || time.Now().Before(end); first = false {
				if err := once(ctx); err != nil {
					errs <- err
					return
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return int(done.Load()), nil
	}
}
