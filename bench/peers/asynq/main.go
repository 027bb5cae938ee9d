// Command asynq runs jobs that do nothing on asynq, and prints how many per
// second. -server is the socket of a Redis, which it empties.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/mayfly-run/mayfly/bench/peers"
)

func main() {
	o := peers.Parse("", 64)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "asynq:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o peers.Options) error {
	store := redis.NewClient(&redis.Options{Network: "unix", Addr: o.Server})
	defer store.Close()
	if err := store.FlushAll(ctx).Err(); err != nil {
		return err
	}
	address := asynq.RedisClientOpt{Network: "unix", Addr: o.Server, PoolSize: o.Workers + o.Clients}
	q := &queue{
		client: asynq.NewClient(address),
		server: asynq.NewServer(address, asynq.Config{Concurrency: o.Workers, LogLevel: asynq.FatalLevel}),
		look:   asynq.NewInspector(address),
		jobs:   o.Jobs,
		worked: make(chan struct{}),
	}
	defer q.client.Close()
	defer q.look.Close()
	if err := peers.Measure(ctx, q, o); err != nil {
		return err
	}
	q.server.Shutdown()
	return nil
}

type queue struct {
	client *asynq.Client
	server *asynq.Server
	look   *asynq.Inspector
	jobs   int
	count  atomic.Int64
	worked chan struct{} // closed when the last was
}

// retention has a completed job stay in the store: its outcome is recorded.
const retention = time.Hour

func (q *queue) Submit(ctx context.Context) error {
	_, err := q.client.EnqueueContext(ctx, asynq.NewTask("nothing", nil), asynq.Retention(retention))
	return err
}

func (q *queue) Start(context.Context) error {
	return q.server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		if q.count.Add(1) == int64(q.jobs) {
			close(q.worked)
		}
		return nil
	}))
}

func (q *queue) Wait(ctx context.Context) error {
	select {
	case <-q.worked:
	case <-ctx.Done():
		return ctx.Err()
	}
	for { // its server tells nobody when it has recorded an outcome
		info, err := q.look.GetQueueInfo("default")
		if err != nil {
			return err
		}
		if info.Completed == q.jobs {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
