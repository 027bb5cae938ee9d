package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Names of the wire form.
const (
	ContentProblem = "application/problem+json"
	ContentStream  = "application/x-ndjson"
	ContentEvents  = "text/event-stream" // a stream as server-sent events, where a request accepts only them
	AttachProtocol = "mayfly-attach/1"

	HeaderSpace       = "X-Mayfly-Space"  // of a call, whose query belongs to the function
	HeaderMemory      = "X-Mayfly-Memory" // of a call: its memory limit in bytes; heard on the API only
	HeaderRun         = "X-Mayfly-Run"    // id of the run that answered a call
	HeaderIdempotency = "Idempotency-Key"
)

// Problem is an error on the wire: RFC 9457 with our kind and hint. Only Kind
// is to be branched on.
type Problem struct {
	Type   string      `json:"type" doc:"urn:mayfly:error: and the kind"`
	Title  string      `json:"title" doc:"the HTTP status in words"`
	Status int         `json:"status" doc:"the HTTP status"`
	Detail string      `json:"detail" doc:"what is wrong, on one line"`
	Kind   mayfly.Kind `json:"kind" doc:"one of a closed list"`
	Hint   string      `json:"hint,omitempty" doc:"what to do about it"`
	Run    string      `json:"run,omitempty" doc:"the run of a function that this was the end of"`
}

// kindOfStatus is for answers that carry no kind: something between the
// daemon and us spoke.
func kindOfStatus(status int) mayfly.Kind {
	for _, kind := range []mayfly.Kind{
		mayfly.Invalid, mayfly.Denied, mayfly.NotFound, mayfly.Conflict, mayfly.TooLarge,
		mayfly.Busy, mayfly.Failed, mayfly.Unavailable, mayfly.TimedOut,
	} {
		if kind.Status() == status {
			return kind
		}
	}
	if status >= 400 && status < 500 {
		return mayfly.Invalid
	}
	return mayfly.Internal
}

// NewProblem returns the wire form of an error. Its Detail and Hint together
// say what the error's own text says.
func NewProblem(err error) *Problem {
	kind := mayfly.KindOf(err)
	p := &Problem{
		Type:   "urn:mayfly:error:" + string(kind),
		Status: kind.Status(),
		Detail: err.Error(),
		Kind:   kind,
	}
	p.Title = http.StatusText(p.Status)
	var e *mayfly.Error
	if errors.As(err, &e) && e.Hint != "" {
		if detail, ok := strings.CutSuffix(p.Detail, "; "+e.Hint); ok {
			p.Detail, p.Hint = detail, e.Hint
		}
	}
	return p
}

// Err returns the error that the problem stands for.
func (p *Problem) Err() *mayfly.Error {
	kind := p.Kind
	if kind == "" {
		kind = kindOfStatus(p.Status)
	}
	return &mayfly.Error{Kind: kind, Text: p.Detail, Hint: p.Hint}
}

// Message is one line of a stream. A stream is any number of messages with
// Progress, Log, Task, Service or News, and one last with Result or Error; one without the last was
// cut off. A message without any of them only shows that the other side lives.
type Message struct {
	Progress *Progress          `json:"progress,omitempty"`
	Log      *mayfly.LogEntry   `json:"log,omitempty"`
	Task     *mayfly.Task       `json:"task,omitempty"`
	Service  *mayfly.Supervised `json:"service,omitempty"`
	News     *mayfly.News       `json:"news,omitempty"`
	Result   json.RawMessage    `json:"result,omitempty"`

	Event   *mayfly.AcceptedEvent `json:"event,omitempty"`
	Dropped int                   `json:"dropped,omitempty" doc:"so many events were left out here, because they were not taken in time"`

	Error *Problem `json:"error,omitempty"`
}

// Progress says how far a part of some long work has come.
type Progress struct {
	ID    string `json:"id,omitempty" doc:"the part, such as a layer; empty for the whole"`
	Text  string `json:"text" doc:"what is being done"`
	Done  int64  `json:"done,omitempty" doc:"bytes"`
	Total int64  `json:"total,omitempty" doc:"bytes; 0 while it is not known"`
}

// Page is one part of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"ask again with this as next for what follows; empty at the end"`
}

// Image is an image in the node's store, under one of its names.
type Image struct {
	Name    string            `json:"name,omitempty" doc:"empty if it has lost its name"`
	Digest  string            `json:"digest"`
	Size    int64             `json:"size" doc:"bytes on disk when unpacked; shared layers count in each image"`
	Blobs   int64             `json:"blobs,omitempty" doc:"bytes as stored and sent"`
	Layers  int               `json:"layers,omitempty"`
	Created time.Time         `json:"created,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`
	Config  json.RawMessage   `json:"config,omitempty" doc:"the OCI image configuration; not in lists"`
}

// Credentials are what a registry wants to see. The zero value is nobody.
type Credentials struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identityToken,omitempty"`
	RegistryToken string `json:"registryToken,omitempty"`
}

// Transfer names an image to pull or to push.
type Transfer struct {
	Name        string      `json:"name" doc:"as in debian:12 or registry.example.com/team/app@sha256:..."`
	Credentials Credentials `json:"credentials,omitzero"`
	PlainHTTP   bool        `json:"plainHTTP,omitempty" doc:"speak http to a registry that is not on this machine, too"`
}

// Tag gives an image a further name.
type Tag struct {
	Source string `json:"source" doc:"name or digest of an image that is here"`
	Target string `json:"target" doc:"the further name"`
}

// Pruned says what was removed.
type Pruned struct {
	Images []string `json:"images,omitempty"`
	Freed  int64    `json:"freed" doc:"bytes"`
}

// Usage is what the store of images takes on disk, in bytes.
type Usage struct {
	Images   int   `json:"images" doc:"how many names"`
	Blobs    int64 `json:"blobs" doc:"manifests, configurations and layers as stored"`
	Unpacked int64 `json:"unpacked" doc:"layers as containers see them, each once"`
	Partial  int64 `json:"partial" doc:"downloads that a pull can continue"`
}

// Stack is a named base image with a language in it.
type Stack struct {
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Host        bool              `json:"host,omitempty" doc:"made of the machine's own /usr"`
	Variant     string            `json:"variant,omitempty" doc:"of mmdebstrap; essential if empty"`
	Packages    []string          `json:"packages,omitempty" doc:"of Debian"`
	Env         map[string]string `json:"env,omitempty"`
	Loaders     map[string]string `json:"loaders,omitempty" doc:"language to the path of its interpreter"`
	Suites      []string          `json:"suites,omitempty" doc:"of Debian's release beside its own, such as backports"`
	Files       map[string]string `json:"files,omitempty" doc:"small ones that it has, by absolute path"`
	Prepare     []string          `json:"prepare,omitempty" doc:"commands that are run in it when it is made"`
	Build       []string          `json:"build,omitempty" doc:"further packages, where code is made ready for it"`
	Image       string            `json:"image,omitempty" doc:"digest; empty until it is built"`
	UsedBy      []string          `json:"usedBy,omitempty" doc:"workloads of the space that have it from their manifest; empty for what comes with Mayfly"`
}

// NewStack is a stack that a manifest describes, and its name there.
type NewStack struct {
	Name string `json:"name"`
	mayfly.StackSpec
}

// Code is an uploaded code tar.
type Code struct {
	Digest string `json:"digest"`
}

// Version says who answers.
type Version struct {
	Version string `json:"version"`
	API     string `json:"api"`
	Node    string `json:"node,omitempty"`
	Driver  string `json:"driver,omitempty"`
	URL     string `json:"url,omitempty" doc:"where routes are served, as http://127.0.0.1:8080"`
}

// StopRequest bounds how long a stop may wait.
type StopRequest struct {
	Grace time.Duration `json:"grace" doc:"ns between SIGTERM and SIGKILL" minimum:"0"`
}

// KillRequest names a signal.
type KillRequest struct {
	Signal int `json:"signal" doc:"number of the signal on Linux" minimum:"1" maximum:"64"`
}
