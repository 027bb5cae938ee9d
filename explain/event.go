package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// othersTold is how many mappings that do not match are named.
const othersTold = 10

// Event says what became of an event.
func Event(s mayfly.EventStory, now time.Time) mayfly.Explanation {
	a := &s.Event
	x := mayfly.Explanation{Kind: "event", Name: a.Event.ID, Space: a.Space, State: eventState(&s), Since: a.Accepted}
	x.Why = append(x.Why, origin(a, now))
	if !s.Given {
		x.Why = append(x.Why, "Its turn has not come: it waits until those before it have become tasks.")
	}
	if s.Given && len(s.Deliveries) == 0 {
		x.Why = append(x.Why, "No mapping wants it, so nobody got it.")
		if a.Replay == nil {
			x.Help = append(x.Help, fmt.Sprintf("map its type, then have it delivered: mayfly map-event NAME %s; mayfly event replay --id %s", a.Event.Type, reference(a)))
		}
	}
	tellDeliveries(&x, &s, "", now)
	x.Why = append(x.Why, refusals(s.Others)...)
	for i := range s.Replays {
		r := &s.Replays[i]
		x.Why = append(x.Why, fmt.Sprintf("It was accepted again %s ago, for replay %s.", since(r.Event.Accepted, now), r.Event.Replay.ID))
		tellDeliveries(&x, r, "In that replay: ", now)
	}
	var once []string
	for _, h := range x.Help {
		if !slices.Contains(once, h) {
			once = append(once, h)
		}
	}
	x.Help = once
	return x
}

// origin says what an event is and where it came from.
func origin(a *mayfly.AcceptedEvent, now time.Time) string {
	text := fmt.Sprintf("It is an event of the type %s from %s", a.Event.Type, a.Event.Source)
	if a.Event.Subject != "" {
		text += ", about " + a.Event.Subject
	}
	text += fmt.Sprintf(", accepted %s ago as number %d", since(a.Accepted, now), a.Number)
	if a.Replay != nil {
		text += fmt.Sprintf(", for replay %s of event number %d", a.Replay.ID, a.Replay.Of)
	}
	if hops, err := strconv.Atoi(a.Event.Extensions[mayfly.HopsAttribute]); err == nil && hops > 1 {
		text += fmt.Sprintf("; %s led to it", counted(hops-1, "delivery", "deliveries"))
	}
	return text + "."
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// eventState is the worst that can be said of an event's deliveries: a replay that
// went well makes up for what failed before.
func eventState(s *mayfly.EventStory) string {
	worst := map[string]string{}
	waits := !s.Given
	for _, story := range slices.Concat([]mayfly.EventStory{*s}, s.Replays) {
		waits = waits || !story.Given
		for i := range story.Deliveries {
			d := &story.Deliveries[i]
			worst[d.Mapping.ID] = deliveryState(d)
		}
	}
	states := map[string]bool{}
	for _, state := range worst {
		states[state] = true
	}
	switch {
	case states["failed"]:
		return "failed"
	case states["waiting"] || waits:
		return "waiting"
	case states["delivered"]:
		return "delivered"
	case len(worst) > 0:
		return "unknown"
	}
	return "unwanted"
}

func deliveryState(d *mayfly.EventDelivery) string {
	switch {
	case d.Task != nil && !d.Task.State.Ended(), d.Behind != nil:
		return "waiting"
	case d.Task != nil && d.Task.State == mayfly.TaskSucceeded:
		return "delivered"
	case d.Task != nil:
		return "failed"
	case d.Call == nil:
		return "unknown"
	}
	switch d.Call.State {
	case "taken":
		return "delivered"
	case "given up":
		return "failed"
	case "over":
		return "unknown"
	}
	return "waiting"
}

// tellDeliveries says how each delivery is, and what helps.
func tellDeliveries(x *mayfly.Explanation, s *mayfly.EventStory, lead string, now time.Time) {
	for i := range s.Deliveries {
		d := &s.Deliveries[i]
		what, help := deliverySays(&s.Event, d, now)
		by := fmt.Sprintf("by %s, mapping %s", d.Mapping.Type, d.Mapping.ID)
		if d.Gone {
			by = fmt.Sprintf("by mapping %s, which is gone", d.Mapping.ID)
		}
		x.Why = append(x.Why, fmt.Sprintf("%sTo %s (%s): %s.", lead, d.Mapping.Target(), by, what))
		x.Help = append(x.Help, help...)
	}
}

func deliverySays(a *mayfly.AcceptedEvent, d *mayfly.EventDelivery, now time.Time) (what string, help []string) {
	switch {
	case d.Task != nil:
		return taskSays(a, d, now)
	case d.Call != nil:
		return callSays(a, d, now)
	case d.Behind == nil:
		return d.Detail, nil
	case d.Behind.Key == "":
		return "its turn has not come", nil
	}
	b := d.Behind
	what = fmt.Sprintf("it waits for event %s (number %d), which has the same %s, %q, and goes first", b.First.Event.ID, b.First.Number, d.Mapping.OrderBy, b.Key)
	if b.Task != "" {
		return what + ", as task " + b.Task, []string{"why that one takes so long: mayfly why " + b.Task}
	}
	return what, []string{"why that one takes so long: mayfly why " + reference(&b.First)}
}

func taskSays(a *mayfly.AcceptedEvent, d *mayfly.EventDelivery, now time.Time) (what string, help []string) {
	t := d.Task
	last := ""
	if n := len(t.Attempts); n > 0 && t.Attempts[n-1].Exit != nil && t.State != mayfly.TaskSucceeded {
		last = fmt.Sprintf("; attempt %d %s", t.Attempts[n-1].Number, ended(*t.Attempts[n-1].Exit))
	}
	switch what = "task " + t.ID + ", release " + strconv.Itoa(t.Release) + ", "; {
	case t.State == mayfly.TaskQueued:
		return what + "is queued: " + waits(*t, d.Wait, now) + last, unpause(*t, d.Wait)
	case !t.State.Ended():
		return fmt.Sprintf("%sis %s, attempt %d", what, t.State, t.Attempt), nil
	case t.State == mayfly.TaskSucceeded:
		return fmt.Sprintf("%ssucceeded%s, after %s", what, agoOf(t.Ended, now), count(t.Attempt, "attempt")), nil
	case t.State == mayfly.TaskBuried:
		what += fmt.Sprintf("was buried%s after %s: it is in the dead letters%s", agoOf(t.Ended, now), count(t.Attempt, "attempt"), last)
		help = append(help, "run it again, by the same release: mayfly task retry "+t.ID)
	default:
		what += fmt.Sprintf("is %s%s, after %s%s", t.State, agoOf(t.Ended, now), count(t.Attempt, "attempt"), last)
	}
	if t.Detail != "" {
		what += "; " + strings.TrimSuffix(t.Detail, ".")
	}
	if !d.Gone {
		help = append(help, replayHelp(a, d))
	}
	return what, append(help, "see what it wrote: mayfly task logs "+t.ID)
}

func replayHelp(a *mayfly.AcceptedEvent, d *mayfly.EventDelivery) string {
	return fmt.Sprintf("deliver it anew, to what is there then: mayfly event replay --id %s --map %s", reference(a), d.Mapping.ID)
}

func callSays(a *mayfly.AcceptedEvent, d *mayfly.EventDelivery, now time.Time) (what string, help []string) {
	c := d.Call
	said := ""
	if c.Error != "" {
		said = ": " + c.Error
	}
	switch c.State {
	case "calling":
		return fmt.Sprintf("it is being pushed now, call %d", c.Tries+1), nil
	case "waiting":
		if c.Tries == 0 && !c.Due.After(now) {
			return "it waits until earlier calls have been answered", nil
		}
		if c.Tries == 0 {
			return fmt.Sprintf("the subscriber asked to be left alone; it is called in %s", span(c.Due.Sub(now))), nil
		}
		return fmt.Sprintf("it was tried %s, and the last call failed%s; the next is in %s", times(c.Tries), said, span(c.Due.Sub(now))), nil
	case "taken":
		what = "the subscriber has taken it"
		if !c.Ended.IsZero() {
			what += fmt.Sprintf(", %s ago, with call %d", since(c.Ended, now), c.Tries+1)
		}
		return what, nil
	case "given up":
		return fmt.Sprintf("it was given up %s ago after %s%s", since(c.Ended, now), count(c.Tries, "call"), said), []string{replayHelp(a, d)}
	}
	return "it is over, and so long ago that it is not known any more whether it was taken or given up", []string{replayHelp(a, d)}
}

// refusals say why others do not get an event: those for other types together.
func refusals(list []mayfly.EventRefusal) (why []string) {
	var types []string
	left := 0
	for _, r := range list {
		switch {
		case len(why)+len(types) >= othersTold:
			left++
		case r.Type:
			types = append(types, fmt.Sprintf("%s to %s", r.Mapping.Type, r.Mapping.Target()))
		default:
			why = append(why, fmt.Sprintf("Not to %s (by %s, mapping %s): %s.", r.Mapping.Target(), r.Mapping.Type, r.Mapping.ID, r.Why))
		}
	}
	if len(types) > 0 {
		why = append(why, fmt.Sprintf("Of other types only: %s.", strings.Join(types, ", ")))
	}
	if left > 0 {
		why = append(why, fmt.Sprintf("%s more do not match: mayfly triggers lists all.", counted(left, "mapping", "mappings")))
	}
	return why
}

// plainID is an id that a shell takes as it is.
var plainID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]*$`)

// reference is what names an event in a command.
func reference(a *mayfly.AcceptedEvent) string {
	if a.Replay == nil && len(a.Event.ID) <= 64 && plainID.MatchString(a.Event.ID) {
		return a.Event.ID
	}
	return a.Key
}
