package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) config() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "config",
		Short: "Keep settings, and tell the containers that have them of changes",
		Example: `  mayfly config set motd 'back at noon'
  mayfly config get motd
  mayfly config history motd`,
	}, c.configSet(), c.configGet(), c.configList(), c.configHistory(), c.configRemove())
}

func (c *cli) completeConfigs() cobra.CompletionFunc {
	return complete(c, (*client.Client).ListConfigs, func(v mayfly.Config) string { return v.Name })
}

func (c *cli) configSet() *cobra.Command {
	var file string
	seen := -1
	cmd := &cobra.Command{
		Use:   "set [flags] CONFIG [VALUE]",
		Short: "Set a config to a value, or to what a file or the standard input holds",
		Example: `  mayfly config set motd 'back at noon'
  mayfly config set nginx --file ./nginx.conf`,
		Args:              cobra.MatchAll(atLeast("config"), atMost(2)),
		ValidArgsFunction: c.completeConfigs(),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var value []byte
			switch {
			case len(args) == 2 && file != "":
				return usagef("give the value as an argument or with --file, not both")
			case len(args) == 2:
				value = []byte(args[1])
			case file == "" && isTerminal(c.stdin):
				return usagef("the value is missing: give it as an argument, with --file or on the standard input")
			default:
				if value, err = c.readValue(file, client.MaxConfig); err != nil {
					return err
				}
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			v, err := cl.SwapConfig(cmd.Context(), args[0], value, seen)
			return c.said(fmt.Sprintf("%s: version %d", args[0], v.Version), err)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "read the value from a file, as it is")
	cmd.Flags().IntVar(&seen, "if-version", -1, "only if this is its version now; 0: if there is none")
	return cmd
}

func (c *cli) configGet() *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use:   "get [flags] CONFIG",
		Short: "Print the value of a config, as it is",
		Example: `  mayfly config get motd
  mayfly config get motd --version 1`,
		Args:              exactly("config"),
		ValidArgsFunction: c.completeConfigs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if version < 0 {
				return usagef("--version %d is none", version)
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			v, err := cl.GetConfig(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			_, err = c.stdout.Write(v.Value)
			return err
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "one of the last ten (default the newest)")
	return cmd
}

// listingConfigs has a verb print the configs that get lists.
func listingConfigs(c *cli, cmd *cobra.Command, get func(context.Context, *client.Client, []string) ([]mayfly.Config, error)) *cobra.Command {
	return listing(c, cmd, get, headings("NAME", "VERSION", "CHANGED"), func(v mayfly.Config) []string {
		return []string{v.Name, strconv.Itoa(v.Version), ago(v.Changed)}
	})
}

func (c *cli) configList() *cobra.Command {
	return listingConfigs(c, &cobra.Command{
		Use:     "ls",
		Short:   "List configs, without their values",
		Example: `  mayfly config ls -o json`,
		Args:    atMost(0),
	}, all((*client.Client).ListConfigs))
}

func (c *cli) configHistory() *cobra.Command {
	return listingConfigs(c, &cobra.Command{
		Use:               "history CONFIG",
		Short:             "List the versions of a config that are kept, newest first",
		Example:           `  mayfly config history motd`,
		Args:              exactly("config"),
		ValidArgsFunction: c.completeConfigs(),
	}, func(ctx context.Context, cl *client.Client, args []string) ([]mayfly.Config, error) {
		return cl.ConfigHistory(ctx, args[0])
	})
}

func (c *cli) configRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] CONFIG...",
		Short:             "Remove configs that no workload names",
		Example:           `  mayfly config rm motd`,
		Args:              atLeast("config"),
		ValidArgsFunction: c.completeConfigs(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			return cl.RemoveConfig(ctx, name, force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "although a workload names it")
	return cmd
}
