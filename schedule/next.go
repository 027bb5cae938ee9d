package schedule

import (
	"math"
	"time"
)

// Next returns the first tick of the line after the given time, on the clocks
// of the zone, or the zero time when there is none before the year 10000.
//
// Where the clocks of the zone are turned, the line does what cron(8) says:
// jobs of a specific time, or further apart than an hour, are looked after.
//
//   - Turned forward: what falls into the time that does not exist runs once,
//     at the first instant after it. Lines for every hour just go on. A whole
//     day that does not exist (Apia, 30 December 2011) has no ticks.
//   - Turned back: what falls into the repeated time runs once, the first
//     time. Lines for every hour, or whose minutes begin with *, run each time.
func (c Cron) Next(after time.Time, zone *time.Location) time.Time {
	from := after.Unix() + 1
	end := min(from+horizon, lastSecond+1)
	for from < end {
		s := stretchAt(from, zone)
		if at, ok := c.nextIn(s, from, end); ok {
			return time.Unix(at, 0).In(zone)
		}
		from = s.end
	}
	return time.Time{}
}

// stretch is a time in which a zone keeps one offset from UTC: from start up
// to, but without, end. All are seconds.
type stretch struct {
	start, end int64
	offset     int64
	turned     int64 // by how much the clocks were turned at start; negative is back
}

// farStart is how long after its start the beginning of a stretch is of no
// more interest. No zone ever turned its clocks by more than a day.
const farStart = 3 * secondsPerDay

func stretchAt(at int64, zone *time.Location) stretch {
	t := time.Unix(at, 0).In(zone)
	_, offset := t.Zone()
	start, end := t.ZoneBounds()
	s := stretch{math.MinInt64, math.MaxInt64, int64(offset), 0}
	if !end.IsZero() {
		s.end = end.Unix()
	}
	if s.end <= at {
		s.end = at + 3600 // Go 1.26 has it that leap years end on 30 December, from 2038 on
	}
	if !start.IsZero() {
		s.start = start.Unix()
		if at-s.start < farStart {
			_, before := time.Unix(s.start-1, 0).In(zone).Zone()
			s.turned = s.offset - int64(before)
		}
	}
	return s
}

// nextIn returns the first tick not before from and before end in a stretch
// that has from in it.
func (c *Cron) nextIn(s stretch, from, end int64) (int64, bool) {
	wall := from + s.offset
	first := s.start + s.offset // what the clocks showed at the start
	switch {
	case s.turned > 0 && s.turned < secondsPerDay && from == s.start && !c.everyHour:
		if _, ok := c.nextWall(first-s.turned, first); ok {
			return s.start, true
		}
	case s.turned < 0 && !c.everyHour && !c.everyMinute:
		wall = max(wall, first-s.turned) // until then all was shown before
	}
	end = min(end, s.end)
	wall, ok := c.nextWall(wall, end+s.offset)
	return wall - s.offset, ok
}
