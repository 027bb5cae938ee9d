package schedule

import (
	"math/bits"
	"time"
)

// Cron is a line of cron(5) as sets of numbers. It holds no zone: the same
// line can be asked for its ticks in any. ParseCron makes one.
type Cron struct {
	second, minute uint64 // bit n: the value n is in the field
	hour, month    uint32
	day            uint32 // of the month
	lastDay        bool   // L: the last day of the month too
	weekday        uint8  // bit 0: Sunday
	nth            [6]uint8
	eitherDay      bool // day and weekday are both restricted: one of them is enough
	everyHour      bool // all hours are in the field
	everyMinute    bool // the field of minutes begins with *
}

// horizon bounds the search for a tick. The calendar repeats itself, weekdays
// included, after 400 years: a line that has no tick in them has none at all.
const (
	horizon    = 400*366*secondsPerDay + 2*secondsPerDay
	lastSecond = 253402300799 // of the year 9999, the last that JSON can say

	secondsPerDay = 24 * 60 * 60
)

// lastOfMonth is the index in Cron.nth of "5L", the last Friday; 1 to 5 are
// "5#1", the first Friday, and so on.
const lastOfMonth = 0

// nextWall returns the first moment not before from, and before end, that the
// line names. Both are readings of a clock on the wall in seconds since 1970,
// as if the wall were in UTC, so days always have 24 hours here.
func (c *Cron) nextWall(from, end int64) (int64, bool) {
	rest := from % secondsPerDay
	if rest < 0 {
		rest += secondsPerDay
	}
	midnight := from - rest
	year, month, day := time.Unix(midnight, 0).UTC().Date()
	if tod, ok := c.nextTimeOfDay(int(rest)); ok && c.days(year, month)>>day&1 != 0 {
		return midnight + int64(tod), midnight+int64(tod) < end
	}
	first, _ := c.nextTimeOfDay(0)
	for day++; ; day = 1 {
		if left := c.days(year, month) >> day << day; left != 0 {
			day = bits.TrailingZeros32(left)
			at := time.Date(year, month, day, 0, 0, first, 0, time.UTC).Unix()
			return at, at < end
		}
		if month++; month > time.December {
			year, month = year+1, time.January
		}
		if time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Unix() >= end {
			return 0, false
		}
	}
}

// nextTimeOfDay returns the first second of the day, not before the given
// one, that the line names.
func (c *Cron) nextTimeOfDay(from int) (int, bool) {
	h, m, s := from/3600, from/60%60, from%60
	if c.hour>>h&1 != 0 {
		if c.minute>>m&1 != 0 {
			if left := c.second >> s << s; left != 0 {
				return h*3600 + m*60 + bits.TrailingZeros64(left), true
			}
		}
		if left := c.minute >> (m + 1) << (m + 1); left != 0 {
			return h*3600 + bits.TrailingZeros64(left)*60 + bits.TrailingZeros64(c.second), true
		}
	}
	left := c.hour >> (h + 1) << (h + 1)
	if left == 0 {
		return 0, false
	}
	return bits.TrailingZeros32(left)*3600 + bits.TrailingZeros64(c.minute)*60 + bits.TrailingZeros64(c.second), true
}

// days returns the days of one month that the line names; bit 1 is the first.
func (c *Cron) days(year int, month time.Month) uint32 {
	if c.month>>month&1 == 0 {
		return 0
	}
	length := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
	whole := uint32(1)<<(length+1) - 2
	byDay := c.day & whole
	if c.lastDay {
		byDay |= 1 << length
	}
	byWeekday := c.weekdays(time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Weekday(), length)
	if c.eitherDay {
		return byDay | byWeekday
	}
	return byDay & byWeekday
}

// weekdays returns what the field of weekdays names of a month that begins
// with the weekday first and has length days.
func (c *Cron) weekdays(first time.Weekday, length int) (set uint32) {
	for day := 1; day <= length; day++ {
		bit := uint8(1) << ((int(first) + day - 1) % 7)
		on := c.weekday | c.nth[(day+6)/7]
		if day+7 > length {
			on |= c.nth[lastOfMonth]
		}
		if on&bit != 0 {
			set |= 1 << day
		}
	}
	return set
}
