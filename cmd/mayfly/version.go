package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the versions of this program and of the daemon",
		Example: `  mayfly version -o json`,
		Args:    atMost(0),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := struct {
			Version string          `json:"version"`
			Go      string          `json:"go"`
			System  string          `json:"system"`
			Daemon  *client.Version `json:"daemon,omitempty"`
		}{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
		cl, err := c.client()
		if err != nil {
			return err
		}
		daemon, err := cl.Version(cmd.Context())
		if err == nil {
			v.Daemon = &daemon
		}
		if *output == "json" {
			return printJSON(c.stdout, v)
		}
		fmt.Fprintf(c.stdout, "mayfly %s (%s, %s)\n", v.Version, v.Go, v.System)
		if err != nil {
			fmt.Fprintf(c.stderr, "daemon: %s\n", err)
			return nil
		}
		fmt.Fprintf(c.stdout, "daemon %s at %s, API %s, driver %s\n", daemon.Version, cl.Host(), daemon.API, daemon.Driver)
		return nil
	}
	return cmd
}

func (c *cli) doctor() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Look whether this machine can be a node, and say what is missing",
		Example: `  mayfly doctor`,
		Args:    atMost(0),
	}
	cmd.Flags().StringVar(&data, "data", defaultData, "the data directory that a node would use")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		checks := doctor(cmd.Context(), data)
		healthy := true
		if *output == "json" {
			for _, k := range checks {
				healthy = healthy && (k.OK || k.Optional)
			}
			if err := printJSON(c.stdout, checks); err != nil {
				return err
			}
		} else {
			healthy = writeChecks(c.stdout, checks)
		}
		if !healthy {
			return exitError(1)
		}
		return nil
	}
	return cmd
}
