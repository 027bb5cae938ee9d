// Command river runs jobs that do nothing on River, and prints how many per
// second. -server is a connection string of PostgreSQL; the database must be
// empty.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/mayfly-run/mayfly/bench/peers"
)

func main() {
	o := peers.Parse("", 2000)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "river:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o peers.Options) error {
	config, err := pgxpool.ParseConfig(o.Server)
	if err != nil {
		return err
	}
	config.MaxConns = int32(o.Clients + 8) // one for each client, and some for its own needs
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	// What the runs before left to the vacuum is not this one's to pay for.
	for _, statement := range []string{"TRUNCATE river_job", "VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, worker{})
	client, err := river.NewClient(driver, &river.Config{
		Logger:  slog.New(slog.DiscardHandler),
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: o.Workers}},
		Workers: workers,
	})
	if err != nil {
		return err
	}
	// An event comes when a job's row says that it is completed.
	done, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: o.Jobs + 1, Kinds: []river.EventKind{river.EventKindJobCompleted},
	})
	defer cancel()
	q := queue{client, done, o.Jobs}
	if err := peers.Measure(ctx, q, o); err != nil {
		return err
	}
	if err := client.Stop(ctx); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, "CHECKPOINT") // or it is written while another is measured
	return err
}

type queue struct {
	client *river.Client[pgx.Tx]
	done   <-chan *river.Event
	jobs   int
}

func (q queue) Submit(ctx context.Context) error {
	_, err := q.client.Insert(ctx, nothing{}, nil)
	return err
}

func (q queue) Start(ctx context.Context) error { return q.client.Start(ctx) }

func (q queue) Wait(ctx context.Context) error {
	for range q.jobs {
		select {
		case <-q.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

type nothing struct{}

func (nothing) Kind() string { return "nothing" }

type worker struct{ river.WorkerDefaults[nothing] }

func (worker) Work(context.Context, *river.Job[nothing]) error { return nil }
