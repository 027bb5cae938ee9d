package api

import (
	"context"
	"io"
	"net/http"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// The interfaces below are what the server asks of the platform. Their errors
// carry a kind (mayfly.Error), from which the answer's status follows; an error
// without one is a defect and is logged. A space is a valid name. A ref is an
// id, the beginning of one that fits no other, or a name. Every method ends
// soon after its context.

// Instances are the containers of this machine. The node package gives them.
type Instances interface {
	InstanceMaker
	InstanceReader
	InstanceEnder
	InstanceStreams
	InstanceFiles
}

// InstanceMaker makes instances and starts them.
type InstanceMaker interface {
	// CreateInstance makes an instance and leaves it waiting, in state Created.
	CreateInstance(ctx context.Context, spec mayfly.InstanceSpec) (mayfly.Instance, error)

	// StartInstance starts the program of a created instance. One that cannot
	// be executed is no error: the instance ends with code 126 or 127 and a
	// Detail that says why.
	StartInstance(ctx context.Context, space, id string) error
}

// InstanceReader tells what instances there are.
type InstanceReader interface {
	// ListInstances returns the instances in any order; without all, those
	// that have not ended.
	ListInstances(ctx context.Context, space string, all bool) ([]mayfly.Instance, error)
	GetInstance(ctx context.Context, space, ref string) (mayfly.Instance, error)
	InstanceStats(ctx context.Context, space, ref string) (mayfly.Stats, error)
}

// InstanceEnder ends instances and sees them end.
type InstanceEnder interface {
	// StopInstance sends SIGTERM, waits for the grace, sends SIGKILL, and
	// returns when the program has ended. One that has ended already is no
	// error.
	StopInstance(ctx context.Context, space, ref string, grace time.Duration) error
	KillInstance(ctx context.Context, space, ref string, signal syscall.Signal) error

	// WaitInstance returns the instance when it has ended. It knows an
	// instance with AutoRemove for as long as anybody waits for it, and for
	// some seconds after its end.
	WaitInstance(ctx context.Context, space, ref string) (mayfly.Instance, error)

	// RemoveInstance forgets an ended instance. One that runs is a Conflict,
	// unless force kills it first.
	RemoveInstance(ctx context.Context, space, ref string, force bool) error
}

// InstanceStreams carry what programs read and write.
type InstanceStreams interface {
	// AttachInstance copies the program's output to stdout and stderr, and
	// stdin, unless it is nil, to the program's input, whose end it passes on.
	// It calls ready once, when nothing that the program writes from then on
	// will be missed, and returns when the output has ended. It may be called
	// for a created instance. It does not wait for stdin to end.
	AttachInstance(ctx context.Context, space, ref string, stdin io.Reader, stdout, stderr io.Writer, ready func()) error

	// ExecInstance runs one more program in a running instance, with its streams
	// as in AttachInstance, and returns how it ended; one that cannot be executed
	// is no error. It calls ready once it runs. When ctx ends the program is made
	// to end too. A ref may be SERVICE or SERVICE/REPLICA as well.
	ExecInstance(ctx context.Context, space, ref string, spec mayfly.ExecSpec, stdin io.Reader, stdout, stderr io.Writer, ready func()) (mayfly.Exit, error)

	// InstanceLogs gives each entry to each, in order, and stops at its error.
	InstanceLogs(ctx context.Context, space, ref string, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error
}

// Workloads are the functions and their runs. The router package gives them.
type Workloads interface {
	Deployer
	Caller
	Runs
}

// Deployer keeps the releases of workloads.
type Deployer interface {
	// Deploy makes a release and returns when one sandbox of it has become
	// ready. When none does, the error (kind Failed) has the log, and the
	// release before stays active. Code is the digest of an uploaded tar.
	Deploy(ctx context.Context, w mayfly.Workload, progress func(string)) (mayfly.Release, error)

	// Plan says what Deploy would do with each of a space's workloads, which are
	// of one app, and changes nothing. It may change what it is given.
	Plan(ctx context.Context, space, app string, list []mayfly.Workload) (mayfly.Plan, error)

	// ListWorkloads returns the active releases in any order.
	ListWorkloads(ctx context.Context, space string) ([]mayfly.Release, error)
	GetWorkload(ctx context.Context, space, name string) (mayfly.Release, error)
	DeleteWorkload(ctx context.Context, space, name string) error

	// WorkloadReleases returns the releases that still exist, newest first.
	WorkloadReleases(ctx context.Context, space, name string) ([]mayfly.ServiceRelease, error)

	// RollbackWorkload makes another release the active one; 0: the one before. Of
	// a function it returns when one sandbox of it is ready.
	RollbackWorkload(ctx context.Context, space, name string, release int, progress func(string)) (mayfly.Release, error)

	// DiffReleases says what differs between two releases. A to of 0 is the active
	// one, a from of 0 the one before it.
	DiffReleases(ctx context.Context, space, name string, from, to int) (mayfly.ReleaseDiff, error)

	// PutCode stores a code tar and returns its digest. The server has bounded
	// its size already.
	PutCode(ctx context.Context, tar io.Reader) (digest string, err error)

	// FindCode returns nil when the tar of a digest is there, and a NotFound
	// error when it has to be put.
	FindCode(ctx context.Context, digest string) error
}

// Caller runs functions.
type Caller interface {
	// ServeCall runs the function with the request, whose URL is as the
	// function shall see it, and answers with what the function gave, or with
	// a problem. It sets X-Mayfly-Run and Server-Timing.
	ServeCall(w http.ResponseWriter, r *http.Request, to client.Callee)
}

// Runs tells what was run.
type Runs interface {
	// ListRuns returns at most limit runs, newest first, that are older than
	// the one with the id before, where that is not empty; of every workload
	// when workload is empty.
	ListRuns(ctx context.Context, space, workload string, limit int, before string) ([]mayfly.Run, error)
	GetRun(ctx context.Context, space, ref string) (mayfly.Run, error)
	RunLogs(ctx context.Context, space, ref string, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error
}

// Tasks are runs that wait their turn. The queue package gives them. An id is a
// whole one.
type Tasks interface {
	TaskSubmitter
	TaskReader
	TaskChanger
	TaskQueues
	TaskCallbacks
}

// TaskSubmitter accepts tasks.
type TaskSubmitter interface {
	// Submit answers in the order of what was submitted. What was accepted is
	// on disk.
	Submit(ctx context.Context, subs []mayfly.Submission) []queue.Accepted

	// PutPayload keeps what is read of r, up to MaxPayload bytes, for one task
	// whose submission names ref. Nothing is left of one that fails.
	PutPayload(ctx context.Context, space string, r io.Reader) (ref string, size int64, err error)
	MaxPayload() int64

	// DropPayload forgets one that is not submitted after all.
	DropPayload(space, ref string)
}

// TaskReader tells what became of tasks.
type TaskReader interface {
	Get(ctx context.Context, space, id string) (mayfly.Task, error)
	List(ctx context.Context, f queue.Filter) (queue.Page, error)

	// Wait returns the task when it has ended or was buried.
	Wait(ctx context.Context, space, id string) (mayfly.Task, error)

	// Watch returns the task when its state, attempt or progress is another
	// than in seen.
	Watch(ctx context.Context, space, id string, seen mayfly.Task) (mayfly.Task, error)

	// OpenPayload opens what a task that has not ended was submitted with, and
	// says how many bytes it has. Result returns what one that has ended
	// returned.
	OpenPayload(ctx context.Context, space, id string) (io.ReadCloser, int64, error)
	Result(ctx context.Context, space, id string) ([]byte, error)
}

// TaskChanger changes what becomes of tasks.
type TaskChanger interface {
	// Cancel returns when the outcome is on disk. A task that has ended, or was
	// buried, is a Conflict.
	Cancel(ctx context.Context, space, id string) (mayfly.Task, error)

	// Retry brings a buried task back, and Purge ends one. Any other task is a
	// Conflict.
	Retry(ctx context.Context, space, id string) (mayfly.Task, error)
	Purge(ctx context.Context, space, id string) (mayfly.Task, error)

	// Progress notes how far an attempt is. One that does not run is a Conflict.
	Progress(ctx context.Context, space, id string, attempt int, p mayfly.Progress) error
}

// TaskCallbacks tell others of the ends of tasks.
type TaskCallbacks interface {
	// Secret is what the callbacks of a space are signed with, in the form of
	// Standard Webhooks.
	Secret(ctx context.Context, space string) (string, error)
}

// TaskQueues are the queues of workloads.
type TaskQueues interface {
	Pause(ctx context.Context, space, workload string) error
	Resume(ctx context.Context, space, workload string) error
	Paused(space, workload string) bool
}

// Schedules make tasks at their times. The queue package gives them.
type Schedules interface {
	ScheduleReader
	ScheduleChanger
}

// ScheduleReader tells what schedules there are.
type ScheduleReader interface {
	// Get returns a schedule with at most so many of its ticks to come.
	Get(ctx context.Context, space, name string, next int) (mayfly.Scheduled, error)

	// List returns at most limit schedules whose names come after a given one,
	// by name; fewer when there are no more.
	List(ctx context.Context, space, after string, limit int) ([]mayfly.Scheduled, error)
}

// ScheduleChanger changes schedules.
type ScheduleChanger interface {
	// Add keeps a schedule. One of its name is a Conflict unless it is to be
	// replaced.
	Add(ctx context.Context, s mayfly.Schedule, replace bool) (mayfly.Scheduled, error)
	Remove(ctx context.Context, space, name string) error
	Pause(ctx context.Context, space, name string) (mayfly.Scheduled, error)
	Resume(ctx context.Context, space, name string) (mayfly.Scheduled, error)

	// RunNow submits a schedule's task out of turn.
	RunNow(ctx context.Context, space, name string) (mayfly.Task, error)
}

// Logs gives what was written in containers of functions and tasks, those that
// are gone included. The node package gives it.
type Logs interface {
	// SandboxLogs gives each entry to each, in order, and stops at its error.
	SandboxLogs(ctx context.Context, id string, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error
}

// Images are the node's images. The image package gives them.
type Images interface {
	ImageReader
	ImageTransfer
	ImageKeeper
}

// ImageReader tells what images there are.
type ImageReader interface {
	ListImages(ctx context.Context) ([]client.Image, error)
	GetImage(ctx context.Context, name string) (client.Image, error)
	ImageUsage(ctx context.Context) (client.Usage, error)
}

// ImageTransfer moves images in and out. It may report from several
// goroutines at once.
type ImageTransfer interface {
	// ImportImage makes an image of an archive, whose end is the body's: one
	// that breaks off is an error of the reader.
	ImportImage(ctx context.Context, name string, archive io.Reader) (client.Image, error)
	PullImage(ctx context.Context, t client.Transfer, report func(client.Progress)) (client.Image, error)
	PushImage(ctx context.Context, t client.Transfer, report func(client.Progress)) (client.Image, error)
}

// ImageKeeper names images and removes them.
type ImageKeeper interface {
	TagImage(ctx context.Context, source, target string) (client.Image, error)
	RemoveImage(ctx context.Context, name string, force bool) error

	// PruneImages removes the images that have no name and that nothing uses,
	// or with all every one that nothing uses.
	PruneImages(ctx context.Context, all bool) (client.Pruned, error)
}

// Stacks are base images with a language in them. The build package gives them.
type Stacks interface {
	// ListStacks and GetStack give those that come with Mayfly, and those that
	// workloads of the space describe.
	ListStacks(ctx context.Context, space string) ([]client.Stack, error)
	GetStack(ctx context.Context, space, name string) (client.Stack, error)

	// MakeStack builds a stack that a manifest describes, unless it is there.
	MakeStack(ctx context.Context, spec client.NewStack, report func(client.Progress)) (client.Stack, error)

	// BuildStack builds a stack unless what it is made of has not changed, or
	// with fresh in any case.
	BuildStack(ctx context.Context, space, name string, fresh bool, report func(client.Progress)) (client.Stack, error)
}

// Machine is the node as a whole.
type Machine interface {
	// StopAll stops every container of every space, and returns when none
	// runs any more. Nothing can be started from then on.
	StopAll(ctx context.Context, progress func(string)) error
}

// Places are where tasks run on this machine. The node package gives them.
type Places interface {
	// Waiting lets another task run in the place of one that waits for others,
	// until over is called.
	Waiting(task string) (over func())
}

// Services is everything that the server serves. A nil field answers its
// operations with Unavailable.
type Services struct {
	Instances  Instances
	Workloads  Workloads
	Tasks      Tasks
	Schedules  Schedules
	Events     Events
	Routes     Routes
	Endpoints  Endpoints
	Logs       Logs   // of tasks
	Places     Places // where tasks run; none is lent if nil
	Images     Images
	Stacks     Stacks
	Machine    Machine
	Supervised Supervised
	Loads      Loads
	News       News
	Explainer  Explainer
	Volumes    Volumes
	Secrets    Secrets
	Configs    Configs
}
