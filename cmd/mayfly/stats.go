package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// usage is one line of stats.
type usage struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	mayfly.Stats
	CPUPercent float64 `json:"cpuPercent"` // of one core, since the sample before or the start
}

func (c *cli) stats() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "stats [flags] [SERVICE|CONTAINER...]",
		Short: "Show what containers use",
		Long: `Show what containers use; without a name, all that run, and of a service all of
its that run. On a terminal it is drawn anew every second until Ctrl-C. CPU is a share
of one core, over the last second; the first sample counts from the start of the
container.`,
		Example: `  mayfly stats
  mayfly stats web db/1
  mayfly stats --no-stream -o json web`,
		ValidArgsFunction: c.completeInstances(),
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "show it once")
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		live := !once && *output != "json" && isTerminal(c.stdout)
		before := map[string]mayfly.Stats{}
		tick := time.NewTicker(time.Second) // a sample is what people look at
		defer tick.Stop()
		for {
			list, err := sample(ctx, cl, args, before)
			if err != nil {
				return err
			}
			if live {
				fmt.Fprint(c.stdout, "\x1b[H\x1b[J")
			}
			if err := print(c.stdout, output, list, headings("ID", "NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "THROTTLED").sparing("THROTTLED", "PIDS"), usageRow); err != nil || !live {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil // Ctrl-C is how it ends
			}
		}
	})
	return cmd
}

func usageRow(u usage) []string {
	limit := "none"
	if u.MemoryMax > 0 {
		limit = binarySize(u.MemoryMax)
	}
	return []string{u.ID, u.Name, fmt.Sprintf("%.1f%%", u.CPUPercent), binarySize(u.Memory), limit, strconv.FormatInt(u.Pids, 10), humanDuration(u.Throttled)}
}

// sample reads the stats of the instances that refs name, or of all that run.
// One that ends meanwhile is left out, unless it was asked for.
func sample(ctx context.Context, cl *client.Client, refs []string, before map[string]mayfly.Stats) ([]usage, error) {
	instances, asked, err := sampled(ctx, cl, refs)
	if err != nil {
		return nil, err
	}
	list := []usage{}
	for _, i := range instances {
		s, err := cl.InstanceStats(ctx, i.ID)
		kind := mayfly.KindOf(err)
		if !asked[i.ID] && (kind == mayfly.NotFound || kind == mayfly.Conflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		old, seen := before[i.ID]
		if !seen {
			old.Time = i.Started
		}
		before[i.ID] = s
		list = append(list, usage{ID: i.ID, Name: i.Name, Stats: s, CPUPercent: percent(s.CPU-old.CPU, s.Time.Sub(old.Time))})
	}
	return list, nil
}

// sampled returns the instances that refs name, those of a service by replica, or
// all that run; and the ids of those that were asked for themselves.
func sampled(ctx context.Context, cl *client.Client, refs []string) (list []mayfly.Instance, asked map[string]bool, err error) {
	if len(refs) == 0 {
		list, err = cl.ListInstances(ctx, false)
		return list, nil, err
	}
	asked = map[string]bool{}
	for _, ref := range refs {
		if sv, err := cl.GetService(ctx, ref); err == nil {
			of, err := containersOf(ctx, cl, sv, false)
			if err != nil {
				return nil, nil, err
			}
			slices.SortStableFunc(of, func(a, b mayfly.Instance) int {
				return cmp.Or(cmp.Compare(a.Replica, b.Replica), cmp.Compare(a.Sidecar, b.Sidecar))
			})
			list = append(list, of...)
			continue
		}
		i, err := cl.GetInstance(ctx, ref)
		if err != nil {
			return nil, nil, err
		}
		list, asked[i.ID] = append(list, i), true
	}
	return list, asked, nil
}

func percent(part, whole time.Duration) float64 {
	if whole <= 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}
