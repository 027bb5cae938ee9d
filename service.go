package mayfly

import "time"

// Service says how instances of a workload are kept running. A workload without
// it is a function: its instances come and go with its runs.
type Service struct {
	Restart Restart `json:"restart,omitzero"`
	Update  Update  `json:"update,omitzero"`

	Nodes map[string]Match `json:"nodes,omitempty"` // labels that a node must have

	Startup *Probe `json:"startup,omitempty"` // the others begin when it was well once; not in time, it is a crash
	Ready   *Probe `json:"ready,omitempty"`   // besides those of the provided ports
	Live    *Probe `json:"live,omitempty"`    // not well, the instance is restarted

	StopSignal string        `json:"stopSignal,omitempty"` // the image's, else SIGTERM, if empty
	StopGrace  time.Duration `json:"stopGrace,omitempty"`  // until SIGKILL, ns; 10 s if zero
	DrainWait  time.Duration `json:"drainWait,omitempty"`  // for consumers to say that they have turned away, ns; 30 s if zero

	Ports     []Port         `json:"ports,omitempty"`     // published on the node; Host 0 is picked
	Processes []NamedProcess `json:"processes,omitempty"` // run in one container, instead of the one of Process
	Sidecars  []Sidecar      `json:"sidecars,omitempty"`
	After     []After        `json:"after,omitempty"` // what must be before an instance starts
	Hostname  string         `json:"hostname,omitempty"`
	Aliases   []string       `json:"aliases,omitempty"`  // further plain names in its app
	Networks  []string       `json:"networks,omitempty"` // of the app; instances meet only those that share one; all of the app if empty
}

// The restart policies.
const (
	RestartAlways    = "always" // if empty
	RestartOnFailure = "on-failure"
	RestartNever     = "no"
)

// Restart says whether an instance that ended is followed by another. The first
// three come at once, then it waits 30 s, doubling to 16 min; five minutes of good
// health forget what was before.
type Restart struct {
	Policy string `json:"policy,omitempty"`
	Max    int    `json:"max,omitempty"` // restarts in a row, then it is given up; 0: no limit
}

// Update says how a release follows another.
type Update struct {
	Surge       int           `json:"surge,omitempty"`       // instances above the count; 1 if both are zero
	Unavailable int           `json:"unavailable,omitempty"` // instances below the count
	Timeout     time.Duration `json:"timeout,omitempty"`     // until an instance must be ready, ns; 5 min if zero
	Healthy     time.Duration `json:"healthy,omitempty"`     // an instance must stay ready so long, ns
	NoRollback  bool          `json:"noRollback,omitempty"`  // a release that fails stays
}

// NamedProcess is one of several programs in a container. It has a log stream
// of its own.
type NamedProcess struct {
	Name string `json:"name"`
	Process
	Restart Restart `json:"restart,omitzero"` // of this process alone; given up, the container ends
}

// Sidecar is a container beside each instance, in the same network namespace.
// It starts before the main one and ends after it.
type Sidecar struct {
	Name   string `json:"name"`
	Image  string `json:"image"`            // name or digest
	Digest string `json:"digest,omitempty"` // what Image resolved to; set by the deploy
	Process
	Resources
	Volumes  []VolumeMount `json:"volumes,omitempty"`
	ReadOnly bool          `json:"readOnly,omitempty"`
	Ready    *Probe        `json:"ready,omitempty"` // the main container starts when it is well
}

// The conditions of After.
const (
	AfterStarted   = "started"
	AfterReady     = "ready"
	AfterCompleted = "completed" // ended with 0
)

// After makes an instance wait for another workload of its space.
type After struct {
	Workload  string `json:"workload"`
	Condition string `json:"condition"`
	Optional  bool   `json:"optional,omitempty"` // where there is no such workload, nothing is waited for
}

// Assignment says that a node shall run one replica of a release. The
// reconciler writes it.
type Assignment struct {
	ID         string    `json:"id"`
	Space      string    `json:"space"`
	Workload   string    `json:"workload"`
	Release    int       `json:"release"`
	Generation int       `json:"generation,omitempty"` // of the wish that it follows; another one is another container
	Replica    int       `json:"replica"`              // 1, 2, 3...; during an update two may have one
	Node       string    `json:"node"`
	Stop       bool      `json:"stop,omitempty"`    // drain, stop, and say stopped
	Patient    bool      `json:"patient,omitempty"` // requests that are under way are waited for however long they take
	Reason     string    `json:"reason,omitempty"`
	Created    time.Time `json:"created"`
}

// ReplicaState is where an assignment is. Only Stopped and Completed are ends.
type ReplicaState string

// The states of a replica.
const (
	ReplicaWaiting   ReplicaState = "waiting"   // for what it requires
	ReplicaStarting  ReplicaState = "starting"  // its container is made, or not ready for the first time
	ReplicaReady     ReplicaState = "ready"     // its endpoints are there
	ReplicaStandby   ReplicaState = "standby"   // ready, and another is the active one
	ReplicaUnready   ReplicaState = "unready"   // was ready before, and runs
	ReplicaBackoff   ReplicaState = "backoff"   // it failed, and is started again at Next
	ReplicaFailed    ReplicaState = "failed"    // given up
	ReplicaCompleted ReplicaState = "completed" // ended with 0, and shall not run again
	ReplicaDraining  ReplicaState = "draining"  // withdrawn, its consumers are told
	ReplicaStopping  ReplicaState = "stopping"
	ReplicaStopped   ReplicaState = "stopped"
)

// Replica is what a node says of an assignment.
type Replica struct {
	Assignment string       `json:"assignment"` // its id
	Space      string       `json:"space"`
	Workload   string       `json:"workload"`
	Release    int          `json:"release"`
	Number     int          `json:"number"` // Assignment.Replica
	Node       string       `json:"node"`
	State      ReplicaState `json:"state"`
	Reason     string       `json:"reason,omitempty"`   // one line for a person
	Instance   string       `json:"instance,omitempty"` // the container, or the last one
	Address    string       `json:"address,omitempty"`
	Ports      []Port       `json:"ports,omitempty"`
	Restarts   int          `json:"restarts,omitempty"` // of this assignment
	Failures   int          `json:"failures,omitempty"` // in a row, without good health between
	Since      time.Time    `json:"since"`              // of State
	Ready      time.Time    `json:"ready,omitzero"`     // when it last became ready
	Next       time.Time    `json:"next,omitzero"`      // ReplicaBackoff: when it is started again
	Exit       *Exit        `json:"exit,omitempty"`     // of the last container that ended
	Drain      *Drain       `json:"drain,omitempty"`    // ReplicaDraining, ReplicaStopping
}

// Drain is what a daemon has to know that goes on with a drain where another was
// killed: the release that says it may be deleted meanwhile.
type Drain struct {
	Endpoints []string      `json:"endpoints"`       // ids of those that are withdrawn
	Wait      time.Duration `json:"wait"`            // for consumers, from Replica.Since on, ns
	Grace     time.Duration `json:"grace,omitempty"` // Service.StopGrace, ns
}

// Wish is what people asked of a service besides its release: the api writes it.
type Wish struct {
	Scale      *int      `json:"scale,omitempty"`      // instead of what the release says
	By         string    `json:"by,omitempty"`         // workload of whose programs one asked for Scale; empty: people did
	Generation int       `json:"generation,omitempty"` // raised by a restart, and to try again
	Retry      int       `json:"retry,omitempty"`      // release that is tried again though it was given up
	Changed    time.Time `json:"changed"`
}

// The states of a rollout.
const (
	RolloutUnderWay   = "under-way"
	RolloutDone       = "done"
	RolloutRolledBack = "rolled-back" // Stable runs, and Release was given up
	RolloutFailed     = "failed"      // Release was given up, and there is nothing to go back to
)

// Rollout is how far a service has come to the release that is wanted. The
// reconciler writes it.
type Rollout struct {
	Release    int       `json:"release"`              // that was wanted
	Stable     int       `json:"stable,omitempty"`     // the last one that was healthy as a whole
	Before     int       `json:"before,omitempty"`     // the one that was so before Stable
	Generation int       `json:"generation,omitempty"` // of the wish that it follows
	Floor      int       `json:"floor,omitempty"`      // instances of an earlier generation are replaced
	State      string    `json:"state"`
	Reason     string    `json:"reason,omitempty"`
	Since      time.Time `json:"since"`

	Unplaced string `json:"unplaced,omitempty"` // why a replica has no node; empty: all have one
}

// NodeInfo is what a node says of itself, under its epoch.
type NodeInfo struct {
	Name   string            `json:"name"`
	Epoch  uint64            `json:"epoch"` // raised at each start
	Labels map[string]string `json:"labels,omitempty"`
	Memory int64             `json:"memory"` // bytes
	CPUs   float64           `json:"cpus"`
	Since  time.Time         `json:"since"`
}

// Zone is the label by which nodes are near each other.
func (n NodeInfo) Zone() string { return n.Labels["zone"] }
