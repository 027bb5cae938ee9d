// Package mayfly holds the nouns of Mayfly: workloads, releases, instances,
// runs and endpoints, the reasons for which a run ends, and the closed list of
// error kinds. Every other package speaks in these words. It does no work, and
// it imports nothing but the standard library.
package mayfly

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"regexp"
	"strings"
	"time"
)

// DefaultSpace is the space of whoever names none.
const DefaultSpace = "default"

// Protocol is how a function is given its input and gives back its output.
type Protocol string

// The protocols.
const (
	HTTP    Protocol = "http"    // the program listens on $PORT
	CGI     Protocol = "cgi"     // CGI/1.1 (RFC 3875), a process for each request
	Stdio   Protocol = "stdio"   // body on stdin, answer on stdout, the exit code decides
	Handler Protocol = "handler" // handle(event, context), called by the stack's loader
)

// Isolation says how many runs an instance serves.
type Isolation string

// The isolations.
const (
	IsolationRun      Isolation = "run"      // a fresh container for every run
	IsolationInstance Isolation = "instance" // one container for many runs
)

// Resources bound what one instance may use. Zero means the default.
type Resources struct {
	Memory int64   `json:"memory,omitempty"` // bytes
	CPUs   float64 `json:"cpus,omitempty"`   // cores
	Pids   int64   `json:"pids,omitempty"`   // processes and threads
	Files  uint64  `json:"files,omitempty"`  // open files of one process
}

// Mount brings a directory or a tmpfs into a container.
type Mount struct {
	Type     string `json:"type"`             // "bind" or "tmpfs"
	Source   string `json:"source,omitempty"` // absolute host path; empty for tmpfs
	Target   string `json:"target"`           // absolute path in the container
	ReadOnly bool   `json:"readOnly,omitempty"`
	Size     int64  `json:"size,omitempty"` // bytes, tmpfs only
}

// Port publishes a port of an instance on the node.
type Port struct {
	Container uint16 `json:"container"`
	Host      uint16 `json:"host"`               // 0: picked by the system
	HostIP    string `json:"hostIP,omitempty"`   // every address if empty
	Protocol  string `json:"protocol,omitempty"` // "tcp" if empty, or "udp"
}

// Process says what a container runs and as whom. A nil or zero field leaves
// what the image says.
type Process struct {
	Entrypoint []string          `json:"entrypoint,omitzero"` // nil keeps the image's; empty is none
	Command    []string          `json:"command,omitempty"`   // nil keeps the image's, unless Entrypoint is set
	Env        map[string]string `json:"env,omitempty"`       // over the image's
	WorkDir    string            `json:"workDir,omitempty"`
	User       string            `json:"user,omitempty"` // user[:group], names or numbers
}

// Workload is a named spec: what to run and what makes it run. Which of Image,
// or Stack with Code, is set says where the root comes from.
type Workload struct {
	Space string `json:"space"`
	Name  string `json:"name"`

	Image   string     `json:"image,omitempty"`   // name or digest
	Stack   string     `json:"stack,omitempty"`   // base image with a language in it
	Base    *StackSpec `json:"base,omitempty"`    // what Stack is made of; nil: it comes with Mayfly
	Code    string     `json:"code,omitempty"`    // digest of the uploaded code tar
	Build   *Build     `json:"build,omitempty"`   // what is done to the code first; nil: nothing
	Handler string     `json:"handler,omitempty"` // file.function, protocol handler only

	Process
	Resources
	Mounts   []Mount `json:"mounts,omitempty"`
	ReadOnly bool    `json:"readOnly,omitempty"` // the root cannot be written to
	Network  string  `json:"network,omitempty"`  // "bridge" if empty, "none" or "host"

	App      string            `json:"app,omitempty"` // the manifest's name; plain names of services are known inside it
	Labels   map[string]string `json:"labels,omitempty"`
	Provides []Provide         `json:"provides,omitempty"`
	Requires []Require         `json:"requires,omitempty"`
	Volumes  []VolumeMount     `json:"volumes,omitempty"`
	Secrets  []SecretMount     `json:"secrets,omitempty"`
	Configs  []ConfigMount     `json:"configs,omitempty"`
	Service  *Service          `json:"service,omitempty"` // nil: a function

	Protocol    Protocol      `json:"protocol,omitempty"`
	Isolation   Isolation     `json:"isolation,omitempty"`
	Concurrency int           `json:"concurrency,omitempty"` // runs at once over all nodes; 0: no limit
	Scale       Scale         `json:"scale,omitzero"`
	Rate        Rate          `json:"rate,omitzero"`
	Key         KeyLimit      `json:"key,omitzero"`
	Retries     Retries       `json:"retries,omitzero"`  // of its tasks, where a submission says nothing
	Timeout     time.Duration `json:"timeout,omitempty"` // of one run, in nanoseconds
	MaxBody     int64         `json:"maxBody,omitempty"` // bytes of a request's body
	Routes      []Route       `json:"routes,omitempty"`
	Schedules   []Schedule    `json:"schedules,omitempty"` // of its tasks; whose they are, and which workload, follows

	// Detected are those of stack, start, protocol, isolation and build that were
	// found out from the code and not said. The next push finds them out again.
	Detected []string `json:"detected,omitempty"`

	Events []EventMapping `json:"events,omitempty"` // that run it; whose they are follows
}

// Release is an immutable revision of a workload. A run pins the release that
// it was accepted with.
type Release struct {
	Workload Workload  `json:"workload"`
	Number   int       `json:"number"` // 1, 2, 3...
	Image    string    `json:"image"`  // digest of the image that Workload resolved to
	Created  time.Time `json:"created"`
}

// Reason says why a run or an instance ended.
type Reason string

// The reasons. Every end has one of them.
const (
	Succeeded      Reason = "succeeded"
	ExitedNonZero  Reason = "failed"
	DeadlinePassed Reason = "timed-out"
	OutOfMemory    Reason = "out-of-memory"
	Cancelled      Reason = "cancelled"
	Lost           Reason = "lost"
	Rejected       Reason = "rejected"
)

// Exit is how a program ended.
type Exit struct {
	Code   int       `json:"code"`             // 128+n when signal n ended it
	Signal int       `json:"signal,omitempty"` // 0 when it returned
	Reason Reason    `json:"reason"`
	Detail string    `json:"detail,omitempty"` // one line for a person
	Time   time.Time `json:"time"`
}

// State is where an instance is in its life. It only moves down this list.
type State string

// The states of an instance.
const (
	Starting State = "starting"
	Created  State = "created" // made and waiting to be started
	Running  State = "running"
	Stopping State = "stopping"
	Exited   State = "exited"
)

// Instance is one container on one node.
type Instance struct {
	ID        string            `json:"id"`
	Space     string            `json:"space"`
	Name      string            `json:"name,omitempty"`     // unique in its space among those not removed
	Workload  string            `json:"workload,omitempty"` // empty for `mayfly run`
	Release   int               `json:"release,omitempty"`
	Node      string            `json:"node"`
	Image     string            `json:"image"`  // as it was asked for
	Digest    string            `json:"digest"` // what it resolved to
	Argv      []string          `json:"argv"`
	State     State             `json:"state"`
	Created   time.Time         `json:"created"`
	Started   time.Time         `json:"started,omitzero"`
	Exit      *Exit             `json:"exit,omitempty"` // nil until State is Exited
	App       string            `json:"app,omitempty"`
	Replica   int               `json:"replica,omitempty"`  // of a service: 1, 2, 3...
	Sidecar   string            `json:"sidecar,omitempty"`  // its name, where it is one
	Beside    string            `json:"beside,omitempty"`   // the instance whose sidecar it is
	Assigned  string            `json:"assigned,omitempty"` // the assignment that it is for, by id
	Address   string            `json:"address,omitempty"`
	Ports     []Port            `json:"ports,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Resources Resources         `json:"resources"`
	Timeout   time.Duration     `json:"timeout,omitempty"` // ns from Started; 0: none

	AutoRemove bool   `json:"autoRemove,omitempty"` // it is forgotten when it has ended
	StopSignal string `json:"stopSignal,omitempty"` // SIGTERM if empty
}

// InstanceSpec asks for one container of an image, outside any workload.
type InstanceSpec struct {
	Space string `json:"space,omitempty"`
	Name  string `json:"name,omitempty"` // made up if empty
	Image string `json:"image"`
	Process
	Resources
	Mounts     []Mount           `json:"mounts,omitempty"`
	Volumes    []VolumeMount     `json:"volumes,omitempty"`
	Ports      []Port            `json:"ports,omitempty"`
	ReadOnly   bool              `json:"readOnly,omitempty"`
	Network    string            `json:"network,omitempty"` // "bridge" if empty, "none" or "host"
	Hostname   string            `json:"hostname,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Stdin      bool              `json:"stdin,omitempty"`      // somebody will attach and write to it
	Timeout    time.Duration     `json:"timeout,omitempty"`    // ns from start; 0: none
	AutoRemove bool              `json:"autoRemove,omitempty"` // forget it when it has ended
}

// ExecSpec asks for one more program in a running instance.
type ExecSpec struct {
	Command []string          `json:"command"`           // the program and its arguments
	Env     map[string]string `json:"env,omitempty"`     // over the instance's
	WorkDir string            `json:"workDir,omitempty"` // the instance's if empty; a relative one begins there
	User    string            `json:"user,omitempty"`    // user[:group]; the instance's if empty
	Stdin   bool              `json:"stdin,omitempty"`   // somebody will write to it
}

// Stats is what an instance uses now.
type Stats struct {
	Time      time.Time     `json:"time"`
	Memory    int64         `json:"memory"`              // bytes, without the page cache that can be dropped
	MemoryMax int64         `json:"memoryMax,omitempty"` // bytes, the limit; 0: none
	CPU       time.Duration `json:"cpu"`                 // used since it started, ns
	Throttled time.Duration `json:"throttled"`           // waited for its CPU quota, ns
	Pids      int64         `json:"pids"`
}

// LogEntry is one piece of what a program wrote, as it was written: a line, a
// part of one, or several.
type LogEntry struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"` // "stdout" or "stderr"
	Data   []byte    `json:"data"`

	Process string `json:"process,omitempty"` // its name, where a container runs several
}

// LogOptions choose what of a log is given.
type LogOptions struct {
	Follow bool      // go on until the program ends
	Since  time.Time // nothing older; everything if zero
	Tail   int       // only the last n lines; all if negative
}

// Run is one execution of a workload for one input.
type Run struct {
	ID       string        `json:"id"`
	Space    string        `json:"space"`
	Workload string        `json:"workload"`
	Release  int           `json:"release"`
	Node     string        `json:"node"`
	Instance string        `json:"instance,omitempty"`
	Trigger  string        `json:"trigger"` // "call" or "route"
	Started  time.Time     `json:"started"`
	Queue    time.Duration `json:"queue"`            // waited for room, ns
	Sandbox  time.Duration `json:"sandbox"`          // until a sandbox was in hand, ns
	Handler  time.Duration `json:"handler"`          // from hand-over to the end, ns
	Status   int           `json:"status,omitempty"` // HTTP status, where there is one
	Moved    int           `json:"moved,omitempty"`  // times that its instance ended before it had answered, and another one got it
	Exit     *Exit         `json:"exit,omitempty"`   // nil while it runs
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName returns an Invalid error unless name can name a workload, a space
// or an instance: an RFC 1123 label, so that it can be a host name as well.
func CheckName(what, name string) error {
	if namePattern.MatchString(name) {
		return nil
	}
	return Errorf(Invalid, "%s %q is not a valid name", what, name).
		WithHint("use 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'")
}

const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

var idEncoding = base32.NewEncoding(idAlphabet).WithPadding(base32.NoPadding)

// NewID returns a new identifier: 20 characters of lower-case base 32 that
// sort by the millisecond of their making and then by 52 random bits.
func NewID() string {
	var b [20]byte // 13 used; two spare keep the shifts simple
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(b[6:13])
	return idEncoding.EncodeToString(b[:13])[:20]
}

// IDTime returns the earliest moment at which NewID can have made an id that
// begins with prefix, and false when there is no such id.
func IDTime(prefix string) (time.Time, bool) {
	const timeChars = 10 // hold 48 bits of milliseconds, and two more
	var bits int64
	for i := range timeChars {
		digit := 0
		if i < len(prefix) {
			digit = strings.IndexByte(idAlphabet, prefix[i])
		}
		if digit < 0 {
			return time.Time{}, false
		}
		bits = bits<<5 | int64(digit)
	}
	return time.UnixMilli(bits >> 2), true
}

// IDOf returns the identifier that stands for some texts: the same for the same
// ones. It is a hash, and does not sort by time.
func IDOf(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return idEncoding.EncodeToString(sum[:])[:20]
}
