package mayfly

import "time"

// Overlap says what becomes of a tick while a task of an earlier tick of the
// same schedule has not ended.
type Overlap string

// The overlap policies.
const (
	OverlapSkip    Overlap = "skip"    // the tick makes no task
	OverlapQueue   Overlap = "queue"   // its task waits for the earlier ones to end
	OverlapReplace Overlap = "replace" // the earlier ones are cancelled
)

// Schedule makes a task at each of its ticks, or emits an event. Exactly one of Cron, Every and At
// is set.
type Schedule struct {
	Space string     `json:"space,omitempty"`
	Name  string     `json:"name,omitempty"` // unique in its space among schedules
	Task  Submission `json:"task"`           // what each tick submits; Space, Key, NotBefore and After are not its to say

	Cron     string        `json:"cron,omitempty"`  // five fields, or six with seconds in front, or @daily and the like
	TimeZone string        `json:"tz,omitempty"`    // of Cron, as in "Europe/Berlin"; UTC if empty
	Every    time.Duration `json:"every,omitempty"` // ns, at least a second; counted from Start, else from Created
	At       time.Time     `json:"at,omitzero"`     // once

	Start   time.Time     `json:"start,omitzero"`    // no tick before it
	End     time.Time     `json:"end,omitzero"`      // no tick after it
	Times   int           `json:"times,omitempty"`   // at most so many tasks; 0: no limit
	Jitter  time.Duration `json:"jitter,omitempty"`  // ns; each tick is late by a part of it that is always the same
	CatchUp time.Duration `json:"catchUp,omitempty"` // ns that a tick may be late and still run, as after a downtime; 0: 5 minutes, for At any time
	Overlap Overlap       `json:"overlap,omitempty"` // OverlapSkip if empty
	Paused  bool          `json:"paused,omitempty"`  // ticks pass without a task, and are not caught up
	Created time.Time     `json:"created,omitzero"`  // or changed in what says when
	// Emit is the event that each tick emits, in place of a task. Its ID and Time
	// follow from the tick; a Source that is empty is the schedule's.
	Emit *Event `json:"emit,omitempty"`
	// Manifest names the workload whose manifest says it, which alone changes
	// and removes it. Empty when it was added by itself.
	Manifest string `json:"manifest,omitempty"`
}

// Scheduled is a schedule and how far it has come.
type Scheduled struct {
	Schedule
	Next     []time.Time `json:"next,omitempty"`     // ticks to come, before jitter; none while it is paused
	Ended    bool        `json:"ended,omitempty"`    // no tick will come
	Last     time.Time   `json:"last,omitzero"`      // the last tick that made a task
	LastTask string      `json:"lastTask,omitempty"` // the id of that task
	Count    int         `json:"count"`              // ticks that made a task
	Skips    int         `json:"skips,omitempty"`    // ticks that made none because of Overlap
	Misses   int         `json:"misses,omitempty"`   // ticks that nobody was there for
	Waiting  int         `json:"waiting,omitempty"`  // ticks whose task waits for an earlier one to end
	Error    string      `json:"error,omitempty"`    // why the last tick has made no task; it is tried again
	Failed   time.Time   `json:"failed,omitzero"`    // when that was seen first
}
