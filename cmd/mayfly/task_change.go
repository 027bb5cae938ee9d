package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) taskCancel() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel TASK...",
		Short:             "Cancel tasks; a program that runs gets SIGTERM and, after a while, SIGKILL",
		Example:           `  mayfly task cancel 06gzt10ccxe7bbhwe06q`,
		Args:              atLeast("task"),
		ValidArgsFunction: c.completeTasks(mayfly.TaskQueued, mayfly.TaskStarting, mayfly.TaskRunning),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, id string) error {
			_, err := cl.CancelTask(ctx, id)
			return err
		}),
	}
}

func (c *cli) taskRetry() *cobra.Command {
	return &cobra.Command{
		Use:               "retry TASK...",
		Short:             "Bring buried tasks back, with all their retries",
		Example:           `  mayfly task retry 06gzt10ccxe7bbhwe06q`,
		Args:              atLeast("task"),
		ValidArgsFunction: c.completeTasks(mayfly.TaskBuried),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, id string) error {
			_, err := cl.RetryTask(ctx, id)
			return err
		}),
	}
}

func (c *cli) taskPause() *cobra.Command {
	return &cobra.Command{
		Use:               "pause FUNCTION...",
		Short:             "Start no task of functions until they are resumed; what runs goes on",
		Example:           `  mayfly task pause thumbnail`,
		Args:              atLeast("function"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			return cl.PauseQueue(ctx, name)
		}),
	}
}

func (c *cli) taskResume() *cobra.Command {
	return &cobra.Command{
		Use:               "resume FUNCTION...",
		Short:             "Start tasks of functions again",
		Example:           `  mayfly task resume thumbnail`,
		Args:              atLeast("function"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			return cl.ResumeQueue(ctx, name)
		}),
	}
}

func (c *cli) taskSecret() *cobra.Command {
	return &cobra.Command{
		Use:     "secret",
		Short:   "Print what the callbacks of the space are signed with, for who receives them",
		Example: `  mayfly task secret`,
		Args:    atMost(0),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, _ []string) error {
			secret, err := cl.CallbackSecret(ctx)
			return c.said(secret, err)
		}),
	}
}

func (c *cli) taskDead() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "dead",
		Short: "Look after buried tasks: those whose last retry has failed",
		Example: `  mayfly task dead ls
  mayfly task dead retry --workload thumbnail`,
	}, c.deadList(), c.deadShow(),
		c.deadMany("retry", "Bring buried tasks back, with all their retries", (*client.Client).RetryDead),
		c.deadMany("purge", "End buried tasks: their last failure is their outcome", (*client.Client).PurgeDead))
}

func (c *cli) deadList() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List buried tasks, the oldest first",
		Example: `  mayfly task dead ls --workload thumbnail`,
		Args:    atMost(0),
	}
	f.register(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := f.filter()
		if err != nil {
			return err
		}
		filter.States = []mayfly.TaskState{mayfly.TaskBuried}
		cl, err := c.client()
		if err != nil {
			return err
		}
		list, err := cl.ListTasks(cmd.Context(), filter)
		if err != nil {
			return err
		}
		header := headings("TASK", "RUNS", "ATTEMPTS", "BURIED", "LAST END").sparing("ATTEMPTS", "BURIED")
		return print(c.stdout, output, list, header, func(t mayfly.Task) []string {
			return []string{t.ID, taskName(t), fmt.Sprint(t.Attempt), ago(t.Ended), exitText(lastExit(t))}
		})
	}
	return cmd
}

func (c *cli) deadShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show TASK",
		Short:             "Show a buried task, why its attempts failed, and its payload",
		Example:           `  mayfly task dead show 06gzt10ccxe7bbhwe06q`,
		Args:              exactly("task"),
		ValidArgsFunction: c.completeTasks(mayfly.TaskBuried),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			task, err := cl.GetTask(ctx, args[0])
			if err != nil {
				return err
			}
			if task.State != mayfly.TaskBuried {
				return mayfly.Errorf(mayfly.Conflict, "task %s is not buried but %s", task.ID, task.State).WithHint("see `mayfly task get %s`", task.ID)
			}
			payload, err := cl.OpenTaskPayload(ctx, task.ID)
			if err != nil {
				return err
			}
			defer payload.Close()
			if err := printTask(c.stdout, "table", task); err != nil {
				return err
			}
			const most = 2000
			text, err := io.ReadAll(io.LimitReader(payload, most))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "\n%s\n", printable(string(text)))
			if more := task.Size - len(text); more > 0 {
				fmt.Fprintf(c.stdout, "... and %s more\n", humanSize(int64(more)))
			}
			return nil
		}),
	}
}

// deadMany is a verb that does something to many buried tasks.
func (c *cli) deadMany(verb, short string, do func(*client.Client, context.Context, client.DeadTasks, func(client.Progress)) (client.DeadDone, error)) *cobra.Command {
	var which client.DeadTasks
	var labels []string
	cmd := &cobra.Command{
		Use:   verb + " [flags] [TASK...]",
		Short: short,
		Example: fmt.Sprintf(`  mayfly task dead %[1]s 06gzt10ccxe7bbhwe06q
  mayfly task dead %[1]s --workload thumbnail
  mayfly task dead %[1]s --all`, verb),
		ValidArgsFunction: c.completeTasks(mayfly.TaskBuried),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if which.Labels, err = labelsOf(labels); err != nil {
				return err
			}
			chosen := which.All || which.Workload != "" || len(which.Labels) > 0
			switch {
			case len(args) > 0 && chosen:
				return usagef("name tasks, or choose them with flags, but not both")
			case len(args) == 0 && !chosen:
				return usagef("name tasks, or choose them with --workload, --label or --all")
			}
			which.IDs = args
			cl, err := c.client()
			if err != nil {
				return err
			}
			view := c.progress()
			done, err := do(cl, cmd.Context(), which, view.report)
			view.done()
			if err != nil {
				return err
			}
			return c.deadDone(done)
		},
	}
	cmd.Flags().StringVarP(&which.Workload, "workload", "w", "", "all of this function")
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "all that have NAME=VALUE; again for more")
	cmd.Flags().BoolVar(&which.All, "all", false, "all there are")
	return cmd
}

func (c *cli) deadDone(done client.DeadDone) error {
	fmt.Fprintln(c.stdout, counted(done.Tasks, "task"))
	for _, f := range done.Failures {
		fmt.Fprintf(c.stderr, "mayfly: %s\n", plain(f.Error.Err().Error()))
	}
	if more := done.Failed - len(done.Failures); more > 0 {
		fmt.Fprintf(c.stderr, "mayfly: and %d more\n", more)
	}
	if done.Failed > 0 {
		return exitError(1)
	}
	return nil
}
