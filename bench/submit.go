package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// submitClients is how many submit at the same time, each the next task when
// its last was accepted.
const submitClients = 16

// submitter is one client: a connection on which it posts the same request
// again and again. It is as small as it can be, like every load generator,
// because it has the daemon's cores.
type submitter struct {
	conn    net.Conn
	read    *bufio.Reader
	request []byte
	answer  []byte // the last body
}

// submitter connects a client that submits sub.
func (d *daemon) submitter(sub mayfly.Submission) (*submitter, error) {
	body, err := json.Marshal(client.SubmitRequest{Tasks: []client.TaskRequest{{Submission: sub}}})
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", d.dir+".sock")
	if err != nil {
		return nil, err
	}
	head := fmt.Sprintf("POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body))
	return &submitter{conn: conn, read: bufio.NewReader(conn), request: append([]byte(head), body...)}, nil
}

func (s *submitter) submit() error {
	if _, err := s.conn.Write(s.request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(s.read, nil)
	if err != nil {
		return err
	}
	if s.answer, err = io.ReadAll(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("submit: status %d: %s", resp.StatusCode, s.answer)
	}
	return nil
}

// id is that of the task that was submitted last.
func (s *submitter) id() (string, error) {
	var a client.SubmitAnswer
	if err := json.Unmarshal(s.answer, &a); err != nil {
		return "", err
	}
	if len(a.Tasks) != 1 {
		return "", fmt.Errorf("the answer has %d tasks", len(a.Tasks))
	}
	return a.Tasks[0].Task.ID, nil
}

// lastIDs is of how many of its last tasks a client keeps the ids.
const lastIDs = 16

// submitMany has the clients submit count tasks and returns how long it took,
// and the ids of each client's last.
func (d *daemon) submitMany(ctx context.Context, count int, sub func(client int) mayfly.Submission) (time.Duration, [][]string, error) {
	all := make([]*submitter, submitClients)
	for i := range all {
		s, err := d.submitter(sub(i))
		if err != nil {
			return 0, nil, err
		}
		defer s.conn.Close()
		all[i] = s
	}
	ids := make([][]string, submitClients)
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make(chan error, submitClients)
	begun := time.Now()
	for i, s := range all {
		group.Go(func() {
			for n := next.Add(1); n <= int64(count) && ctx.Err() == nil; n = next.Add(1) {
				err := s.submit()
				if err == nil && n > int64(count-lastIDs*submitClients) {
					var id string
					id, err = s.id()
					ids[i] = append(ids[i], id)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	took := time.Since(begun)
	select {
	case err := <-errs:
		return 0, nil, err
	default:
		return took, ids, ctx.Err()
	}
}

// awaitAll returns when the tasks have ended.
func (d *daemon) awaitAll(ctx context.Context, ids [][]string) error {
	var group sync.WaitGroup
	errs := make(chan error, len(ids))
	for _, some := range ids {
		group.Go(func() {
			for _, id := range some {
				t, err := d.api.WaitTask(ctx, id)
				if err == nil && t.State != mayfly.TaskSucceeded {
					err = fmt.Errorf("task %s: %s%s", id, t.State, endOf(t))
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// endOf says why the last attempt of a task ended.
func endOf(t mayfly.Task) string {
	if n := len(t.Attempts); n > 0 && t.Attempts[n-1].Exit != nil {
		return ": " + t.Attempts[n-1].Exit.Detail
	}
	return ""
}

// lastEnd checks that count tasks of a workload, and no fewer, have succeeded
// since begun, and returns when the last of them ended.
func (d *daemon) lastEnd(ctx context.Context, workload string, begun time.Time, count int) (last time.Time, err error) {
	tasks, err := d.api.ListTasks(ctx, client.TaskFilter{
		Workload: workload, States: []mayfly.TaskState{mayfly.TaskSucceeded}, Since: begun, Limit: count + 1,
	})
	if err != nil {
		return last, err
	}
	if len(tasks) != count {
		return last, fmt.Errorf("%d tasks of %s have succeeded, not %d", len(tasks), workload, count)
	}
	for _, t := range tasks {
		if t.Ended.After(last) {
			last = t.Ended
		}
	}
	return last, nil
}
