package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) task() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "task",
		Short: "Submit tasks, runs that wait their turn, and see what becomes of them",
		Example: `  mayfly task submit thumbnail --payload-file photo.jpg --wait > small.jpg
  mayfly task ls --state running
  mayfly task get 06gzt10ccxe7bbhwe06q`,
	}, c.taskSubmit(), c.taskList(), c.taskGet(), c.taskLogs(), c.taskWait(), c.taskResult(),
		c.taskCancel(), c.taskRetry(), c.taskDead(), c.taskPause(), c.taskResume(), c.taskSecret())
}

// completeTasks completes ids of tasks in those states, or any if there are none.
func (c *cli) completeTasks(states ...mayfly.TaskState) cobra.CompletionFunc {
	those := func(cl *client.Client, ctx context.Context) ([]mayfly.Task, error) {
		return cl.ListTasks(ctx, client.TaskFilter{States: states})
	}
	return complete(c, those, func(t mayfly.Task) string { return t.ID })
}

// labelsOf reads NAME=VALUE of --label.
func labelsOf(texts []string) (map[string]string, error) {
	var labels map[string]string
	for _, text := range texts {
		name, value, _ := strings.Cut(text, "=")
		if name == "" {
			return nil, usagef("--label %q has no name", text)
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[name] = value
	}
	return labels, nil
}

// taskName is what a task runs.
func taskName(t mayfly.Task) string {
	if t.Workload != "" {
		return t.Workload
	}
	return t.Image
}

// lastExit is how the last attempt of a task ended, nil where none has.
func lastExit(t mayfly.Task) *mayfly.Exit {
	if n := len(t.Attempts); n > 0 {
		return t.Attempts[n-1].Exit
	}
	return nil
}

// stateText is a task's state with what a person wants to know of it.
func stateText(t mayfly.Task) string {
	text := string(t.State)
	exit := lastExit(t)
	switch {
	case t.State == mayfly.TaskQueued && time.Until(t.NotBefore) > 0:
		text += " until " + t.NotBefore.Local().Format(time.DateTime)
	case t.State == mayfly.TaskRunning && t.Progress != nil:
		text += fmt.Sprintf(" (%.3g%%)", t.Progress.Percent)
	case t.State == mayfly.TaskFailed && exit != nil && exit.Code != 0:
		text += fmt.Sprintf(" (%d)", exit.Code)
	}
	return text
}

// exitText is how an attempt ended.
func exitText(e *mayfly.Exit) string {
	if e == nil {
		return "running"
	}
	text := string(e.Reason)
	if e.Code != 0 {
		text += fmt.Sprintf(" (%d)", e.Code)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// taskEnd is how we end for a task that ended so: with its program's status, 22
// for a function that answered with an error, as call does, and 125 where no
// program has a status.
func (c *cli) taskEnd(t mayfly.Task) error {
	if t.State == mayfly.TaskSucceeded {
		return nil
	}
	text := fmt.Sprintf("task %s ", t.ID)
	switch exit := lastExit(t); {
	case t.State == mayfly.TaskBuried:
		text += fmt.Sprintf("was buried after %d attempts", t.Attempt)
	case t.State == mayfly.TaskFailed && exit != nil && exit.Code != 0 && exit.Code < 256:
		text += fmt.Sprintf("failed with exit status %d", exit.Code)
	case t.State == mayfly.TaskFailed:
		text += "failed"
	default:
		text += "ended: " + string(t.State)
	}
	code := 125
	if exit := lastExit(t); exit != nil {
		if exit.Detail != "" {
			text += ": " + plain(exit.Detail)
		}
		switch {
		case exit.Code > 255:
			code = exitStatus
		case exit.Code > 0:
			code = exit.Code
		}
	}
	if len(t.Attempts) > 0 {
		text += fmt.Sprintf("; see `mayfly task logs %s`", t.ID)
	}
	fmt.Fprintf(c.stderr, "mayfly: %s\n", text)
	return exitError(code)
}
