package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// FirstRow is the time until the first instruction of a program in a sandbox
// that waited, in milliseconds.
type FirstRow struct {
	What string  `json:"what"`
	Runs int     `json:"runs"`
	P50  float64 `json:"p50ms"`
	P99  float64 `json:"p99ms"`
}

// What the ways to a program are called in the results.
const (
	firstCall = "direct call"
	firstTask = "task"
)

// first times how long a program takes to begin, called and submitted in turns:
// from before the request is sent to the time that the program reads off first
// of all. Before each, the bench waits until a sandbox waits again.
func (b *bench) first(ctx context.Context) error {
	d, err := b.taskDaemon(ctx)
	if err != nil {
		return err
	}
	s, err := d.submitter(mayfly.Submission{Workload: when})
	if err != nil {
		return err
	}
	defer s.conn.Close()
	ways := []struct {
		what  string
		once  func(context.Context) (string, error)
		times sample
	}{
		{what: firstCall, once: d.calledAt},
		{what: firstTask, once: func(ctx context.Context) (string, error) { return d.submittedAt(ctx, s) }},
	}
	warm, count := pick(b, 5, 1), pick(b, 200, 3)
	for i := range warm + count {
		for j := range ways {
			w := &ways[(i+j)%len(ways)]
			if err := d.settle(ctx); err != nil {
				return err
			}
			begun := time.Now()
			text, err := w.once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", w.what, err)
			}
			at, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			if err != nil {
				return fmt.Errorf("%s: the program said %q", w.what, text)
			}
			if i >= warm {
				w.times = append(w.times, time.Unix(0, at).Sub(begun))
			}
		}
	}
	for _, w := range ways {
		b.results.First = append(b.results.First, FirstRow{
			What: w.what, Runs: len(w.times), P50: ms(w.times.quantile(0.5)), P99: ms(w.times.quantile(0.99)),
		})
	}
	return nil
}

// calledAt calls the function that says when it was started.
func (d *daemon) calledAt(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.http+"/"+when, nil)
	if err != nil {
		return "", err
	}
	resp, err := d.web.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// submittedAt submits a task of it and reads its result.
func (d *daemon) submittedAt(ctx context.Context, s *submitter) (string, error) {
	if err := s.submit(); err != nil {
		return "", err
	}
	id, err := s.id()
	if err != nil {
		return "", err
	}
	if err := d.awaitAll(ctx, [][]string{{id}}); err != nil {
		return "", err
	}
	text, err := d.api.TaskResult(ctx, id)
	return string(text), err
}
