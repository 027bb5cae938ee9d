package client

import (
	"encoding/json"
	"time"

	"github.com/mayfly-run/mayfly"
)

// MaxTasks is how many tasks one request may submit.
const MaxTasks = 1000

// MaxInline is the size in bytes of the largest payload that a submission itself
// takes. A larger one is uploaded before.
const MaxInline = 1_000_000

// Upload is a payload that was uploaded, for one task whose PayloadRef it is.
type Upload struct {
	Ref  string `json:"ref" doc:"for payloadRef of a task, within an hour"`
	Size int64  `json:"size" doc:"bytes"`
}

// TaskRequest is a submission on the wire. Of payload, payloadRef, json and text
// one may be set.
type TaskRequest struct {
	mayfly.Submission
	JSON  json.RawMessage `json:"json,omitempty" doc:"any value; its text is the payload"`
	Text  *string         `json:"text,omitempty" doc:"the payload"`
	Delay string          `json:"delay,omitempty" doc:"as in 90s or 2h, instead of notBefore"`
}

// Plain is what the request asks for, with the payload and the time in their
// places.
func (r *TaskRequest) Plain() (mayfly.Submission, error) {
	sub := r.Submission
	ways := 0
	if r.Payload != nil {
		ways++
	}
	if r.PayloadRef != "" {
		ways++
	}
	if r.JSON != nil {
		sub.Payload = r.JSON
		ways++
	}
	if r.Text != nil {
		sub.Payload = []byte(*r.Text)
		ways++
	}
	switch {
	case ways > 1:
		return sub, mayfly.Errorf(mayfly.Invalid, "payload, payloadRef, json and text exclude each other").WithHint("keep one of them")
	case r.Delay != "" && !sub.NotBefore.IsZero():
		return sub, mayfly.Errorf(mayfly.Invalid, "delay and notBefore exclude each other").WithHint("keep one of them")
	case r.Delay != "":
		delay, err := time.ParseDuration(r.Delay)
		if err != nil || delay < 0 {
			return sub, mayfly.Errorf(mayfly.Invalid, "delay %q is not a duration", r.Delay).WithHint("write it like 30s or 5m")
		}
		sub.NotBefore = time.Now().Add(delay)
	}
	return sub, nil
}

// SubmitRequest submits tasks, all or none.
type SubmitRequest struct {
	Tasks []TaskRequest `json:"tasks" doc:"1 to 1000"`
}

// Submitted is a task that was accepted, now or when its key was used first.
type Submitted struct {
	Task    mayfly.Task `json:"task"`
	Created bool        `json:"created" doc:"false when the key is that of a task that was there already"`
}

// SubmitAnswer has what was submitted, in its order.
type SubmitAnswer struct {
	Tasks []Submitted `json:"tasks"`
}

// AcceptedTask is the answer to a task that came in another form than JSON.
type AcceptedTask struct {
	ID      string `json:"id"`
	Created bool   `json:"created" doc:"false when the key is that of a task that was there already"`
}

// ProgressRequest is how far an attempt of a task is.
type ProgressRequest struct {
	Attempt int     `json:"attempt,omitempty" doc:"of which it is; 0: the one that runs"`
	Percent float64 `json:"percent" minimum:"0" maximum:"100"`
	Message string  `json:"message,omitempty" maxLength:"1000"`
}

// DeadTasks chooses buried tasks: those with the ids, or all that have the
// workload and the labels. All must be said where nothing else is.
type DeadTasks struct {
	IDs      []string          `json:"ids,omitempty"`
	Workload string            `json:"workload,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	All      bool              `json:"all,omitempty"`
}

// DeadDone says what became of them.
type DeadDone struct {
	Tasks    int           `json:"tasks" doc:"how many were brought back, or purged"`
	Failures []TaskFailure `json:"failures,omitempty" doc:"the first hundred of the others"`
	Failed   int           `json:"failed,omitempty" doc:"how many others"`
}

// TaskFailure is a task with which something could not be done.
type TaskFailure struct {
	ID    string  `json:"id"`
	Error Problem `json:"error"`
}

// TaskQueue is the queue of a workload's tasks.
type TaskQueue struct {
	Workload string `json:"workload"`
	Paused   bool   `json:"paused" doc:"nothing of it is started"`
}

// CallbackSecret is what the callbacks of a space are signed with.
type CallbackSecret struct {
	Secret string `json:"secret" doc:"whsec_ and base64, as Standard Webhooks has it"`
}
