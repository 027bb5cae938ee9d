package api_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
)

const benchClients = 16

// atOnce spreads b.N over the clients.
func atOnce(b *testing.B, do func(client int) error) {
	var group sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	for c := range benchClients {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(c); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

// BenchmarkPublish is the bare publish of as many bytes that BenchmarkSubmit is
// held against.
func BenchmarkPublish(b *testing.B) {
	engine, err := bus.Open(b.Context(), b.TempDir(), bus.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	record := bytes.Repeat([]byte("x"), 250)
	var n atomic.Int64
	atOnce(b, func(int) error {
		subject := bus.DeadSubject("default", "w", fmt.Sprintf("%020d", n.Add(1)))
		_, err := engine.JetStream().PublishMsg(context.Background(), &nats.Msg{Subject: subject, Header: nats.Header{"Mayfly-Task": {string(record)}}, Data: []byte("hello")})
		return err
	})
}

func BenchmarkSubmit(b *testing.B) {
	up, _ := serveTasks(b, queue.Options{})
	for _, way := range []string{"raw", "client"} {
		b.Run(way, func(b *testing.B) {
			if way == "client" {
				atOnce(b, func(int) error {
					_, err := up.client.Submit(context.Background(), mayfly.Submission{Workload: "w", Payload: []byte("hello")})
					return err
				})
				return
			}
			clients := make([]*http.Client, benchClients)
			for i := range clients {
				clients[i] = &http.Client{Transport: &http.Transport{}}
				defer clients[i].CloseIdleConnections()
			}
			body := []byte(`{"tasks":[{"workload":"w","payload":"aGVsbG8="}]}`)
			atOnce(b, func(c int) error {
				resp, err := clients[c].Post(up.tcp+"/v1/tasks", "application/json", bytes.NewReader(body))
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				_, err = io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != http.StatusCreated {
					return fmt.Errorf("answered %s", resp.Status)
				}
				return err
			})
		})
	}
}
