package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/mayfly-run/mayfly/sdk/go"
)

// format is the value of a -o flag.
type format string

func (f *format) String() string { return string(*f) }

// Set is part of pflag.Value.
func (f *format) Set(s string) error {
	if s != "table" && s != "wide" && s != "json" {
		return fmt.Errorf("use table, wide or json")
	}
	*f = format(s)
	return nil
}

// Type is part of pflag.Value.
func (f *format) Type() string { return "table|wide|json" }

// outputFlag adds -o to a verb that lists.
func outputFlag(cmd *cobra.Command) *format {
	f := format("table")
	cmd.Flags().VarP(&f, "output", "o", "how to print it; a table is as wide as the terminal, a wide one as it has to be")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

// print prints a list as the flag says: as JSON, or as a table whose rows row
// gives. A nil list is printed as an empty one.
func print[T any](w io.Writer, f *format, items []T, header heading, row func(T) []string) error {
	if *f == "json" {
		if items == nil {
			items = []T{}
		}
		return printJSON(w, items)
	}
	return printTable(w, *f, header, len(items), func(i int) []string { return row(items[i]) })
}

// listing has a verb print what get lists, as its -o says.
func listing[T any](c *cli, cmd *cobra.Command, get func(ctx context.Context, cl *client.Client, args []string) ([]T, error),
	header heading, row func(T) []string) *cobra.Command {
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		list, err := get(ctx, cl, args)
		if err != nil {
			return err
		}
		return print(c.stdout, output, list, header, row)
	})
	return cmd
}

// all is what listing gets where nothing chooses among it.
func all[T any](list func(*client.Client, context.Context) ([]T, error)) func(context.Context, *client.Client, []string) ([]T, error) {
	return func(ctx context.Context, cl *client.Client, _ []string) ([]T, error) { return list(cl, ctx) }
}

// pour copies what a program wrote to stdout, byte by byte. Where a person looks
// and the last line has no end, it gets one, so that the prompt is not behind it.
func (c *cli) pour(from io.Reader) error {
	to := &lastByte{w: c.stdout}
	_, err := io.Copy(to, from)
	if isTerminal(c.stdout) && to.last != 0 && to.last != '\n' {
		fmt.Fprintln(c.stdout)
	}
	return err
}

// lastByte remembers the last byte that was written.
type lastByte struct {
	w    io.Writer
	last byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if n > 0 {
		l.last = p[n-1]
	}
	return n, err
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printJSONLine prints a value of a list that has no end.
func printJSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// plain keeps what a stranger chose from moving the cursor or the columns.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// shorten cuts a text to n characters.
func shorten(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}

// shortDigest is enough of a digest for a person.
func shortDigest(d string) string {
	d = strings.TrimPrefix(d, "sha256:")
	return d[:min(len(d), 12)]
}

// counted is a number of things.
func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// humanSize is a number of bytes with two or three digits.
func humanSize(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1000, 0
	for v >= 999.5 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %cB", v, units[i])
	}
	return fmt.Sprintf("%.0f %cB", v, units[i])
}

// binarySize is a number of bytes in the units that limits are given in.
func binarySize(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1023.5 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.4g %ciB", v, units[i])
}

// humanAge is how long something lasts or is ago, in its largest unit.
func humanAge(d time.Duration) string {
	const day = 24 * time.Hour
	units := []struct {
		length time.Duration
		name   string
	}{{365 * day, "year"}, {30 * day, "month"}, {7 * day, "week"}, {day, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}}
	for _, u := range units {
		if n := int(d / u.length); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a second"
}

// ago says nothing of a time that is not known. Builds that can be repeated
// give the beginning of 1970 or 1980 as theirs.
func ago(t time.Time) string {
	if t.UTC().Year() <= 1980 {
		return ""
	}
	return humanAge(time.Since(t)) + " ago"
}

// humanDuration is a time that something took, with three digits. What would be
// rounded to a thousand is one of the next unit.
func humanDuration(d time.Duration) string {
	switch {
	case d <= 0:
		return "0"
	case d < 999500*time.Nanosecond:
		return fmt.Sprintf("%.3gµs", float64(d)/float64(time.Microsecond))
	case d < 999500*time.Microsecond:
		return fmt.Sprintf("%.3gms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.3gs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// printable keeps the lines of a text of strangers, but nothing that moves the
// cursor.
func printable(s string) string {
	lines := strings.Split(strings.ToValidUTF8(s, "?"), "\n")
	for i, line := range lines {
		lines[i] = plain(strings.ReplaceAll(line, "\t", " "))
	}
	return strings.Join(lines, "\n")
}
