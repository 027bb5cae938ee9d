package mayfly

import "time"

// TaskState is where a task is in its life; package queue draws it.
type TaskState string

// The states of a task. The last six are ends, of which a buried task alone can
// come back.
const (
	TaskQueued      TaskState = "queued" // its turn, or its time, has not come
	TaskStarting    TaskState = "starting"
	TaskRunning     TaskState = "running"
	TaskSucceeded   TaskState = "succeeded"
	TaskFailed      TaskState = "failed"
	TaskTimedOut    TaskState = "timed-out"
	TaskOutOfMemory TaskState = "out-of-memory"
	TaskCancelled   TaskState = "cancelled"
	TaskBuried      TaskState = "buried" // its last attempt failed; it waits for a person
)

// Ended reports whether no attempt of the task runs or will run by itself.
func (s TaskState) Ended() bool {
	return s != TaskQueued && s != TaskStarting && s != TaskRunning
}

// MaxPriority is the priority that goes first; 0 goes last.
const MaxPriority = 9

// Retries say what happens after an attempt that failed. The zero value: the
// task has failed.
type Retries struct {
	Max    int             `json:"max,omitempty"`    // attempts after the first
	Delays []time.Duration `json:"delays,omitempty"` // ns before each, the last for all that follow; instead of Backoff
	// Backoff is the delay before the first retry in ns, doubled for each that
	// follows up to Longest. One second, and an hour, if zero.
	Backoff time.Duration `json:"backoff,omitempty"`
	Longest time.Duration `json:"longest,omitempty"`
	Jitter  float64       `json:"jitter,omitempty"` // part of the delay that is left to chance, 0 to 1
	Final   []int         `json:"final,omitempty"`  // exit codes after which no retry can help
	// MemoryUpTo lets an attempt that ran out of memory be repeated with twice
	// as much, up to this many bytes. 0: with the same.
	MemoryUpTo int64 `json:"memoryUpTo,omitempty"`
}

// Submission asks for one task: of a workload, or straight from an image.
type Submission struct {
	Space    string            `json:"space,omitempty"`
	Workload string            `json:"workload,omitempty"`
	Release  int               `json:"release,omitempty"` // that it pins; 0: the active one
	Image    string            `json:"image,omitempty"`   // instead of Workload
	Argv     []string          `json:"argv,omitempty"`    // with Image; its own if empty
	Env      map[string]string `json:"env,omitempty"`     // with Image, over its own

	Payload []byte `json:"payload,omitempty"` // 1 MB at most
	// PayloadRef names a payload that was uploaded before, instead of Payload.
	PayloadRef string            `json:"payloadRef,omitempty"`
	Request    *Request          `json:"request,omitempty"`  // with Workload; POST / if nil
	Priority   int               `json:"priority,omitempty"` // 0 to 9, 9 first
	NotBefore  time.Time         `json:"notBefore,omitzero"` // now if zero
	Timeout    time.Duration     `json:"timeout,omitempty"`  // of one attempt, ns; 0: the workload's, or one hour
	Memory     int64             `json:"memory,omitempty"`   // bytes; 0: the workload's
	Retries    Retries           `json:"retries,omitzero"`   // what is zero is the workload's; Max -1: none, whatever that says
	Key        string            `json:"key,omitempty"`      // the same key is the same task
	Labels     map[string]string `json:"labels,omitempty"`   //
	Callback   string            `json:"callback,omitempty"` // URL that is told of the end
	After      []string          `json:"after,omitempty"`    // ids of tasks that must have succeeded

	// Limit lets so many tasks run at once that have its Field, which is any
	// text, in place of the workload's KeyLimit. The platform alone says it.
	Limit KeyLimit `json:"-"`
}

// Request is what a function gets of the HTTP request that a task was, beside the
// body. The method is POST.
type Request struct {
	Target string            `json:"target"`           // path and query
	Header map[string]string `json:"header,omitempty"` // by canonical name
}

// Attempt is one execution of a task. A task that waits has none for the
// attempt to come.
type Attempt struct {
	Number   int       `json:"number"` // 1, 2, 3...
	Node     string    `json:"node"`
	Instance string    `json:"instance,omitempty"`
	Granted  time.Time `json:"granted"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Exit     *Exit     `json:"exit,omitempty"` // nil while it runs
}

// Task is a run that waits its turn, or waited. Its payload and its result are
// apart.
type Task struct {
	ID          string            `json:"id"`
	Space       string            `json:"space"`
	Workload    string            `json:"workload,omitempty"`
	Release     int               `json:"release,omitempty"`
	Image       string            `json:"image,omitempty"`       // as it was asked for
	ImageDigest string            `json:"imageDigest,omitempty"` // what it resolved to
	Argv        []string          `json:"argv,omitempty"`
	Env         map[string]string `json:"env,omitempty"`

	State     TaskState         `json:"state"`
	Priority  int               `json:"priority,omitempty"`
	Accepted  time.Time         `json:"accepted"`
	NotBefore time.Time         `json:"notBefore,omitzero"` // of the attempt to come
	Timeout   time.Duration     `json:"timeout,omitempty"`  // of one attempt, ns
	Memory    int64             `json:"memory,omitempty"`   // bytes for the attempt to come; 0: the workload's
	Retries   Retries           `json:"retries,omitzero"`
	Key       string            `json:"key,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Callback  string            `json:"callback,omitempty"`
	After     []string          `json:"after,omitempty"`
	LimitKey  string            `json:"limitKey,omitempty"` // what its workload's KeyLimit found in the payload
	LimitMax  int               `json:"limitMax,omitempty"` // how many of LimitKey run at once, where its workload does not say
	Digest    string            `json:"digest,omitempty"`   // of the payload, when there is a key or it is large
	Size      int               `json:"size,omitempty"`     // of the payload, bytes
	Request   *Request          `json:"request,omitempty"`

	Attempt  int       `json:"attempt"`            // the number of the one that runs, or comes, or was the last
	Retried  int       `json:"retried,omitempty"`  // retries used of Retries.Max
	Attempts []Attempt `json:"attempts,omitempty"` // the last ones, oldest first
	Ended    time.Time `json:"ended,omitzero"`
	Detail   string    `json:"detail,omitempty"`   // why it ended, where no attempt says so
	Progress *Progress `json:"progress,omitempty"` // what its program said last
	Cut      bool      `json:"cut,omitempty"`      // the result was longer than what is kept
}

// TaskWait is what holds a queued task back whose time has come. The zero value:
// nothing but those before it, and room on a node.
type TaskWait struct {
	Paused              bool // its workload is
	Running, Most       int  // tasks of its workload that run, and that may; Most 0: no limit
	KeyRunning, KeyMost int  // the same of those that have its LimitKey
	Rate                bool // as many have started as may for now
}

// Progress is how far a program says that it is.
type Progress struct {
	Percent float64   `json:"percent"` // 0 to 100
	Message string    `json:"message,omitempty"`
	Time    time.Time `json:"time"`
}

// Rate bounds how often tasks of a workload start, over all nodes. The zero
// value is no bound.
type Rate struct {
	PerSecond float64 `json:"perSecond,omitempty"`
	Burst     int     `json:"burst,omitempty"` // that may start at once after a pause; 1 if zero
}

// KeyLimit bounds how many tasks run at once that have the same value in a
// field of their payload. The zero value is no bound.
type KeyLimit struct {
	Field string `json:"field,omitempty"` // of a JSON payload of up to 1 MB, as in "user.id"; a task without it is not limited
	Max   int    `json:"max,omitempty"`
}

// Result is what an attempt ended with.
type Result struct {
	Exit     Exit   `json:"exit"`
	Output   []byte `json:"output,omitempty"`   // what the program wrote to stdout, or the handler's value
	Instance string `json:"instance,omitempty"` // the container that ran it

	// Header has what an answer over HTTP said of its body: Content-Type, and the
	// attributes of an event.
	Header map[string][]string `json:"-"`
}
