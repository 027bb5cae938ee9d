package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/explain"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) why() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why [flags] SERVICE|CONTAINER|VOLUME|RUN|TASK|EVENT",
		Short: "Say why something waits, restarts, was rolled back, failed or ended",
		Example: `  mayfly why web
  mayfly why web/2
  mayfly why 01k8y3v7m2q9
  mayfly why order-4711`,
		Args:              exactly("service, container, volume, run, task or event"),
		ValidArgsFunction: c.completeInstances(),
	}
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		x, err := cl.Why(ctx, args[0])
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(c.stdout, x)
		}
		return printWhy(c.stdout, x)
	})
	return cmd
}

func printWhy(w io.Writer, x mayfly.Explanation) error {
	var b strings.Builder
	for _, s := range x.Why {
		fmt.Fprintln(&b, plain(s))
	}
	if len(x.News) > 0 {
		fmt.Fprintln(&b, "\nWhat happened:")
	}
	for _, n := range x.News {
		who := ""
		if n.Replica > 0 {
			who = fmt.Sprintf("replica %d: ", n.Replica)
		}
		fmt.Fprintf(&b, "  %s  %-20s %s%s\n", n.Time.Local().Format(time.DateTime), n.Type, who, plain(n.Text))
	}
	if len(x.Help) > 0 {
		fmt.Fprintln(&b, "\nWhat helps:")
	}
	for _, h := range x.Help {
		fmt.Fprintf(&b, "  - %s\n", plain(h))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// picture is how a graph is printed, nil for a form that there is not.
func picture(as string) func(io.Writer, mayfly.Graph) error {
	switch as {
	case "text", "plain":
		return func(w io.Writer, g mayfly.Graph) error { return explain.Text(w, g, as == "text" && speaksUnicode()) }
	case "svg":
		return explain.SVG
	case "dot":
		return explain.DOT
	case "json":
		return func(w io.Writer, g mayfly.Graph) error { return printJSON(w, g) }
	}
	return nil
}

func (c *cli) graph() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "graph [flags]",
		Short: "Show who requires whom, and how they are",
		Example: `  mayfly graph
  mayfly graph -o svg > services.svg
  mayfly graph -o dot | dot -Tpng > services.png`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			draw := picture(as)
			if draw == nil {
				return usagef("--output %q is not text, plain, svg, dot or json", as)
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			g, err := cl.Graph(cmd.Context())
			if err != nil {
				return err
			}
			return draw(c.stdout, g)
		},
	}
	cmd.Flags().StringVarP(&as, "output", "o", "text", "text, plain (ASCII), svg, dot or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "plain", "svg", "dot", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// speaksUnicode reports whether the user's locale has more than ASCII.
func speaksUnicode() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToUpper(os.Getenv(name)); v != "" {
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return false
}
