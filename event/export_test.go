package event

import "github.com/mayfly-run/mayfly"

// Selects reports whether a mapping that was checked selects an event.
func Selects(m mayfly.EventMapping, ev *mayfly.Event) bool {
	c, err := compile(m)
	if err != nil {
		panic(err)
	}
	field(ev, m.OrderBy)
	is := c.selects(ev)
	if why, _ := c.refusal(&mayfly.AcceptedEvent{Number: 1, Event: *ev}); is != (why == "") {
		panic("it is said of an event that is selected that it is not, or the other way round: " + why)
	}
	return is
}
