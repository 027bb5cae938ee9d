package queue

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

func TestRecordIsBounded(t *testing.T) {
	task, err := newTask(mayfly.Submission{Image: "busybox", Argv: []string{strings.Repeat("x", maxRecord)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = marshal(task)
	want(t, err, mayfly.TooLarge)
	task.Argv = nil
	for i := range 100 {
		addAttempt(&task, mayfly.Attempt{Number: i, Exit: &mayfly.Exit{Detail: strings.Repeat("ü", 10_000)}})
	}
	text, err := marshal(task)
	if err != nil || len(task.Attempts) != maxAttempts || task.Attempts[maxAttempts-1].Number != 99 {
		t.Fatalf("%d attempts, %v", len(task.Attempts), err)
	}
	if size := len(text); size > maxRecord/2 {
		t.Errorf("the history takes %d bytes", size)
	}
}

func FuzzDecode(f *testing.F) {
	task, err := newTask(mayfly.Submission{Workload: "w", Key: "k", Labels: map[string]string{"a": "\r\n"}, NotBefore: time.Unix(1, 0)})
	if err != nil {
		f.Fatal(err)
	}
	text, err := marshal(task)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(laterSubject(task), string(text))
	f.Add(entryKey("default", task.ID), `{"id":"`+task.ID+`","attempt":1,"attempts":[{"number":1,"exit":{"code":3}}]}`)
	f.Add("", "")
	f.Add("x", `{"id":null,"priority":-1}`)
	f.Fuzz(func(t *testing.T, from, text string) {
		task, err := unmarshal([]byte(text), from)
		if err != nil {
			return
		}
		if !strings.HasSuffix(from, task.ID) || len(task.ID) != 20 || task.Attempt < 1 {
			t.Fatalf("took %+v from %q", task, from)
		}
		laterSubject(task)
		next(&task, mayfly.Exit{Reason: mayfly.OutOfMemory}, 0.5)
		data, err := marshal(task)
		if err != nil {
			return // escapes may lengthen it
		}
		again, err := unmarshal(data, from)
		if err != nil || !reflect.DeepEqual(again.Labels, task.Labels) || again.State != task.State {
			t.Fatalf("%+v became %+v, %v", task, again, err)
		}
	})
}

func TestNextAttempt(t *testing.T) {
	ms := time.Millisecond
	retries := mayfly.Retries{Max: 2, Final: []int{3}, MemoryUpTo: 300}
	for _, test := range []struct {
		name    string
		retries mayfly.Retries
		retried int
		exit    mayfly.Exit
		state   mayfly.TaskState
		memory  int64 // of the next attempt, from 200
	}{
		{"success", retries, 0, mayfly.Exit{Reason: mayfly.Succeeded}, mayfly.TaskSucceeded, 200},
		{"failure", retries, 0, mayfly.Exit{Reason: mayfly.ExitedNonZero, Code: 1}, mayfly.TaskQueued, 200},
		{"failure, no retries", mayfly.Retries{}, 0, mayfly.Exit{Reason: mayfly.ExitedNonZero, Code: 1}, mayfly.TaskFailed, 200},
		{"a final exit", retries, 0, mayfly.Exit{Reason: mayfly.ExitedNonZero, Code: 3}, mayfly.TaskFailed, 200},
		{"the last retry", retries, 2, mayfly.Exit{Reason: mayfly.ExitedNonZero, Code: 1}, mayfly.TaskBuried, 200},
		{"timeout", retries, 1, mayfly.Exit{Reason: mayfly.DeadlinePassed}, mayfly.TaskQueued, 200},
		{"timeout, no retries", mayfly.Retries{}, 0, mayfly.Exit{Reason: mayfly.DeadlinePassed}, mayfly.TaskTimedOut, 200},
		{"out of memory", retries, 0, mayfly.Exit{Reason: mayfly.OutOfMemory}, mayfly.TaskQueued, 300},
		{"out of memory, same memory", mayfly.Retries{Max: 1}, 0, mayfly.Exit{Reason: mayfly.OutOfMemory}, mayfly.TaskQueued, 200},
		{"out of all memory", mayfly.Retries{Max: 2, MemoryUpTo: 200}, 0, mayfly.Exit{Reason: mayfly.OutOfMemory}, mayfly.TaskOutOfMemory, 200},
		{"lost without retries", mayfly.Retries{}, 0, mayfly.Exit{Reason: mayfly.Lost}, mayfly.TaskQueued, 200},
		{"cancelled", retries, 0, mayfly.Exit{Reason: mayfly.Cancelled}, mayfly.TaskCancelled, 200},
	} {
		task := mayfly.Task{Attempt: test.retried + 1, Retried: test.retried, Retries: test.retries, Memory: 200}
		_, again := next(&task, test.exit, 0)
		if task.State != test.state || task.Memory != test.memory || again != (test.state == mayfly.TaskQueued) {
			t.Errorf("%s: %s with %d bytes, want %s with %d", test.name, task.State, task.Memory, test.state, test.memory)
		}
	}
	for _, test := range []struct {
		retries mayfly.Retries
		retried int
		chance  float64
		want    time.Duration
	}{
		{mayfly.Retries{}, 0, 0.9, time.Second},
		{mayfly.Retries{}, 3, 0, 8 * time.Second},
		{mayfly.Retries{}, 99, 0, time.Hour},
		{mayfly.Retries{Backoff: 10 * ms, Longest: 50 * ms}, 5, 0, 50 * ms},
		{mayfly.Retries{Backoff: 10 * ms, Jitter: 0.5}, 1, 0.5, 15 * ms},
		{mayfly.Retries{Delays: []time.Duration{ms, 5 * ms}}, 0, 0, ms},
		{mayfly.Retries{Delays: []time.Duration{ms, 5 * ms}}, 7, 0, 5 * ms},
	} {
		if got := backoff(test.retries, test.retried, test.chance); got != test.want {
			t.Errorf("%+v after %d retries: %s, want %s", test.retries, test.retried, got, test.want)
		}
	}
}
