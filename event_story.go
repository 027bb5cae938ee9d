package mayfly

import "time"

// EventStory is what has become of an event.
type EventStory struct {
	Event      AcceptedEvent
	Given      bool            // its turn has come: mappings that match have it
	Deliveries []EventDelivery // of mappings that match now, and of those that are gone and matched then
	Others     []EventRefusal  // mappings that do not match
	Replays    []EventStory    // when it was accepted again, oldest first; the last ones
}

// EventDelivery is an event for a mapping. Where neither of Task, Call and Behind is
// set, and it was given, Detail says why.
type EventDelivery struct {
	Mapping EventMapping // of one that is gone, its ID and target only
	Gone    bool         // the mapping was taken away since
	Task    *Task        // that delivers it to a function
	Wait    TaskWait     // of a queued task
	Call    *EventCall   // to a subscriber
	Behind  *EventBehind // it waits for others
	Detail  string
}

// EventBehind says for which events another one waits.
type EventBehind struct {
	Key   string        // the value by which they are ordered; empty: all that the mapping has not got yet
	First AcceptedEvent // of Key, the one whose turn it is
	Task  string        // that delivers First; empty: there is none yet
}

// EventCall is how a push to a subscriber goes.
type EventCall struct {
	State string    // "waiting", "calling", "taken", "given up" or "over", which is one of these two
	Tries int       // calls that failed
	Error string    // what the last of them came to; empty: not known any more
	Due   time.Time // of the next
	Ended time.Time // zero: not known any more
}

// EventRefusal is a mapping that does not get an event.
type EventRefusal struct {
	Mapping EventMapping
	Type    bool   // it wants other types
	Why     string // what does not match, as a part of a sentence
}
