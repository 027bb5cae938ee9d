package queue

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Bounds on what is submitted, and what holds where nothing was said.
const (
	maxRetries     = 100
	maxLabels      = 64
	maxEnv         = 256
	maxKey         = 256 // bytes
	maxCallback    = 2048
	maxAfter       = 100
	maxDelay       = 366 * 24 * time.Hour
	defaultTimeout = time.Hour // of an attempt
	defaultMemory  = 512 << 20 // bytes, of which a task that may have more begins with
)

// Images knows the images of this machine. Package image's store is wrapped
// into one.
type Images interface {
	// Resolve returns the digest of an image, or NotFound when it is not there.
	Resolve(ctx context.Context, name string) (digest string, err error)
}

// newTask checks a submission by itself and returns its task.
func newTask(sub mayfly.Submission) (mayfly.Task, error) {
	if sub.Space == "" {
		sub.Space = mayfly.DefaultSpace
	}
	if err := checkSubmission(sub); err != nil {
		return mayfly.Task{}, err
	}
	task := mayfly.Task{
		ID: mayfly.NewID(), Space: sub.Space, Workload: sub.Workload, Release: sub.Release,
		Image: sub.Image, Argv: sub.Argv, Env: sub.Env,
		State: mayfly.TaskQueued, Priority: sub.Priority, Accepted: now(), NotBefore: sub.NotBefore.UTC(),
		Timeout: sub.Timeout, Memory: sub.Memory, Retries: sub.Retries,
		Key: sub.Key, Labels: sub.Labels, Callback: sub.Callback, After: sub.After,
		Size: len(sub.Payload), Request: sub.Request, Attempt: 1,
		LimitKey: sub.Limit.Field, LimitMax: sub.Limit.Max,
	}
	if sub.Key != "" {
		task.ID = keyID(task.Space, queueOf(task), sub.Key)
		task.Digest = digest(sub.Payload)
	}
	return task, nil
}

// resolver makes tasks definite: the release or the digest that they pin, and
// what their workloads say where their submissions say nothing.
type resolver struct {
	q       *Queue
	digests map[string]string // of the images that were asked for
}

func (r *resolver) resolve(ctx context.Context, p *publish) error {
	task := &p.task
	if task.Workload == "" {
		var err error
		if task.ImageDigest, err = r.image(ctx, task.Image); err != nil {
			return err
		}
		applyDefaults(task, &mayfly.Workload{})
		return nil
	}
	w, err := r.q.store.Function(task.Space, task.Workload)
	if err != nil {
		return err
	}
	rel := &w.Release
	if task.Release != 0 && task.Release != rel.Number {
		pinned, err := r.q.store.Release(ctx, task.Space, task.Workload, task.Release)
		if err != nil {
			return err
		}
		rel = &pinned
	}
	task.Release = rel.Number
	if most := rel.Workload.MaxBody; most > 0 && int64(task.Size) > most {
		return mayfly.Errorf(mayfly.TooLarge, "the payload has %d bytes; function %s takes %d at most", task.Size, task.Workload, most)
	}
	p.limits, p.revision = limitsOf(&w.Workload), w.Revision
	applyDefaults(task, &rel.Workload)
	return nil
}

func (r *resolver) image(ctx context.Context, name string) (string, error) {
	if r.q.opts.Images == nil {
		return "", mayfly.Errorf(mayfly.Unavailable, "this node has no images, and cannot look up %q", name)
	}
	if digest := r.digests[name]; digest != "" {
		return digest, nil
	}
	digest, err := r.q.opts.Images.Resolve(ctx, name)
	if err != nil {
		return "", err
	}
	if r.digests == nil {
		r.digests = map[string]string{}
	}
	r.digests[name] = digest
	return digest, nil
}

// applyDefaults fills what a task does not say. The memory is left to the
// workload, unless a retry is to have more.
func applyDefaults(task *mayfly.Task, w *mayfly.Workload) {
	r, d := &task.Retries, w.Retries
	switch r.Max = cmp.Or(r.Max, d.Max); {
	case r.Max < 0:
		*r = mayfly.Retries{}
	default:
		if len(r.Delays) == 0 && r.Backoff == 0 {
			r.Delays, r.Backoff = d.Delays, d.Backoff
		}
		if len(r.Final) == 0 {
			r.Final = d.Final
		}
		r.Longest = cmp.Or(r.Longest, d.Longest)
		r.Jitter = cmp.Or(r.Jitter, d.Jitter)
		r.MemoryUpTo = cmp.Or(r.MemoryUpTo, d.MemoryUpTo)
	}
	task.Timeout = cmp.Or(task.Timeout, w.Timeout, defaultTimeout)
	if r.MemoryUpTo > 0 {
		task.Memory = cmp.Or(task.Memory, w.Memory, defaultMemory)
	}
}

// pinned returns the release that a task pins, nil for one of an image.
func (q *Queue) pinned(ctx context.Context, task mayfly.Task) (*mayfly.Release, error) {
	if task.Workload == "" {
		return nil, nil
	}
	w, err := q.store.Workload(task.Space, task.Workload)
	if err == nil && (task.Release == w.Number || task.Release == 0) {
		return &w.Release, nil
	}
	if err != nil && task.Release == 0 {
		return nil, err
	}
	rel, err := q.store.Release(ctx, task.Space, task.Workload, task.Release)
	if err != nil {
		return nil, err
	}
	return &rel, nil
}

func checkSubmission(sub mayfly.Submission) error {
	if err := checkQueue(sub.Space, sub.Workload); err != nil {
		return err
	}
	invalid := func(format string, args ...any) error { return mayfly.Errorf(mayfly.Invalid, format, args...) }
	switch {
	case (sub.Workload == "") == (sub.Image == ""):
		return invalid("a task needs either a workload or an image")
	case sub.Image == "" && (len(sub.Argv) > 0 || len(sub.Env) > 0):
		return invalid("arguments and environment are for tasks of an image")
	case sub.Image != "" && sub.Request != nil:
		return invalid("a request is for tasks of a workload")
	case sub.Release < 0 || sub.Image != "" && sub.Release != 0:
		return invalid("release %d cannot be that of a task", sub.Release)
	case len(sub.Payload) > 0 && sub.PayloadRef != "":
		return invalid("payload and payloadRef exclude each other")
	case len(sub.Payload) > MaxInline:
		return mayfly.Errorf(mayfly.TooLarge, "the payload has %d bytes, and what comes with a task is limited to %d", len(sub.Payload), MaxInline).
			WithHint("upload it with POST /v1/payloads, and submit its ref")
	case sub.Priority < 0 || sub.Priority > mayfly.MaxPriority:
		return invalid("priority %d is not between 0 and %d", sub.Priority, mayfly.MaxPriority)
	case time.Until(sub.NotBefore) > maxDelay:
		return invalid("the task is to start at %s, which is more than a year away", sub.NotBefore.Format(time.RFC3339))
	case sub.Timeout < 0 || sub.Memory < 0:
		return invalid("timeout and memory cannot be negative")
	case len(sub.Key) > maxKey:
		return invalid("the key has %d bytes, and the limit is %d", len(sub.Key), maxKey)
	case len(sub.Labels) > maxLabels || len(sub.After) > maxAfter:
		return invalid("a task has at most %d labels and comes after at most %d others", maxLabels, maxAfter)
	}
	for _, id := range sub.After {
		if !idPattern.MatchString(id) {
			return invalid("task id %q is not an id", id)
		}
	}
	if err := checkProgram(sub); err != nil {
		return err
	}
	if err := checkRequest(sub.Request); err != nil {
		return err
	}
	if err := checkRetries(sub.Retries); err != nil {
		return err
	}
	return CheckURL(sub.Callback)
}

// checkProgram refuses what no program can be started with.
func checkProgram(sub mayfly.Submission) error {
	if len(sub.Env) > maxEnv {
		return mayfly.Errorf(mayfly.Invalid, "a task has at most %d variables", maxEnv)
	}
	for name, value := range sub.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return mayfly.Errorf(mayfly.Invalid, "variable %q cannot be set: a name is not empty and has no '=', and neither part has a zero byte", name)
		}
	}
	for _, arg := range sub.Argv {
		if strings.Contains(arg, "\x00") {
			return mayfly.Errorf(mayfly.Invalid, "argument %q has a zero byte", arg)
		}
	}
	return nil
}

func checkRetries(r mayfly.Retries) error {
	switch {
	case r.Max < -1 || r.Max > maxRetries || len(r.Delays) > maxRetries || len(r.Final) > 256:
		return mayfly.Errorf(mayfly.Invalid, "a task has at most %d retries", maxRetries)
	case !(r.Jitter >= 0 && r.Jitter <= 1) || r.Backoff < 0 || r.Longest < 0 || r.MemoryUpTo < 0:
		return mayfly.Errorf(mayfly.Invalid, "backoff and memory cannot be negative, and jitter is between 0 and 1")
	case r.Backoff > maxDelay || r.Longest > maxDelay:
		return mayfly.Errorf(mayfly.Invalid, "a retry comes at most a year after the failure")
	}
	for _, d := range r.Delays {
		if d < 0 || d > maxDelay {
			return mayfly.Errorf(mayfly.Invalid, "a delay of %s before a retry is not between 0 and a year", d)
		}
	}
	return nil
}
