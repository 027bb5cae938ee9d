package mayfly

import "time"

// Scale is how many instances a workload has, and by what they become more and
// fewer. A function has as many as its runs need, between Min and Max. A service
// has Count, unless Max is more than that: then it has as many as the requests
// that come by its routes need.
type Scale struct {
	Min    int  `json:"min,omitempty"`    // that there always are: of a service 1 if zero, unless None is set
	Max    int  `json:"max,omitempty"`    // 0: of a function no limit but the machine's; of a service Min
	Active int  `json:"active,omitempty"` // of a service: that many provide endpoints, the others stand by; 0: all
	None   bool `json:"none,omitempty"`   // of a service: no least number. With a Max it sleeps until a request comes; without one there are none at all

	Concurrency int           `json:"concurrency,omitempty"` // runs or requests that one instance serves at once; see PerInstance
	Queue       int           `json:"queue,omitempty"`       // that wait at once when all instances are busy, before more are refused; 1000 if zero
	Idle        time.Duration `json:"idle,omitempty"`        // an instance that was not needed for so long goes, ns; 5 min if zero
	Cooldown    time.Duration `json:"cooldown,omitempty"`    // between one such instance that goes and the next, ns; together if zero
	By          string        `json:"by,omitempty"`          // of a service: workload of its app whose programs may scale it, besides its own
}

// The defaults of Scale.
const (
	DefaultQueue       = 1000
	DefaultIdle        = 5 * time.Minute
	DefaultPerInstance = 80 // requests that one instance of a service which is scaled serves at once
)

// Count is how many instances a service has that nothing scales.
func (s Scale) Count() int {
	if s.None {
		return 0
	}
	return max(s.Min, 1)
}

// Scaled reports whether a service has more and fewer instances by itself.
// Where some only stand by, more would not take load off those that work.
func (s Scale) Scaled() bool { return s.Max > s.Count() && s.Active == 0 }

// Most is how many instances a service has at most, unless people ask for more.
func (s Scale) Most() int {
	if s.Scaled() {
		return s.Max
	}
	return s.Count()
}

// PerInstance is how many runs or requests an instance serves at once: of a
// function 1 unless Concurrency says more, of a service that is scaled
// DefaultPerInstance; 0 is no limit.
func (w *Workload) PerInstance() int {
	switch {
	case w.Scale.Concurrency > 0:
		return w.Scale.Concurrency
	case w.Service == nil:
		return 1
	case w.Scale.Scaled():
		return DefaultPerInstance
	}
	return 0
}

// Scaled is how many instances a service has that is scaled, as load asks for. The
// scaler writes it.
type Scaled struct {
	Count int       `json:"count"`
	Down  time.Time `json:"down,omitzero"` // when they last became fewer
	Since time.Time `json:"since"`         // of Count
	Why   string    `json:"why,omitempty"` // one line for a person
}
