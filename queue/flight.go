package queue

import "time"

// flights are the writes to tasks and the reads of it that are under way. What
// one of them may still bring has a sequence after its floor.
type flights struct {
	last   uint64 // newest sequence of tasks that is known
	next   uint64
	active []flight // by number; the first is under way
}

type flight struct {
	number uint64
	floor  uint64
	ended  bool
}

func (f *flights) begin() uint64 {
	f.next++
	f.active = append(f.active, flight{number: f.next, floor: f.last})
	return f.next
}

func (f *flights) end(number uint64) {
	i := int(number - f.active[0].number) // numbers have no gaps
	f.active[i].ended = true
	for len(f.active) > 0 && f.active[0].ended {
		f.active = f.active[1:]
	}
}

// floor is a sequence up to which nothing is under way.
func (f *flights) floor() uint64 {
	if len(f.active) == 0 {
		return f.last
	}
	return f.active[0].floor
}

// over reports whether all flights up to the number have ended.
func (f *flights) over(number uint64) bool {
	return len(f.active) == 0 || f.active[0].number > number
}

// endedSeq is a message whose task has ended or moved.
type endedSeq struct {
	seq  uint64
	when time.Time
}

// goneSeq is a message that was removed when the newest flight had the number.
type goneSeq struct{ seq, flight uint64 }
