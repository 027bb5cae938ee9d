package mayfly

import "time"

// Load is what a workload has to do at one moment, and what it has for that.
type Load struct {
	InFlight  int           `json:"inFlight"`  // runs or requests that instances are serving
	Waiting   int           `json:"waiting"`   // runs or requests that wait for an instance
	Oldest    time.Duration `json:"oldest"`    // that the first of those has waited, ns
	Instances int           `json:"instances"` // that could serve, or do
	Starting  int           `json:"starting"`  // that are being made, or are not ready yet
	Wanted    int           `json:"wanted"`    // that there shall be; of a function without scale.min, those that what is queued needs
	Capacity  int           `json:"capacity"`  // runs or requests that Instances serve at once; 0: no limit, or no instance
	Max       int           `json:"max"`       // that there may be; 0: no limit
	Queued    int           `json:"queued"`    // tasks that wait for their turn
	QueueAge  time.Duration `json:"queueAge"`  // that the first of those has waited, ns
}
