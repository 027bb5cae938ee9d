package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// NamesRow is how the daemon answers questions for the address of a service,
// asked from a container.
type NamesRow struct {
	Clients   int     `json:"clients"`           // each the next question when it has the answer
	Offered   float64 `json:"offered,omitempty"` // questions for each second, one client not waiting for answers; 0: as many as are answered
	Answers   int     `json:"answers"`
	PerSecond float64 `json:"perSecond"`
	PerCore   float64 `json:"perCoreSecond"` // answers for each second of processor time that the daemon used
	P50       float64 `json:"p50ms"`         // as the client sees it; where it does not wait, until the answer is in its socket
	P99       float64 `json:"p99ms"`
	Wrong     int     `json:"wrong"` // answers that were not as they should be, or did not come
}

// mostAsking is how many clients ask at most.
const mostAsking = 8

// dnsNames measures answers of the DNS server: how many it gives, and then how
// long one takes while it is asked for half as many. Clients that ask as fast as
// they can have one another, and the server, wait for the same cores.
func (b *bench) dnsNames(ctx context.Context) error {
	d, err := b.serviceDaemon(ctx)
	if err != nil {
		return err
	}
	ear, err := listen()
	if err != nil {
		return err
	}
	defer ear.close()
	if err := d.serveDB(ctx, ear.address); err != nil {
		return err
	}
	offered := 0
	for _, clients := range []int{1, mostAsking, 0} {
		row, err := d.askNames(ctx, clients, offered, pick(b, 10*time.Second, 200*time.Millisecond))
		if err != nil {
			return err
		}
		b.results.Names = append(b.results.Names, row)
		offered = max(1, int(row.PerSecond/2))
	}
	return d.api.DeleteWorkload(ctx, "db")
}

// askNames has so many clients ask, or, if there are none, so many questions sent
// for each second.
func (d *daemon) askNames(ctx context.Context, clients, offered int, long time.Duration) (row NamesRow, err error) {
	before, err := cpuOf(d.cmd.Process.Pid)
	if err != nil {
		return row, err
	}
	argv := []string{"/appliance", "ask", "db.default.mayfly.", strconv.Itoa(clients), long.String()}
	if clients == 0 {
		argv = []string{"/appliance", "pace", "db.default.mayfly.", strconv.Itoa(offered), long.String()}
		row.Offered = float64(offered)
	}
	out, err := d.api.Run(ctx, "appliance", argv, client.RunOptions{Spec: mayfly.InstanceSpec{AutoRemove: true}})
	if err != nil {
		return row, err
	}
	after, err := cpuOf(d.cmd.Process.Pid)
	if err != nil {
		return row, err
	}
	if err := json.Unmarshal(out, &row); err != nil {
		return row, fmt.Errorf("read what the appliance says: %w", err)
	}
	row.Clients, row.PerCore = clients, round1(float64(row.Answers)/(after-before).Seconds())
	return row, nil
}
