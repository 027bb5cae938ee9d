package mayfly

import (
	"path"
	"strings"
	"time"
)

// VolumeMount brings a volume into a container.
type VolumeMount struct {
	Volume   string `json:"volume"` // its name in the space
	Target   string `json:"target"` // absolute path in the container
	ReadOnly bool   `json:"readOnly,omitempty"`
	Subpath  string `json:"subpath,omitempty"` // a directory of the volume

	// Copy fills a volume that is empty with what the image has at Target.
	Copy bool `json:"copy,omitempty"`
}

// The volume providers of a machine.
const (
	VolumeLocal = "local" // a directory of the node; if empty
	VolumeTmpfs = "tmpfs" // memory, gone with the node
	VolumeBind  = "bind"  // a directory of the host that an administrator allowed
)

// Volume is storage that outlives containers.
type Volume struct {
	Space    string            `json:"space"`
	Name     string            `json:"name"`
	App      string            `json:"app,omitempty"`
	Provider string            `json:"provider,omitempty"`
	Source   string            `json:"source,omitempty"` // bind only: absolute host path
	Size     int64             `json:"size,omitempty"`   // bytes; 0: no limit
	Owner    string            `json:"owner,omitempty"`  // "uid:gid" of its top, when it is made
	Mode     uint32            `json:"mode,omitempty"`   // permission bits of its top, when it is made; 0755 if zero
	Shared   bool              `json:"shared,omitempty"` // several instances may write at once
	Purge    bool              `json:"purge,omitempty"`  // it goes with the last workload that names it
	Events   VolumeEvents      `json:"events,omitzero"`  // what is told of files that come into it
	Labels   map[string]string `json:"labels,omitempty"`

	Node       string    `json:"node,omitempty"` // where it lies
	Created    time.Time `json:"created,omitzero"`
	Fence      uint64    `json:"fence,omitempty"`       // raised for each writer
	Writer     string    `json:"writer,omitempty"`      // instance that may write; none if empty or Shared
	WriterName string    `json:"writer_name,omitempty"` // of that instance, as people know it: a service's is SERVICE/N
	Leaving    bool      `json:"leaving,omitempty"`     // it is being removed
}

// VolumeEvents have it told as events that files came into a volume and are
// complete. The zero value has nothing told.
type VolumeEvents struct {
	Type  string   `json:"type" doc:"of the events, such as photo.uploaded"`
	Match []string `json:"match,omitempty" doc:"patterns as in *.jpg, of the name, or with a slash of the whole path; empty: all but hidden and unfinished files"`
	Depth int      `json:"depth,omitempty" minimum:"0" maximum:"32" doc:"levels of directories at which files lie, 1 for the top only; 0: 32, the most"`
}

// The bounds of VolumeEvents.
const (
	maxVolumePatterns = 32
	maxVolumePattern  = 256
	maxVolumeDepth    = 32
	maxVolumeType     = 256
)

// On reports whether anything is told.
func (e *VolumeEvents) On() bool { return e.Type != "" }

// Check reports what is wrong.
func (e *VolumeEvents) Check() error {
	switch {
	case !e.On() && (len(e.Match) > 0 || e.Depth != 0):
		return Errorf(Invalid, "events need a type").WithHint("give one, such as photo.uploaded")
	case len(e.Type) > maxVolumeType || strings.ContainsFunc(e.Type, func(c rune) bool { return c <= ' ' || c > '~' }):
		return Errorf(Invalid, "%.100q is no type of events", e.Type).WithHint("write a word such as photo.uploaded")
	case strings.HasPrefix(e.Type, "mayfly."):
		return Errorf(Invalid, "types of events that begin with mayfly. are the platform's own").WithHint("write a word such as photo.uploaded")
	case len(e.Match) > maxVolumePatterns:
		return Errorf(Invalid, "more than %d patterns of names", maxVolumePatterns)
	case e.Depth < 0 || e.Depth > maxVolumeDepth:
		return Errorf(Invalid, "a depth of %d is not from 1 to %d", e.Depth, maxVolumeDepth)
	}
	for _, pattern := range e.Match {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" || len(pattern) > maxVolumePattern {
			return Errorf(Invalid, "%.100q is not a pattern of names", pattern).WithHint("write one such as *.jpg or incoming/*")
		}
	}
	return nil
}

// VolumeUsage is how much is in a volume.
type VolumeUsage struct {
	Bytes int64  `json:"bytes"`           // on disk or in memory
	Files *int64 `json:"files,omitempty"` // of any sort, directories as well; nil: not known, as of a filesystem that is not mounted
	Limit int64  `json:"limit,omitempty"` // bytes that fit in all; 0: what the disk has
}

// VolumeSnapshot is a copy of a volume.
type VolumeSnapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Bytes   int64     `json:"bytes"` // on disk, of which it may share some with the volume
	Files   int64     `json:"files"`
}

// VolumeDetails are a volume with what is not in its record.
type VolumeDetails struct {
	Volume
	Usage     VolumeUsage      `json:"usage"`
	Snapshots []VolumeSnapshot `json:"snapshots"` // oldest first
	Users     []string         `json:"users"`     // instances as people know them, such as db/1
}

// SecretMount gives a secret to a container as a file of its user's, and only on
// request in the environment.
type SecretMount struct {
	Secret string `json:"secret"`           // its name in the space
	Target string `json:"target,omitempty"` // absolute path; /run/secrets/SECRET if empty
	Env    string `json:"env,omitempty"`    // variable, instead of a file
	Mode   uint32 `json:"mode,omitempty"`   // 0400 if zero
}

// Secret is a secret as it is kept: nobody can read it without the node's key.
type Secret struct {
	Space   string    `json:"space"`
	Name    string    `json:"name"`
	Version int       `json:"version"` // 1, 2, 3...
	Sealed  []byte    `json:"sealed"`  // an age file (age-encryption.org/v1)
	Changed time.Time `json:"changed"`
}

// ConfigMount gives a config to a container as a file; a change reaches it as
// an endpoint's change does.
type ConfigMount struct {
	Config   string   `json:"config"`           // its name in the space
	Target   string   `json:"target,omitempty"` // absolute path; /run/mayfly/config/CONFIG if empty
	Env      string   `json:"env,omitempty"`    // variable, instead of a file
	Mode     uint32   `json:"mode,omitempty"`   // 0444 if zero
	OnChange OnChange `json:"onChange,omitzero"`
}

// Config is a value with a name. Each change has a version.
type Config struct {
	Space   string    `json:"space"`
	Name    string    `json:"name"`
	Version int       `json:"version"` // 1, 2, 3...
	Value   []byte    `json:"value"`
	Changed time.Time `json:"changed"`
}

// News is something that happened, for people and for `mayfly why`: a decision
// and its reason.
type News struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Space    string    `json:"space"`
	Type     string    `json:"type"`              // such as "service.ready": NOUN.VERB
	Subject  string    `json:"subject,omitempty"` // name of the workload, volume... that it is about
	Release  int       `json:"release,omitempty"`
	Replica  int       `json:"replica,omitempty"`
	Instance string    `json:"instance,omitempty"`
	Node     string    `json:"node,omitempty"`
	Text     string    `json:"text"` // one line for a person
}
