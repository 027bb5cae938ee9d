// Package peers is what the programs beneath it share: the job queues that
// Mayfly's is compared with, each asked to run jobs that do nothing. It is a
// module of its own, so that they stay out of Mayfly's.
package peers

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the flags that every program has.
type Options struct {
	Server  string // where its store listens
	Jobs    int
	Clients int // each submits the next job when the last was accepted
	Workers int
	// Apart has the workers begin when everything was submitted, instead of
	// before anything is.
	Apart bool
}

// Parse reads the flags. workers is how many there are by default.
func Parse(server string, workers int) Options {
	var o Options
	flag.StringVar(&o.Server, "server", server, "the store's `address`")
	flag.IntVar(&o.Jobs, "jobs", 20_000, "how many")
	flag.IntVar(&o.Clients, "clients", 16, "that submit one by one")
	flag.IntVar(&o.Workers, "workers", workers, "that run jobs at the same time")
	flag.BoolVar(&o.Apart, "apart", false, "work only when everything is submitted")
	flag.Parse()
	return o
}

// Queue is one of the peers, opened and empty.
type Queue interface {
	Submit(ctx context.Context) error
	Start(ctx context.Context) error
	// Wait returns when every job is recorded as done.
	Wait(ctx context.Context) error
}

// Rates is what a program prints, in jobs per second.
type Rates struct {
	Inserted float64 `json:"inserted"`         // until the last was accepted
	Worked   float64 `json:"worked,omitempty"` // from the start of the workers, if they began apart
	InAll    float64 `json:"inAll"`            // from the first submission until the last was recorded
}

// Measure runs the jobs and prints the rates.
func Measure(ctx context.Context, q Queue, o Options) error {
	if !o.Apart {
		if err := q.Start(ctx); err != nil {
			return err
		}
	}
	begun := time.Now()
	if err := submitAll(ctx, q, o); err != nil {
		return err
	}
	inserted := time.Since(begun)
	if o.Apart {
		if err := q.Start(ctx); err != nil {
			return err
		}
	}
	if err := q.Wait(ctx); err != nil {
		return err
	}
	all := time.Since(begun)
	r := Rates{Inserted: perSecond(o.Jobs, inserted), InAll: perSecond(o.Jobs, all)}
	if o.Apart {
		r.Worked = perSecond(o.Jobs, all-inserted)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func perSecond(n int, d time.Duration) float64 { return float64(int(float64(n) / d.Seconds())) }

func submitAll(ctx context.Context, q Queue, o Options) error {
	var left atomic.Int64
	left.Store(int64(o.Jobs))
	var group sync.WaitGroup
	errs := make(chan error, o.Clients)
	for range o.Clients {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if err := q.Submit(ctx); err != nil {
					errs <- fmt.Errorf("submit: %w", err)
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	return <-errs
}
