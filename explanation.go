package mayfly

import "time"

// Graph is who requires whom in a space.
type Graph struct {
	Space string      `json:"space"`
	Nodes []GraphNode `json:"nodes"` // by id
	Edges []GraphEdge `json:"edges"` // by the ids of their ends
}

// The kinds of what is in a graph.
const (
	GraphService  = "service"
	GraphFunction = "function" // that requires something
	GraphOutside  = "outside"  // Mayfly does not run it
	GraphMissing  = "missing"  // it is required, and there is no such thing
)

// GraphNode is a service, or what is to others as one.
type GraphNode struct {
	ID     string `json:"id"` // its name; SPACE/NAME of another space; "role NAME" where nothing is known but that
	Kind   string `json:"kind"`
	App    string `json:"app,omitempty"`
	State  string `json:"state"`            // of a service: as in Supervised; "here" or "missing" otherwise
	Reason string `json:"reason,omitempty"` // why it is not as it shall be
	Ready  int    `json:"ready"`
	Wanted int    `json:"wanted"`
}

// GraphEdge says that From requires To, or comes after it.
type GraphEdge struct {
	From     string   `json:"from"`
	To       string   `json:"to"`
	Name     string   `json:"name"`               // of the requirement; the condition, where After is set
	Met      bool     `json:"met"`                // there is what is required
	Optional bool     `json:"optional,omitempty"` // nothing waits for it
	Proxy    bool     `json:"proxy,omitempty"`
	After    bool     `json:"after,omitempty"` // only to be started in that order
	Use      []string `json:"use,omitempty"`   // HOST:PORT that meet it
}

// Explanation says why something is as it is, from what was written down.
type Explanation struct {
	Kind  string    `json:"kind"` // "service", "function", "container", "volume", "run", "task" or "event"
	Name  string    `json:"name"` // what it is called, or its id
	Space string    `json:"space"`
	State string    `json:"state"`
	Since time.Time `json:"since,omitzero"` // of State, where it is known
	Why   []string  `json:"why"`            // sentences, the most important one first
	Help  []string  `json:"help,omitempty"` // what can be done
	News  []News    `json:"news,omitempty"` // the last that happened to it, oldest first
}
