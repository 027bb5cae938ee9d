package mayfly

// Identity is what the daemon knows of a program in a container that asks it
// something. The socket that it asks through is its proof: each container has
// one of its own.
type Identity struct {
	Node     string `json:"node"`
	Space    string `json:"space"`
	Instance string `json:"instance"`
	Workload string `json:"workload,omitempty"` // empty for `mayfly run`
	Release  int    `json:"release,omitempty"`
	App      string `json:"app,omitempty"`
	Replica  int    `json:"replica,omitempty"` // of a service; 0 else
	Sidecar  string `json:"sidecar,omitempty"`

	Labels   map[string]string `json:"labels,omitempty"`
	Address  string            `json:"address,omitempty"`  // in the container's network
	External string            `json:"external,omitempty"` // of the node, as others reach its published ports
	Ports    []Port            `json:"ports,omitempty"`    // published, each with its port on the node

	// Of the run that the container serves just now; zero while that is none.
	Run      string `json:"run,omitempty"`
	Attempt  int    `json:"attempt,omitempty"`  // 1, 2, 3...
	Deadline int64  `json:"deadline,omitempty"` // ms since 1970; 0: none
	Task     bool   `json:"task,omitempty"`     // the run waited its turn; Run is the task's id
}
