package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) taskWait() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait [flags] TASK...",
		Short: "Wait until tasks have ended or were buried, and print how",
		Long: `Wait until tasks have ended or were buried, and print how. The exit status is that
of the first program that did not succeed: 22 for a function that answered with
an error, 125 where there is none, 124 when the time of --timeout is over.`,
		Example: `  mayfly task wait 06gzt10ccxe7bbhwe06q
  mayfly task wait --timeout 1m $(mayfly task ls -q --label album=holiday)`,
		Args:              atLeast("task"),
		ValidArgsFunction: c.completeTasks(mayfly.TaskQueued, mayfly.TaskStarting, mayfly.TaskRunning),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			limited := ctx
			if timeout > 0 {
				var cancel context.CancelFunc
				limited, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			err := c.waitAll(limited, cl, args)
			if limited.Err() != nil && ctx.Err() == nil {
				fmt.Fprintf(c.stderr, "mayfly: not all have ended within %s\n", timeout)
				return exitError(124)
			}
			return err
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait, such as 30s or 5m (default for ever)")
	return cmd
}

// waitAll waits for tasks one after the other and prints how each has ended.
func (c *cli) waitAll(ctx context.Context, cl *client.Client, ids []string) error {
	var first error
	for _, id := range ids {
		task, err := cl.WaitTask(ctx, id)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s %s\n", task.ID, task.State)
		if err := c.taskEnd(task); first == nil {
			first = err
		}
	}
	return first
}

// showResult waits for a task and prints its result.
func (c *cli) showResult(ctx context.Context, cl *client.Client, id string) error {
	task, err := cl.WaitTask(ctx, id)
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(c.stderr, "mayfly: task %s goes on\n", id)
		}
		return err
	}
	if task.State != mayfly.TaskBuried {
		if err := c.printResult(ctx, cl, task); err != nil {
			return err
		}
	}
	return c.taskEnd(task)
}

func (c *cli) taskResult() *cobra.Command {
	return &cobra.Command{
		Use:               "result TASK",
		Short:             "Print what a task returned",
		Example:           `  mayfly task result 06gzt10ccxe7bbhwe06q > small.jpg`,
		Args:              exactly("task"),
		ValidArgsFunction: c.completeTasks(mayfly.TaskSucceeded),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			task, err := cl.GetTask(ctx, args[0])
			if err != nil {
				return err
			}
			return c.printResult(ctx, cl, task)
		}),
	}
}

func (c *cli) printResult(ctx context.Context, cl *client.Client, task mayfly.Task) error {
	result, err := cl.TaskResult(ctx, task.ID)
	if err != nil {
		return err
	}
	if err := c.pour(bytes.NewReader(result)); err != nil {
		return err
	}
	if task.Cut {
		fmt.Fprintf(c.stderr, "mayfly: the result was longer: only its first %s are kept\n", humanSize(int64(len(result))))
	}
	return nil
}

func (c *cli) taskLogs() *cobra.Command {
	var follow, times bool
	var tail, since string
	var attempt int
	cmd := &cobra.Command{
		Use:   "logs [flags] TASK",
		Short: "Show what a task wrote, in all its attempts",
		Example: `  mayfly task logs 06gzt10ccxe7bbhwe06q
  mayfly task logs -f --attempt 2 06gzt10ccxe7bbhwe06q`,
		Args:              exactly("task"),
		ValidArgsFunction: c.completeTasks(),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := logOptions(follow, tail, since, time.Now())
			if err != nil {
				return err
			}
			if attempt < 0 {
				return usagef("--attempt %d is negative", attempt)
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			return cl.TaskLogs(cmd.Context(), args[0], attempt, opts, newLogPrinter(c.stdout, c.stderr, times).print)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on, from attempt to attempt, until it ends")
	cmd.Flags().BoolVarP(&times, "timestamps", "t", false, "show when each line was written")
	cmd.Flags().StringVarP(&tail, "tail", "n", "all", "only the last n lines of the last attempt")
	cmd.Flags().StringVar(&since, "since", "", "nothing older: 10m, 2h, or 2026-01-31T12:00:00Z")
	cmd.Flags().IntVar(&attempt, "attempt", 0, "only what this attempt wrote")
	return cmd
}
