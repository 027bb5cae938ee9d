package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
)

func (c *cli) exec() *cobra.Command {
	var env []string
	var spec mayfly.ExecSpec
	var tty bool
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER|SERVICE[/REPLICA] COMMAND [ARG...]",
		Short: "Run one more program in a running container",
		Long: `Run one more program in a running container.

It runs as the container's user, with its environment and what it was told of
others since, within its limits. Its exit status is ours: 128+n when signal n
ended it, 126 when it cannot be executed, 127 when it is not there. 125 is a
failure of ours. When we end first, the program is sent SIGHUP, and SIGKILL if
that does not end it.

Of a service it is a replica that is ready, or SERVICE/2 the second. Flags end at
the container: what follows belongs to the program.`,
		Example: `  mayfly exec web ps
  mayfly exec -u root -e DEBUG=1 -w /srv blog/2 ls -l
  mayfly exec -i db mysql shop <dump.sql`,
		Args:              atLeast("container", "command"),
		ValidArgsFunction: c.completeInstances(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tty {
				return mayfly.Errorf(mayfly.Invalid, "there are no terminals yet").WithHint("leave out -t")
			}
			spec.Command, spec.Env = args[1:], map[string]string{}
			for _, e := range env {
				if err := setEnv(spec.Env, e); err != nil {
					return usagef("--env: %w", err)
				}
			}
			return c.execIn(cmd, args[0], spec)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&spec.Stdin, "interactive", "i", false, "pass our stdin on")
	fs.BoolVarP(&tty, "tty", "t", false, "")
	_ = fs.MarkHidden("tty")
	fs.StringVarP(&spec.User, "user", "u", "", "USER[:GROUP], names or numbers; only a container of root's can run another's programs")
	fs.StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE, or NAME to pass ours on; again for more")
	fs.StringVarP(&spec.WorkDir, "workdir", "w", "", "directory that it starts in")
	fs.SetInterspersed(false)
	return cmd
}

func (c *cli) execIn(cmd *cobra.Command, ref string, spec mayfly.ExecSpec) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	running, err := cl.Exec(cmd.Context(), ref, spec)
	if err != nil {
		return err
	}
	defer running.Close()
	var stdin io.Reader
	if spec.Stdin {
		stdin = c.stdin
	}
	exit, err := running.Stream(cmd.Context(), stdin, c.stdout, c.stderr)
	if err != nil {
		return err
	}
	return c.exitOf(mayfly.Instance{Name: ref, Exit: &exit})
}
