package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) event() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "event",
		Short: "Emit events, look at them, and have them delivered again",
		Example: `  mayfly event emit photo.uploaded --subject cat.jpg --data '{"bucket": "holiday"}'
  mayfly event tail --type 'photo.*'
  mayfly event replay --since 10m --map thumbnail`,
	}, c.eventEmit(), c.eventList(), c.eventShow(), c.eventTail(), c.eventReplay())
}

// emitFlags are the attributes of an event.
type emitFlags struct {
	source, subject, id, data string
	contentType, schema, time string
	extensions                []string
}

func (c *cli) eventEmit() *cobra.Command {
	var f emitFlags
	cmd := &cobra.Command{
		Use:   "emit [flags] TYPE [@FILE | -]",
		Short: "Emit an event, and print its id",
		Long: `Emit an event, and print its id when it is on disk. Its data is that of --data, of
a file, or with - what is read from stdin. Emitting the same id and source again
changes nothing.`,
		Example: `  mayfly event emit photo.uploaded --subject cat.jpg --data '{"bucket": "holiday"}'
  mayfly event emit order.placed @order.json --source /shop --id 4711
  date | mayfly event emit tick - --ext room=kitchen`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ev, err := f.event(cmd, c.stdin, args)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			_, err = cl.Emit(cmd.Context(), ev)
			return c.said(ev.ID, err)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.source, "source", "/mayfly/cli", "where it happened, a URI reference")
	fs.StringVar(&f.subject, "subject", "", "what it is about")
	fs.StringVar(&f.id, "id", "", "unique together with --source (default a new one)")
	fs.StringVarP(&f.data, "data", "d", "", "the data, as text")
	fs.StringVar(&f.contentType, "data-content-type", "", "media type of the data (default application/json if it is JSON, else text or binary)")
	fs.StringVar(&f.schema, "data-schema", "", "URI of the data's schema")
	fs.StringVar(&f.time, "time", "", "when it happened, such as 2026-01-31T12:00 (default now)")
	fs.StringArrayVar(&f.extensions, "ext", nil, "NAME=VALUE of a further attribute; again for more")
	return cmd
}

func (f *emitFlags) event(cmd *cobra.Command, stdin io.Reader, args []string) (ev mayfly.Event, err error) {
	switch {
	case len(args) == 0:
		return ev, usagef("the type of the event is missing")
	case len(args) > 2:
		return ev, usagef("one argument too many: %q", args[2])
	case len(args) == 2 && cmd.Flags().Changed("data"):
		return ev, usagef("--data and %s exclude each other", args[1])
	}
	ev = mayfly.Event{ID: f.id, Source: f.source, Type: args[0], Subject: f.subject, DataSchema: f.schema, DataContentType: f.contentType, Time: time.Now().UTC()}
	if ev.ID == "" {
		ev.ID = mayfly.NewID()
	}
	if f.time != "" {
		at, ok := parseTime(f.time)
		if !ok {
			return ev, usagef("--time %q is not a time, such as 2026-01-31T12:00", f.time)
		}
		ev.Time = at.UTC()
	}
	for _, text := range f.extensions {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return ev, usagef("--ext %q is not NAME=VALUE", text)
		}
		if err := ev.SetAttribute(name, value); err != nil {
			return ev, err
		}
	}
	if cmd.Flags().Changed("data") {
		ev.Data = []byte(f.data)
	}
	if len(args) == 2 {
		if ev.Data, err = readData(stdin, args[1]); err != nil {
			return ev, err
		}
	}
	if ev.Data != nil && ev.DataContentType == "" {
		ev.DataContentType = contentOf(ev.Data)
	}
	return ev, nil
}

// readData reads @FILE, or - for stdin, and no more than an event may have.
func readData(stdin io.Reader, from string) ([]byte, error) {
	in := stdin
	if from != "-" {
		name, ok := strings.CutPrefix(from, "@")
		if !ok {
			return nil, usagef("the data is --data TEXT, @FILE or -, not %q", from)
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "read the data: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, mayfly.MaxEventData+1))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "read the data: %w", err)
	}
	if len(data) > mayfly.MaxEventData {
		return nil, mayfly.Errorf(mayfly.TooLarge, "an event's data has %d bytes at most", mayfly.MaxEventData).WithHint("put it elsewhere, and say where in the event")
	}
	return data, nil
}

// contentOf is what data seems to be.
func contentOf(data []byte) string {
	switch {
	case json.Valid(data):
		return "application/json"
	case utf8.Valid(data):
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// selectFlags say which events are meant.
type selectFlags struct {
	eventType, source string
	filters           []string
}

func (f *selectFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.eventType, "type", "", "of this type, or a prefix and *, such as 'photo.*'")
	fs.StringVar(&f.source, "source", "", "of this source, or a prefix and *")
	fs.StringArrayVar(&f.filters, "filter", nil, "NAME=VALUE of an attribute or a field of JSON data, or a CloudEvents SQL expression; again for more")
}

func (f *selectFlags) filter() (client.EventFilter, error) {
	fields, sql, err := parseFilters(f.filters)
	return client.EventFilter{Type: f.eventType, Source: f.source, Filter: fields, SQL: sql}, err
}

// parseFilters tells NAME=VALUE from expressions, all of which are to be true.
func parseFilters(texts []string) (fields map[string]string, sql string, err error) {
	var expressions []string
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if ok && plainName(name) && !strings.HasPrefix(value, "=") && !strings.ContainsAny(value, `'"`) && value == strings.TrimSpace(value) && value != "" {
			if fields == nil {
				fields = map[string]string{}
			}
			if _, twice := fields[name]; twice {
				return nil, "", usagef("--filter %s= is there twice, and one event cannot fit both", name)
			}
			fields[name] = value
			continue
		}
		expressions = append(expressions, text)
	}
	if len(expressions) == 1 {
		return fields, expressions[0], nil
	}
	for i, text := range expressions {
		expressions[i] = "(" + text + ")"
	}
	return fields, strings.Join(expressions, " AND "), nil
}

// plainName reports whether a text is a name as it stands before = in NAME=VALUE,
// with nothing around it.
func plainName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	})
}

// parseSince reads a time, or how long ago it was.
func parseSince(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	at, ok := parseTime(text)
	if !ok {
		return at, usagef("--%s %q is neither a time, such as 2026-01-31T12:00, nor how long ago, such as 10m", flag, text)
	}
	return at, nil
}

func eventRow(a mayfly.AcceptedEvent) []string {
	return []string{
		a.Accepted.Local().Format("2006-01-02 15:04:05.000"), a.Event.Type, a.Event.Source, a.Event.Subject,
		a.Event.ID, strconv.Itoa(len(a.Event.Data)),
	}
}

func (c *cli) eventList() *cobra.Command {
	var f selectFlags
	var since, until string
	var limit int
	var replays bool
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List events that are kept, newest first",
		Example: `  mayfly event ls --type 'photo.*' --since 1h
  mayfly event ls --filter "subject LIKE '%.jpg'" -o json`,
		Args: atMost(0),
	}
	f.register(cmd)
	cmd.Flags().StringVar(&since, "since", "", "accepted then or later: a time, or how long ago, such as 10m")
	cmd.Flags().StringVar(&until, "until", "", "accepted before: the same")
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "how many")
	cmd.Flags().BoolVar(&replays, "replays", false, "show what was accepted for a replay, too")
	get := func(ctx context.Context, cl *client.Client, _ []string) ([]mayfly.AcceptedEvent, error) {
		filter, err := f.filter()
		if err != nil {
			return nil, err
		}
		filter.Limit, filter.Replays = limit, replays
		if filter.Since, err = parseSince("since", since); err != nil {
			return nil, err
		}
		if filter.Until, err = parseSince("until", until); err != nil {
			return nil, err
		}
		return cl.ListEvents(ctx, filter)
	}
	return listing(c, cmd, get, headings("ACCEPTED", "TYPE", "SOURCE", "SUBJECT", "ID", "SIZE").sparing("SIZE", "SOURCE"), eventRow)
}

func (c *cli) eventShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show an event, as JSON",
		Long:    "Show an event by its id, the newest of that id, or by its key, as JSON.",
		Example: `  mayfly event show 4711`,
		Args:    exactly("id"),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			a, err := cl.GetEvent(ctx, args[0])
			if err != nil {
				return err
			}
			return printJSON(c.stdout, a)
		}),
	}
}

func (c *cli) eventTail() *cobra.Command {
	var f selectFlags
	var count int
	cmd := &cobra.Command{
		Use:   "tail [flags]",
		Short: "Show events as they are delivered, until Ctrl-C",
		Long: `Show events as they are delivered, until Ctrl-C. Those of the platform itself,
such as mayfly.task.buried, are shown where --type begins with mayfly.`,
		Example: `  mayfly event tail --type 'photo.*'
  mayfly event tail --type 'mayfly.*' -o json`,
		Args: atMost(0),
	}
	f.register(cmd)
	cmd.Flags().IntVarP(&count, "count", "n", 0, "end after so many")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := f.filter()
		if err != nil {
			return err
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		seen := 0
		enough := fmt.Errorf("enough")
		err = cl.TailEvents(cmd.Context(), filter, func(a *mayfly.AcceptedEvent, dropped int) error {
			if dropped > 0 {
				fmt.Fprintf(c.stderr, "mayfly: %d events are left out here: they came too fast\n", dropped)
			}
			if a == nil {
				return nil
			}
			if *output == "json" {
				if err := printJSONLine(c.stdout, a); err != nil {
					return err
				}
			} else {
				row := eventRow(*a)
				for i := range row {
					row[i] = plain(row[i])
				}
				fmt.Fprintf(c.stdout, "%s  %s  %s  %s  %s  %s bytes\n", row[0], row[1], row[2], row[3], row[4], row[5])
			}
			if seen++; seen == count {
				return enough
			}
			return nil
		})
		if err == enough {
			return nil
		}
		return err
	}
	return cmd
}

func (c *cli) eventReplay() *cobra.Command {
	var r client.Replay
	var since, to string
	cmd := &cobra.Command{
		Use:   "replay (--since TIME | --id ID | --from ID) [flags]",
		Short: "Have events delivered again",
		Long: `Have events delivered again, to the mappings that match them now, or with --map to
one of them. They take their turn behind what was accepted until now, and their
deliveries are new tasks.`,
		Example: `  mayfly event replay --since 2026-01-31T12:00 --to 2026-01-31T13:00
  mayfly event replay --id 4711 --map thumbnail
  mayfly event replay --from 4711 --type 'photo.*'`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if r.Since, err = parseSince("since", since); err != nil {
				return err
			}
			if r.To, err = parseSince("to", to); err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			done, err := cl.ReplayEvents(cmd.Context(), r)
			return c.said(fmt.Sprintf("replay %s: %s", done.ID, counted(done.Events, "event")), err)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&since, "since", "", "those accepted then or later: a time, or how long ago, such as 10m")
	fs.StringVar(&r.ID, "id", "", "this one only, by its id or key")
	fs.StringVar(&r.From, "from", "", "this one, by its id or key, and those after it")
	fs.StringVar(&to, "to", "", "those accepted before: a time, or how long ago (default now)")
	fs.StringVar(&r.Type, "type", "", "of this type, or a prefix and *")
	fs.StringVar(&r.Map, "map", "", "the mapping that gets them: its function, its URL or its id (default all that match)")
	return cmd
}
