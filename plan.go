package mayfly

// What a deploy of a workload does.
const (
	PlanCreate = "create" // there is no such workload
	PlanUpdate = "update" // there is, and it is another, or may be: only the deploy can tell
	PlanRetry  = "retry"  // it is the same, and was given up
	PlanNone   = "none"   // it is the same
)

// Plan is what a deploy of workloads does. It is made without changing anything.
type Plan struct {
	Workloads []Planned `json:"workloads"` // in the order in which they were given
	Others    []string  `json:"others"`    // workloads of the app that were not given, by name
}

// Planned is what a deploy of one workload does.
type Planned struct {
	Name    string   `json:"name"`
	Release int      `json:"release,omitempty"` // the active one; 0: none
	Change  string   `json:"change"`            // PlanNone...
	Settled bool     `json:"settled,omitempty"` // with PlanNone: its release is all there, if it is a service's
	Stack   bool     `json:"stack,omitempty"`   // its stack has to be built first
	App     string   `json:"app,omitempty"`     // whose function the active release is, where that is another app's
	Lacks   []string `json:"lacks,omitempty"`   // what it will wait for, and why in vain: it is not deployed, scaled to none, or waits itself
	Scale   *int     `json:"scale,omitempty"`   // replicas that people asked for, where the workload says another number
}
