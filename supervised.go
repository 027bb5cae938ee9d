package mayfly

import "time"

// The states of a service, as people see it.
const (
	ServiceStarting   = "starting"    // its first release, or a replica that was missing
	ServiceWaiting    = "waiting"     // no replica has started, for what it requires is not there
	ServiceUpdating   = "updating"    // a release follows another, or itself after a restart
	ServiceRunning    = "running"     // all replicas are as they shall be
	ServiceDegraded   = "degraded"    // some are not
	ServiceCompleted  = "completed"   // all have ended with 0, and shall not run again
	ServiceRolledBack = "rolled-back" // the wanted release was given up, and the one before runs
	ServiceFailed     = "failed"      // the wanted release was given up, and nothing was before
	ServiceStopped    = "stopped"     // scaled to none
	ServiceAsleep     = "asleep"      // scaled to none, until a request comes
	ServiceDeleted    = "deleted"     // what is left of it is about to end
)

// Supervised is a service and how it is.
type Supervised struct {
	Space    string          `json:"space"`
	Name     string          `json:"name"`
	App      string          `json:"app,omitempty"`
	Image    string          `json:"image,omitempty"` // as the wanted release asks for it
	Release  int             `json:"release"`         // wanted
	State    string          `json:"state"`
	Reason   string          `json:"reason,omitempty"` // why it is not running as it shall; one line for a person
	Wanted   int             `json:"wanted"`           // replicas
	Ready    int             `json:"ready"`            // of them, those that do their work
	Scaled   bool            `json:"scaled,omitempty"` // Wanted was asked for, and is not the release's
	Auto     bool            `json:"auto,omitempty"`   // Wanted is as its requests need
	Rollout  Rollout         `json:"rollout"`
	Replicas []ReplicaStatus `json:"replicas"` // by number
	Created  time.Time       `json:"created"`  // of the wanted release
}

// ReplicaStatus is a replica as its node tells, or its assignment while that has
// told nothing.
type ReplicaStatus struct {
	Replica
	Created time.Time `json:"created"`        // of the assignment
	Stop    bool      `json:"stop,omitempty"` // it is told to stop, because of Why
	Why     string    `json:"why,omitempty"`
}

// Healthy reports whether a replica in this state does its work, or has done it.
func (s ReplicaState) Healthy() bool {
	return s == ReplicaReady || s == ReplicaStandby || s == ReplicaCompleted
}

// ServiceRelease is a release of a service, and what became of it.
type ServiceRelease struct {
	Release
	Wanted  bool `json:"wanted,omitempty"`  // it is the one that shall run
	Stable  bool `json:"stable,omitempty"`  // the last one that was healthy as a whole
	GivenUp bool `json:"givenUp,omitempty"` // it was wanted and failed
	Running int  `json:"running,omitempty"` // replicas
}
