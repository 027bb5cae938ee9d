package mayfly

import "time"

// AddressOnly is the protocol of an endpoint that has an address and no port.
const AddressOnly = "ip"

// Endpoint is the address of one provided port of one ready instance, or of
// something outside that Mayfly does not run. It exists only while whoever is
// behind it is ready.
type Endpoint struct {
	ID       string            `json:"id"` // unique; of an instance's: INSTANCE.NAME
	Space    string            `json:"space"`
	Service  string            `json:"service"`         // the workload, or the name of what is outside
	Name     string            `json:"name"`            // of the provided port, as in provides
	Among    []string          `json:"among,omitempty"` // names of all ports that the workload provides, in their order; nil: this one only
	App      string            `json:"app,omitempty"`
	Role     string            `json:"role,omitempty"`
	Protocol string            `json:"protocol"` // what a URL of it begins with: "http", "mysql"; "tcp" and "udp" where nothing more is known
	Address  string            `json:"address"`  // IP address, or a host name of something outside
	Port     uint16            `json:"port"`
	Tags     map[string]string `json:"tags,omitempty"`

	Node     string    `json:"node,omitempty"` // that vouches for it
	Zone     string    `json:"zone,omitempty"` // of the node
	Instance string    `json:"instance,omitempty"`
	Replica  int       `json:"replica,omitempty"`
	Release  int       `json:"release,omitempty"`
	Outside  bool      `json:"outside,omitempty"` // Mayfly does not run it
	Since    time.Time `json:"since"`             // when it became ready
}

// Provide is a port of a workload that others may use. Its endpoint appears
// when an instance is ready.
type Provide struct {
	Name     string            `json:"name"`               // unique in the workload
	Port     uint16            `json:"port"`               // in the container; 0: one is picked, and is in PORT_NAME
	Protocol string            `json:"protocol,omitempty"` // as in Endpoint; "tcp" if empty
	Role     string            `json:"role,omitempty"`     // what it is to others, where several services may be it
	Tags     map[string]string `json:"tags,omitempty"`
	Ready    *Probe            `json:"ready,omitempty"`    // nil: once the port takes connections (udp: at once)
	Unprobed bool              `json:"unprobed,omitempty"` // ready with the instance, whether or not anything listens; no port is picked
}

// Match says which values of a tag are wanted. One field is set.
type Match struct {
	Value   string   `json:"value,omitempty"`
	In      []string `json:"in,omitempty"`
	Pattern string   `json:"pattern,omitempty"` // regular expression (RE2) that the whole value matches
}

// Require is what a workload needs of others. It is matched by service or by
// role, and then by tags.
type Require struct {
	Name     string           `json:"name"`              // in upper case the prefix of the variables; unique in the workload
	Service  string           `json:"service,omitempty"` // any if empty; then Role is set
	Port     string           `json:"port,omitempty"`    // name of the provided port, "*" for any; if empty what Role says, else the one that is called Name, else the first
	Role     string           `json:"role,omitempty"`
	Space    string           `json:"space,omitempty"` // the workload's own if empty
	Tags     map[string]Match `json:"tags,omitempty"`
	SameZone bool             `json:"sameZone,omitempty"` // those of the consumer's zone are preferred
	All      bool             `json:"all,omitempty"`      // every endpoint, not one
	Optional bool             `json:"optional,omitempty"` // an instance starts without it, too
	Proxy    bool             `json:"proxy,omitempty"`    // through an address that stays while endpoints change
	OnChange OnChange         `json:"onChange,omitzero"`
}

// OnChange says what is done in an instance after the files of what it requires
// were replaced. At most one of Exec, Signal and Restart is set; none means that
// the program watches the files itself. Where Exec fails or hangs, and where a
// signal cannot be sent, the instance is restarted.
type OnChange struct {
	Exec    []string      `json:"exec,omitempty"`   // run in the container with the new environment
	Signal  string        `json:"signal,omitempty"` // to the main program, such as "HUP"
	Restart bool          `json:"restart,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // of Exec, ns; 60 s if zero
}

// Probe asks whether an instance is well. Exactly one of HTTP, TCP, GRPC and
// Exec is set. Zero numbers mean the default that is given.
type Probe struct {
	HTTP *HTTPProbe `json:"http,omitempty"`
	TCP  *TCPProbe  `json:"tcp,omitempty"`
	GRPC *GRPCProbe `json:"grpc,omitempty"`
	Exec []string   `json:"exec,omitempty"` // well if it exits with 0

	Every     time.Duration `json:"every,omitempty"`     // from one end to the next begin, ns; 10 s (while it is not well, or has failed once: up to 1 s, from 20 ms on after the start)
	Timeout   time.Duration `json:"timeout,omitempty"`   // of one try, ns; 3 s
	Grace     time.Duration `json:"grace,omitempty"`     // after the start in which failures do not count, ns; none
	Failures  int           `json:"failures,omitempty"`  // in a row until it is not well; 3
	Successes int           `json:"successes,omitempty"` // in a row until it is well; 1
}

// HTTPProbe is well when GET is answered with a status from 200 to 399.
type HTTPProbe struct {
	Path    string            `json:"path"`
	Port    uint16            `json:"port,omitempty"` // the provided one, or the first, if 0; likewise below
	Headers map[string]string `json:"headers,omitempty"`
}

// TCPProbe is well when a connection is taken.
type TCPProbe struct {
	Port uint16 `json:"port,omitempty"`
}

// GRPCProbe is well when grpc.health.v1.Health/Check answers SERVING.
type GRPCProbe struct {
	Port    uint16 `json:"port,omitempty"`
	Service string `json:"service,omitempty"`
}

// OutsideEndpoint is something that Mayfly does not run, as an administrator
// described it. Its endpoint is there while all its checks are well.
type OutsideEndpoint struct {
	Endpoint               // Space, Service, Name, Protocol, Address, Port, Role and Tags
	Checks   []Probe       `json:"checks,omitempty"` // against Address; Exec runs on the node
	TTL      time.Duration `json:"ttl,omitempty"`    // it must be heard of so often, ns; 0: not at all
	Missed   bool          `json:"missed,omitempty"` // it was not heard of in time; the checker writes it
}

// EndpointStatus is an endpoint that is there, or what would be one if it were
// well.
type EndpointStatus struct {
	Endpoint
	Registered string        `json:"registered,omitempty"` // the name that it was added under; empty: a workload provides it
	Ready      bool          `json:"ready"`                // it is there
	Reason     string        `json:"reason,omitempty"`     // why not; one line for a person
	Checks     []Probe       `json:"checks,omitempty"`
	TTL        time.Duration `json:"ttl,omitempty"` // ns
}
