package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) secret() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "secret",
		Short: "Keep passwords and keys that only containers get to see",
		Example: `  mayfly secret set db-password --file ./password
  mayfly secret ls`,
	}, c.secretSet(), c.secretList(), c.secretRemove())
}

func (c *cli) completeSecrets() cobra.CompletionFunc {
	return complete(c, (*client.Client).ListSecrets, func(s client.SecretInfo) string { return s.Name })
}

func (c *cli) secretSet() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "set [flags] SECRET",
		Short: "Set a secret to what a file or the standard input holds, or to what you type",
		Long: `Set a secret to what a file or the standard input holds; on a terminal it is
asked for, and not shown. It is never an argument, for others can see those. It
is sealed on disk, and nothing shows it again. Services that have it are
restarted with the new one.`,
		Example: `  mayfly secret set db-password
  openssl rand -base64 24 | tr -d '\n' | mayfly secret set db-password`,
		Args:              exactly("secret"),
		ValidArgsFunction: c.completeSecrets(),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := c.readSecret(cmd.Context(), args[0], file)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			s, err := cl.PutSecret(cmd.Context(), args[0], value)
			return c.said(fmt.Sprintf("%s: version %d", args[0], s.Version), err)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "read the value from a file, as it is")
	return cmd
}

// readSecret reads a value without a trace of it on the screen or in an argument.
func (c *cli) readSecret(ctx context.Context, name, file string) ([]byte, error) {
	if file != "" || !isTerminal(c.stdin) {
		return c.readValue(file, client.MaxSecret)
	}
	fmt.Fprintf(c.stderr, "value of %s: ", name)
	defer fmt.Fprintln(c.stderr)
	return c.readHidden(ctx)
}

// readHidden reads a line that the terminal does not show. On Ctrl-C it returns at
// once, and the terminal shows again what is typed.
func (c *cli) readHidden(ctx context.Context) ([]byte, error) {
	fd := int(c.stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() { // nothing but Enter ends its read, so after Ctrl-C the end of the process does
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}

// readValue reads what a file holds, or the standard input if none is named. One
// byte more than is allowed has it refused.
func (c *cli) readValue(file string, most int64) ([]byte, error) {
	in := c.stdin
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "read the value: %w", err)
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, most+1))
}

func (c *cli) secretList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List secrets, without their values",
		Example: `  mayfly secret ls -o json`,
		Args:    atMost(0),
	}
	return listing(c, cmd, all((*client.Client).ListSecrets), headings("NAME", "VERSION", "CHANGED"), func(s client.SecretInfo) []string {
		return []string{s.Name, strconv.Itoa(s.Version), ago(s.Changed)}
	})
}

func (c *cli) secretRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] SECRET...",
		Short:             "Remove secrets that no workload names",
		Example:           `  mayfly secret rm db-password`,
		Args:              atLeast("secret"),
		ValidArgsFunction: c.completeSecrets(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			return cl.RemoveSecret(ctx, name, force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "although a workload names it")
	return cmd
}
