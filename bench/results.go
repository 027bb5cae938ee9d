package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Results is what results.json holds. Times are milliseconds, memory is in
// units of 10^6 bytes.
type Results struct {
	Date      time.Time         `json:"date"`
	Took      string            `json:"took"`
	Quick     bool              `json:"quick,omitempty"` // a smoke test: the figures mean nothing
	Only      string            `json:"only,omitempty"`  // the parts that were run
	Machine   Machine           `json:"machine"`
	Versions  map[string]string `json:"versions"`
	Latency   []LatencyRow      `json:"latency,omitempty"`
	Rate      []RateRow         `json:"rate,omitempty"`
	Load      []LoadRow         `json:"load,omitempty"`
	Burst     *BurstRow         `json:"burst,omitempty"`
	Scale     *ScaleRows        `json:"scale,omitempty"`
	Push      []LatencyRow      `json:"push,omitempty"` // from a command to the first answer; its program is the language
	Memory    *MemoryRow        `json:"memory,omitempty"`
	Leftovers *LeftoverRow      `json:"leftovers,omitempty"`
	Tasks     []TasksRow        `json:"tasks,omitempty"`
	Enqueue   *EnqueueRow       `json:"enqueue,omitempty"`
	First     []FirstRow        `json:"first,omitempty"`
	Limits    []TasksRow        `json:"limits,omitempty"`
	Flat      []FlatRow         `json:"flat,omitempty"`
	Node      *NodeRow          `json:"fullNode,omitempty"`
	Idle      *IdleRow          `json:"idle,omitempty"`
	Told      []ToldRow         `json:"told,omitempty"`
	View      []ViewRow         `json:"view,omitempty"`
	Names     []NamesRow        `json:"names,omitempty"`
	Deploys   []DeployRow       `json:"deploys,omitempty"`
	Routes    []RouteRow        `json:"routes,omitempty"`
	Tables    []TableRow        `json:"routeTables,omitempty"`

	ServicesIdle *ServicesIdleRow `json:"servicesIdle,omitempty"`
	Events       *EventsRow       `json:"events,omitempty"`
	Goals        []Goal           `json:"goals"`
	Notes        []string         `json:"notes,omitempty"`
}

// Machine is where the figures come from.
type Machine struct {
	CPU       string  `json:"cpu"`
	Cores     int     `json:"cores"`
	Memory    float64 `json:"memoryMB"`
	Kernel    string  `json:"kernel"`
	Cgroups   string  `json:"cgroups"` // "v2", "v1" or "hybrid"
	LoadBegin string  `json:"loadBegin"`
	LoadEnd   string  `json:"loadEnd"`
}

// LatencyRow is one contender with one program, alone on the machine as far
// as this run goes.
type LatencyRow struct {
	Program string  `json:"program"`
	What    string  `json:"what"`
	Runs    int     `json:"runs"`
	P50     float64 `json:"p50ms"`
	P99     float64 `json:"p99ms"`
	Min     float64 `json:"minMs"`
}

// RateRow is how many containers of the static program came and went.
type RateRow struct {
	What      string  `json:"what"`
	Clients   int     `json:"clients"`
	PerSecond float64 `json:"perSecond"` // with what was left to do afterwards
	Count     int     `json:"count"`
	Seconds   float64 `json:"seconds"`
	Drain     float64 `json:"drainSeconds"` // part of Seconds in which nobody asked
	CPU       float64 `json:"cpuMs"`        // processor time for each, without the clients'
}

// LoadRow is pool hits at a rate that does not depend on the answers.
type LoadRow struct {
	Arrivals  string  `json:"arrivals"` // "even" or "random"
	PerSecond float64 `json:"perSecond"`
	Requests  int     `json:"requests"`
	Failed    int     `json:"failed"` // errors, and answers other than 200
	P50       float64 `json:"p50ms"`
	P99       float64 `json:"p99ms"`
}

// BurstRow is what became of requests that were sent at once.
type BurstRow struct {
	Requests int     `json:"requests"`
	OK       int     `json:"ok"`
	Refused  int     `json:"refused"` // 429 with Retry-After
	Other    int     `json:"other"`   // any other answer
	Lost     int     `json:"lost"`    // an error instead of an answer
	Hung     int     `json:"hung"`    // no answer within 2 minutes
	Slowest  float64 `json:"slowestMs"`
	Note     string  `json:"note,omitempty"`
}

// MemoryRow is memory in MB.
type MemoryRow struct {
	IdleRSS   float64 `json:"idleRSS"` // of the daemon
	Waiting   int     `json:"waiting"` // sandboxes
	Come      float64 `json:"come"`    // MemAvailable's drop per sandbox as they came
	Go        float64 `json:"go"`      // its rise as they went
	RSSGrowth float64 `json:"rssGrowth"`
}

// LeftoverRow is what there is after many runs that was not there before.
type LeftoverRow struct {
	Runs     int     `json:"runs"`
	RSSAfter float64 `json:"rssAfter"`    // of the daemon, MB
	Rest     float64 `json:"restSeconds"` // from deleting the function until nothing was removed any more
	Kinds    []Kind  `json:"kinds"`
}

// Kind is how many of one kind there were.
type Kind struct {
	What   string `json:"what"`
	Before int    `json:"before"`
	After  int    `json:"after"`
	Kept   bool   `json:"kept,omitempty"` // meant to grow, to a bound: the record of runs and their logs
}

func newResults(ctx context.Context, o options) (*Results, error) {
	r := &Results{Date: time.Now().UTC().Truncate(time.Second), Quick: o.quick, Only: o.only, Versions: versions(ctx, o.binary)}
	r.Machine = Machine{Cores: runtime.NumCPU(), LoadBegin: loadAverage(), Cgroups: "v1"}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	if _, rest, ok := strings.Cut(string(text), "model name"); ok {
		line, _, _ := strings.Cut(rest, "\n")
		r.Machine.CPU = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
	}
	total, err := kilobytes("/proc/meminfo", "MemTotal:")
	if err != nil {
		return nil, err
	}
	r.Machine.Memory = mb(float64(total))
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	r.Machine.Kernel = unix.ByteSliceToString(u.Release[:])
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		r.Machine.Cgroups = "v2"
	} else if _, err := os.Stat(unified); err == nil {
		r.Machine.Cgroups = "hybrid"
	}
	return r, nil
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(text))
	return strings.Join(f[:min(3, len(f))], " ")
}

// versions asks each program for its own.
func versions(ctx context.Context, mayfly string) map[string]string {
	all := map[string]string{"go": runtime.Version()}
	for name, argv := range map[string][]string{
		"mayfly": {mayfly, "version"}, "crun": {"crun", "--version"}, "runc": {"runc", "--version"}, "podman": {"podman", "--version"},
		"docker": {"docker", "--version"}, "dockerd": {"dockerd", "--version"}, "python": {"/usr/bin/python3", "--version"},
		"node": {"/usr/bin/node", "--version"},
	} {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		if err == nil {
			line, _, _ := strings.Cut(string(out), "\n")
			all[name] = strings.TrimSpace(line)
		}
	}
	return all
}

// save writes the results whole or not at all.
func (r *Results) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(next, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// latency returns the row of a contender, or nil.
func (r *Results) latency(program, what string) *LatencyRow {
	return latencyOf(r.Latency, program, what)
}

func latencyOf(all []LatencyRow, program, what string) *LatencyRow {
	for i, l := range all {
		if l.Program == program && l.What == what {
			return &all[i]
		}
	}
	return nil
}

// perSecond returns a rate, or 0.
func (r *Results) perSecond(what string, clients int) float64 {
	for _, row := range r.Rate {
		if row.What == what && row.Clients == clients {
			return row.PerSecond
		}
	}
	return 0
}

// cpu returns the processor time for each container, or 0.
func (r *Results) cpu(what string, clients int) float64 {
	for _, row := range r.Rate {
		if row.What == what && row.Clients == clients {
			return row.CPU
		}
	}
	return 0
}

// highest is the best rate of a contender over all numbers of clients.
func (r *Results) highest(what string) float64 {
	most := 0.0
	for _, row := range r.Rate {
		if row.What == what {
			most = max(most, row.PerSecond)
		}
	}
	return most
}
