package mayfly

import (
	"time"
)

// Event is a CloudEvent of version 1.0: that something happened, and what is to
// be known about it. Its JSON is that of the CloudEvents JSON format.
type Event struct {
	ID      string    `json:"id"`                // unique together with Source: the same two are the same event
	Source  string    `json:"source"`            // a URI reference: where it happened
	Type    string    `json:"type"`              // such as "photo.uploaded"
	Subject string    `json:"subject,omitempty"` // what of the source it is about; empty: nothing
	Time    time.Time `json:"time,omitzero"`     // when it happened; zero: not said

	DataContentType string `json:"datacontenttype,omitempty"` // media type of Data; empty where there is none, or none was said
	DataSchema      string `json:"dataschema,omitempty"`      // URI; empty: none

	// Extensions are further attributes, by names of a-z and 0-9, in the form of
	// the canonical string that CloudEvents defines for each of its types.
	Extensions map[string]string `json:"-"`
	Data       []byte            `json:"data,omitempty"` // nil: none
}

// AcceptedEvent is an event that is on disk.
type AcceptedEvent struct {
	Space    string    `json:"space"`
	Number   uint64    `json:"number"`   // in the order of acceptance
	Key      string    `json:"key"`      // 20 characters that stand for space, source and id
	Accepted time.Time `json:"accepted"` //
	Event    Event     `json:"event"`
	Replay   *Replayed `json:"replay,omitempty"` // nil: it was not replayed
}

// Replayed says that an event was accepted earlier, and is delivered again.
type Replayed struct {
	ID      string `json:"id"`                // of the replay
	Of      uint64 `json:"of"`                // the event's number
	Mapping string `json:"mapping,omitempty"` // the one that alone gets it, by id; empty: all
}

// EventMapping says which events of a space run a function, or are pushed to a
// URL. What is empty selects all.
type EventMapping struct {
	ID       string            `json:"id,omitempty"`
	Space    string            `json:"space,omitempty"`
	Workload string            `json:"workload,omitempty"` // a function, or else URL
	URL      string            `json:"url,omitempty"`      // of a subscriber outside
	Type     string            `json:"type"`               // whole, or a prefix and *, as in "photo.*"
	Source   string            `json:"source,omitempty"`   // the same
	Filter   map[string]string `json:"filter,omitempty"`   // attributes, or else fields of JSON data, that have these values
	SQL      string            `json:"sql,omitempty"`      // a CloudEvents SQL expression that is true
	// Concurrency is how many of its deliveries run at once, over all nodes. 0:
	// no limit for a function but its own, 8 for a URL.
	Concurrency int       `json:"concurrency,omitempty"`
	Retries     int       `json:"retries,omitempty"` // attempts after the first; 0: the function's, or for about a day; -1: none
	OrderBy     string    `json:"orderBy,omitempty"` // attribute, or field of JSON data as in "data.user": those with the same value go one after the other
	Since       uint64    `json:"since,omitempty"`   // number of the last event before it
	Created     time.Time `json:"created,omitzero"`
	Manifest    bool      `json:"manifest,omitempty"` // its workload's manifest says it, and alone changes it
}

// Target is what a mapping delivers to.
func (m *EventMapping) Target() string {
	if m.URL != "" {
		return m.URL
	}
	return m.Workload
}

// TriggerState is a mapping and how far it has come.
type TriggerState struct {
	EventMapping
	Lag       int   `json:"lag"`       // events that match and whose delivery has not begun
	InFlight  int   `json:"inFlight"`  // deliveries that run
	Delivered int64 `json:"delivered"` // since the daemon started
	Failures  int64 `json:"failures"`  // deliveries that were given up or buried since then
	Dead      int   `json:"dead"`      // deliveries that are in the dead letters now
	// State is "active"; "failing" where the last delivery that ended did not
	// succeed, unless its dead letter was purged or brought back; or "paused".
	State     string    `json:"state"`
	LastError string    `json:"lastError,omitempty"`
	LastTime  time.Time `json:"lastTime,omitzero"` // of the last delivery that ended
	Retry     time.Time `json:"retry,omitzero"`    // of a subscriber: when it is tried again
}

// HopsAttribute is the extension that counts how many deliveries led to an
// event.
const HopsAttribute = "mayflyhops"
