package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// Bounds of one request of many tasks from lines.
const (
	lineBytes  = 64 << 20 // of one line
	batchBytes = 8 << 20
	batchTasks = 500
)

type submitFlags struct {
	payload, payloadFile, lines string
	priority, retries           int
	delay, timeout, backoff     time.Duration
	at, key, callback, memory   string
	image                       string
	labels, after, env          []string
	wait                        bool
}

func (c *cli) taskSubmit() *cobra.Command {
	var f submitFlags
	cmd := &cobra.Command{
		Use:   "submit [flags] NAME [-] | submit --image IMAGE [flags] -- [COMMAND [ARG...]]",
		Short: "Submit a task, or one for each line",
		Long: `Submit a task: a run of a function, or of an image, that waits its turn. Its id
is printed when it is on disk.

The program gets the payload on stdin and in /run/mayfly/payload, a handler as
its argument. With - the payload is read from stdin. One of more than 1 MB is
uploaded before.

With --json-lines there is a task for each line. With NAME or --image the line is
the payload, and --key, if it is given, is followed by the number of the line.
Without, the line is the task, as POST /v1/tasks takes it.

With --wait the result is printed in place of the id, and the exit status is the
program's, 22 for a function that answered with an error, 125 where there is none.`,
		Example: `  mayfly task submit greet --payload '{"name": "Ada"}' --wait
  mayfly task submit report --at 2026-12-24T18:00 --retries 3 --backoff 10s
  tail -n 1 orders.json | mayfly task submit bill - --key order-4711
  mayfly task submit thumbnail --json-lines photos.jsonl --priority 2 --label album=holiday
  mayfly task submit --image debian:12 --memory 256m - -- sort -u < words`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: c.completeWorkloads(),
		RunE: func(cmd *cobra.Command, args []string) error {
			sub, err := f.submission(cmd, args, time.Now())
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			if f.lines != "" {
				return c.submitLines(cmd.Context(), cl, sub, f)
			}
			payload, err := f.openPayload(c.stdin, args)
			if err != nil {
				return err
			}
			defer payload.Close()
			task, err := cl.SubmitFrom(cmd.Context(), sub, payload.Reader)
			if err != nil {
				return err
			}
			if !f.wait {
				fmt.Fprintln(c.stdout, task.ID)
				return nil
			}
			return c.showResult(cmd.Context(), cl, task.ID)
		},
	}
	f.register(cmd)
	return cmd
}

func (f *submitFlags) register(cmd *cobra.Command) {
	f.registerTask(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.lines, "json-lines", "", "a file with a task on each line; - for stdin")
	fs.DurationVar(&f.delay, "delay", 0, "how long it waits before its turn can come, such as 90s or 2h")
	fs.StringVar(&f.at, "at", "", "when its turn can come at the earliest, such as 2026-01-31T12:00")
	fs.IntVar(&f.retries, "retries", 0, "attempts after the first; 0 for none (default the function's)")
	fs.StringVar(&f.key, "key", "", "the same key is the same task, however often it is submitted")
	fs.StringArrayVar(&f.after, "after", nil, "id of a task that must have succeeded; again for more")
	fs.StringVar(&f.callback, "callback", "", "URL that is told of the end")
	fs.StringVarP(&f.memory, "memory", "m", "", "limit of this task, such as 512m (default the function's)")
	fs.BoolVar(&f.wait, "wait", false, "wait for the end and print the result")
}

// registerTask adds the flags that say what a task is, whenever it is submitted.
func (f *submitFlags) registerTask(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.payload, "payload", "d", "", "what the task gets, as text")
	fs.StringVar(&f.payloadFile, "payload-file", "", "a file that it gets; - for stdin")
	fs.IntVar(&f.priority, "priority", 0, "0 to 9, 9 goes first")
	fs.DurationVar(&f.timeout, "timeout", 0, "of one attempt (default the function's)")
	fs.DurationVar(&f.backoff, "backoff", 0, "delay before the first retry, doubled for each that follows (default 1s)")
	fs.StringArrayVarP(&f.labels, "label", "l", nil, "NAME=VALUE; again for more")
	fs.StringVar(&f.image, "image", "", "run this image in place of a function")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE for --image; again for more")
}

// submission is what the flags ask for, apart from the payload.
func (f *submitFlags) submission(cmd *cobra.Command, args []string, now time.Time) (sub mayfly.Submission, err error) {
	if sub, err = f.task(cmd, cmd.ArgsLenAtDash(), args); err != nil {
		return sub, err
	}
	sub.Key, sub.After = f.key, f.after
	switch {
	case f.delay < 0:
		return sub, usagef("--delay cannot be negative")
	case f.delay > 0 && f.at != "":
		return sub, usagef("--delay and --at exclude each other")
	case f.delay > 0:
		sub.NotBefore = now.Add(f.delay)
	case f.at != "":
		at, ok := parseTime(f.at)
		if !ok {
			return sub, usagef("--at %q is not a time, such as 2026-01-31T12:00", f.at)
		}
		sub.NotBefore = at
	}
	return sub, nil
}

// task is what the flags say of a task that says nothing of when; dash is how
// many arguments stand before --, or -1.
func (f *submitFlags) task(cmd *cobra.Command, dash int, args []string) (sub mayfly.Submission, err error) {
	sub = mayfly.Submission{
		Image: f.image, Priority: f.priority, Timeout: f.timeout, Callback: f.callback,
		Retries: mayfly.Retries{Max: f.retries, Backoff: f.backoff},
	}
	if cmd.Flags().Changed("retries") && f.retries == 0 {
		sub.Retries.Max = -1 // 0 would be the function's
	}
	if err := f.what(dash, args, &sub); err != nil {
		return sub, err
	}
	switch {
	case f.priority < 0 || f.priority > mayfly.MaxPriority:
		return sub, usagef("--priority %d is not between 0 and %d", f.priority, mayfly.MaxPriority)
	case f.timeout < 0 || f.backoff < 0:
		return sub, usagef("--timeout and --backoff cannot be negative")
	case f.retries < 0:
		return sub, usagef("--retries %d is negative", f.retries)
	case f.backoff > 0 && f.retries == 0:
		return sub, usagef("--backoff needs --retries")
	}
	if f.memory != "" {
		if sub.Memory, err = parseSize(f.memory); err != nil {
			return sub, usagef("--memory: %w", err)
		}
	}
	sub.Labels, err = labelsOf(f.labels)
	return sub, err
}

// what reads which function or image is meant; dash is how many arguments stand
// before --, or -1.
func (f *submitFlags) what(dash int, args []string, sub *mayfly.Submission) error {
	if f.image != "" {
		if dash < 0 {
			dash = len(args)
		}
		if dash > 1 || dash == 1 && args[0] != "-" {
			return usagef("a function and --image exclude each other; write the command after --")
		}
		sub.Argv = args[dash:]
		for _, e := range f.env {
			if sub.Env == nil {
				sub.Env = map[string]string{}
			}
			if err := setEnv(sub.Env, e); err != nil {
				return usagef("--env: %w", err)
			}
		}
		return nil
	}
	switch {
	case len(f.env) > 0:
		return usagef("--env is for --image; a function has its own")
	case len(args) == 0 && f.lines != "":
		return nil // each line says it
	case len(args) == 0:
		return usagef("the function is missing")
	case len(args) > 2 || len(args) == 2 && args[1] != "-":
		return usagef("one argument too many: %q", args[1])
	}
	sub.Workload = args[0]
	return nil
}

// payloadSource is where a payload is read from: its reader as it is, so that the
// client can see how long a file is.
type payloadSource struct {
	io.Reader
	io.Closer
}

// openPayload opens what the command line says is the payload.
func (f *submitFlags) openPayload(stdin io.Reader, args []string) (p payloadSource, err error) {
	var from []string
	if f.payload != "" {
		from = append(from, "--payload")
	}
	if f.payloadFile != "" {
		from = append(from, "--payload-file")
	}
	dash := f.image != "" && len(args) > 0 && args[0] == "-" || f.image == "" && len(args) == 2
	if dash {
		from = append(from, "-")
	}
	switch {
	case len(from) > 1:
		return p, usagef("%s exclude each other", strings.Join(from, " and "))
	case dash || f.payloadFile == "-":
		return payloadSource{stdin, io.NopCloser(nil)}, nil
	case f.payloadFile != "":
		file, err := os.Open(f.payloadFile)
		if err != nil {
			return p, mayfly.Errorf(mayfly.Invalid, "read the payload: %w", err)
		}
		return payloadSource{file, file}, nil
	}
	return payloadSource{strings.NewReader(f.payload), io.NopCloser(nil)}, nil
}

// readPayload reads what the command line says is the payload.
func (f *submitFlags) readPayload(stdin io.Reader, args []string) ([]byte, error) {
	p, err := f.openPayload(stdin, args)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	data, err := io.ReadAll(io.LimitReader(p, client.MaxInline+1))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "read the payload: %w", err)
	}
	return data, nil
}

// submitLines submits a task for each line, many at once, and prints their ids
// as they are accepted.
func (c *cli) submitLines(ctx context.Context, cl *client.Client, sub mayfly.Submission, f submitFlags) error {
	if f.payload != "" || f.payloadFile != "" {
		return usagef("--json-lines and --payload exclude each other")
	}
	in := io.Reader(c.stdin)
	if f.lines != "-" {
		file, err := os.Open(f.lines)
		if err != nil {
			return mayfly.Errorf(mayfly.Invalid, "read the lines: %w", err)
		}
		defer file.Close()
		in = file
	}
	var ids []string
	err := eachBatch(in, f.lines, sub, func(batch []mayfly.Submission) error {
		made, err := cl.SubmitAll(ctx, batch)
		for _, m := range made {
			ids = append(ids, m.Task.ID)
			if !f.wait {
				fmt.Fprintln(c.stdout, m.Task.ID)
			}
		}
		return err
	})
	if err != nil && len(ids) > 0 {
		err = fmt.Errorf("%w (%d tasks were submitted before)", err, len(ids))
	}
	if err != nil || !f.wait {
		return err
	}
	return c.waitAll(ctx, cl, ids)
}

// eachBatch gives the tasks of lines to submit, many at once.
func eachBatch(in io.Reader, name string, common mayfly.Submission, submit func([]mayfly.Submission) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), lineBytes)
	var batch []mayfly.Submission
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := submit(batch)
		batch, size = nil, 0
		return err
	}
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		sub, err := lineTask(line, common, n)
		if err != nil {
			return mayfly.Errorf(mayfly.Invalid, "%s:%d: %w", name, n, err)
		}
		if len(batch) == batchTasks || size+len(line) > batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, sub), size+len(line)
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = mayfly.Errorf(mayfly.TooLarge, "a line is longer than %d bytes", lineBytes)
		}
		return mayfly.Errorf(mayfly.Invalid, "read %s: %w", name, err)
	}
	return flush()
}

// lineTask is the task of a line: common with the line as payload, or where
// common names nothing to run, what the line says, with common in its gaps.
func lineTask(line []byte, common mayfly.Submission, n int) (mayfly.Submission, error) {
	if !json.Valid(line) {
		return common, errors.New("this line is not JSON")
	}
	if common.Workload != "" || common.Image != "" {
		common.Payload = bytes.Clone(line)
		if common.Key != "" {
			common.Key = fmt.Sprintf("%s-%d", common.Key, n)
		}
		return common, nil
	}
	request := client.TaskRequest{Submission: common}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return common, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return request.Plain()
}
