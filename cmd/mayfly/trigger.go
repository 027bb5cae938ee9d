package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) mapEvent() *cobra.Command {
	var m mayfly.EventMapping
	var filters []string
	cmd := &cobra.Command{
		Use:   "map-event [flags] NAME TYPE | map-event [flags] --url URL TYPE",
		Short: "Run a function for events of a type, or push them to a URL",
		Long: `Run a function for events of a type, or push them to a URL, from now on. TYPE may
be a prefix and *, as in 'photo.*'. A delivery to a function is a task of it: see
"mayfly task". A push is signed as Standard Webhooks are, with the secret of "task
secret", and tried again for about a day.

A filter is NAME=VALUE, of an attribute or else of a field of JSON data, or an
expression of CloudEvents SQL. With --order-by, events that have the same value
there are delivered one after the other, in the order of their acceptance.`,
		Example: `  mayfly map-event thumbnail photo.uploaded --filter bucket=holiday
  mayfly map-event bill 'order.*' --filter "amount > 100 AND EXISTS subject" --order-by data.customer
  mayfly map-event --url https://example.org/hook order.placed`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: c.completeWorkloads(),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if m.URL == "" {
				if err := exactly("function", "type of the events")(cmd, args); err != nil {
					return err
				}
				m.Workload = args[0]
			} else if err := exactly("type of the events")(cmd, args); err != nil {
				return err
			}
			m.Type = args[len(args)-1]
			if m.Filter, m.SQL, err = parseFilters(filters); err != nil {
				return err
			}
			if cmd.Flags().Changed("retries") && m.Retries == 0 {
				m.Retries = -1
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			made, err := cl.MapEvent(cmd.Context(), m)
			return c.said(made.ID, err)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&m.URL, "url", "", "push the events there, in place of a function")
	fs.StringVar(&m.Source, "source", "", "of this source only, or a prefix and *")
	fs.StringArrayVar(&filters, "filter", nil, "NAME=VALUE, or a CloudEvents SQL expression; again for more")
	fs.IntVar(&m.Concurrency, "concurrency", 0, "how many deliveries run at once (default no limit but the function's; 8 pushes)")
	fs.IntVar(&m.Retries, "retries", 0, "attempts after the first; 0 for none (default the function's; for about a day)")
	fs.StringVar(&m.OrderBy, "order-by", "", "attribute, or field of the data as in data.user, within which deliveries are in order")
	return cmd
}

func (c *cli) unmapEvent() *cobra.Command {
	return &cobra.Command{
		Use:   "unmap-event NAME|URL|ID [TYPE]",
		Short: "Take mappings of events away",
		Long: `Take mappings of events away: those to a function or a URL that are of a type, or
all of them, or the one of an id. What was delivered goes on.`,
		Example: `  mayfly unmap-event thumbnail photo.uploaded`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := atLeast("function, URL or id")(cmd, args); err != nil {
				return err
			}
			return atMost(2)(cmd, args)
		},
		ValidArgsFunction: c.completeWorkloads(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			eventType := ""
			if len(args) > 1 {
				eventType = args[1]
			}
			_, err := cl.UnmapEvent(ctx, args[0], eventType)
			return c.said(args[0], err)
		}),
	}
}

func (c *cli) triggers() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "triggers",
		Short:   "List what runs for events, each with how far it has come",
		Example: `  mayfly triggers -o json`,
		Args:    atMost(0),
	}
	header := headings("TARGET", "TYPE", "FILTER", "STATE", "LAG", "IN FLIGHT", "DELIVERED", "FAILED", "DEAD", "LAST ERROR").sparing("IN FLIGHT", "FAILED", "DELIVERED", "FILTER")
	return listing(c, cmd, all((*client.Client).Triggers), header, func(t mayfly.TriggerState) []string {
		state := t.State
		if !t.Retry.IsZero() {
			state += ", again at " + t.Retry.Local().Format("15:04:05")
		}
		return []string{
			t.Target(), t.Type, filterText(&t.EventMapping), state, strconv.Itoa(t.Lag), strconv.Itoa(t.InFlight),
			strconv.FormatInt(t.Delivered, 10), strconv.FormatInt(t.Failures, 10), strconv.Itoa(t.Dead), t.LastError,
		}
	})
}

// filterText is what a mapping selects besides the type.
func filterText(m *mayfly.EventMapping) string {
	text := ""
	add := func(format string, args ...any) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf(format, args...)
	}
	if m.Source != "" {
		add("source=%s", m.Source)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Filter)) {
		add("%s=%s", name, m.Filter[name])
	}
	if m.SQL != "" {
		add("%s", m.SQL)
	}
	return text
}
