package schedule

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// maxCron bounds a line, in bytes.
const maxCron = 256

// cronField is one column of a line and what may be in it.
type cronField struct {
	name     string
	min, max int
	names    []string // of the values from min on; nil if they have none
}

func cronFields() [6]cronField {
	return [6]cronField{
		{name: "second", max: 59},
		{name: "minute", max: 59},
		{name: "hour", max: 23},
		{name: "day of month", min: 1, max: 31},
		{name: "month", min: 1, max: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{name: "day of week", max: 7, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	}
}

// ParseCron reads a line of five fields as crontab(5) has them (minute, hour,
// day of month, month, day of week), or of six with seconds in front, or
// @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually. A field
// is * or a list of a, a-b, */n, a-b/n and a/n, which goes on to the field's
// end. Months and days of the week have names of three letters, in any case;
// Sunday is 0 and 7. The days may also be ? (for *), L for the last of the
// month, 5L for the last Friday and 5#2 for the second.
//
// When both kinds of day are restricted, that is, do not begin with *, one of
// them is enough, as in crontab(5). A line that names no day of any year is
// refused. Every error is Invalid and names the field.
func ParseCron(line string) (Cron, error) {
	if len(line) > maxCron {
		return Cron{}, mayfly.Errorf(mayfly.Invalid, "cron line has %d characters; at most %d are read", len(line), maxCron)
	}
	text, err := expandMacro(strings.TrimSpace(line))
	if err != nil {
		return Cron{}, err
	}
	fields := strings.Fields(text)
	switch {
	case strings.Contains(text, "TZ="):
		return Cron{}, badCron(line, "a line holds no time zone").WithHint("set the schedule's time zone beside it")
	case len(fields) == 5:
		fields = slices.Insert(fields, 0, "0")
	case len(fields) != 6:
		return Cron{}, badCron(line, "it has %d fields, not 5", len(fields)).
			WithHint("write minute, hour, day of month, month, day of week; seconds may stand in front")
	}
	c, err := cronOf(fields)
	if err != nil {
		return Cron{}, badCron(line, "%s", err.Error())
	}
	if _, ok := c.nextWall(0, horizon); !ok {
		return Cron{}, badCron(line, "it never fires: no month that it names has such a day")
	}
	return c, nil
}

func badCron(line, format string, args ...any) *mayfly.Error {
	return mayfly.Errorf(mayfly.Invalid, "cron %q: %s", line, fmt.Sprintf(format, args...))
}

// expandMacro returns the five fields that a name such as @daily stands for,
// and any other line as it is.
func expandMacro(line string) (string, error) {
	if !strings.HasPrefix(line, "@") {
		return line, nil
	}
	name, _, _ := strings.Cut(strings.ToLower(line), " ")
	switch name {
	case "@every":
		return "", badCron(line, "not a cron line").WithHint("use every: 5m in its place")
	case "@reboot":
		return "", badCron(line, "not a time").WithHint("for a program that always runs, use a service")
	}
	switch strings.ToLower(line) {
	case "@hourly":
		return "0 * * * *", nil
	case "@daily", "@midnight":
		return "0 0 * * *", nil
	case "@weekly":
		return "0 0 * * 0", nil
	case "@monthly":
		return "0 0 1 * *", nil
	case "@yearly", "@annually":
		return "0 0 1 1 *", nil
	}
	return "", badCron(line, "unknown name").WithHint("use @hourly, @daily, @weekly, @monthly, @yearly or five fields")
}

// cronOf reads the six fields.
func cronOf(fields []string) (c Cron, err error) {
	var sets [6]uint64
	for i, f := range cronFields() {
		for item := range strings.SplitSeq(fields[i], ",") {
			if c.special(i, item) {
				continue
			}
			set, err := f.item(item)
			if err != nil {
				return c, err
			}
			sets[i] |= set
		}
	}
	c.second, c.minute, c.hour = sets[0], sets[1], uint32(sets[2])
	c.day, c.month = uint32(sets[3]), uint32(sets[4])
	c.weekday = uint8(sets[5]&0x7f | sets[5]>>7&1)
	c.eitherDay = !strings.ContainsAny(fields[3][:1], "*?") && !strings.ContainsAny(fields[5][:1], "*?")
	c.everyHour = c.hour == 1<<24-1
	c.everyMinute = strings.HasPrefix(fields[1], "*")
	return c, nil
}

// special reads the items that are no numbers: L, 5L and 5#2. It returns
// false for all others.
func (c *Cron) special(field int, item string) bool {
	upper := strings.ToUpper(item)
	if field == 3 && upper == "L" {
		c.lastDay = true
		return true
	}
	if field != 5 {
		return false
	}
	name, k, found := strings.Cut(item, "#")
	n, err := strconv.Atoi(k)
	if !found {
		name, found = strings.CutSuffix(upper, "L")
		n, err = lastOfMonth, nil
	} else if n < 1 || n > 5 || len(k) != 1 {
		return false
	}
	day, ok := cronFields()[5].value(name)
	if !found || err != nil || !ok {
		return false
	}
	c.nth[n] |= 1 << (day % 7)
	return true
}

// item reads one of the parts between commas. Bit n of the set is the value n.
func (f cronField) item(item string) (set uint64, err error) {
	span, stepText, stepped := strings.Cut(item, "/")
	lo, hi, err := f.span(item, span, stepped)
	if err != nil {
		return 0, err
	}
	step := 1
	if stepped {
		if step, err = f.step(item, stepText); err != nil {
			return 0, err
		}
	}
	for v := lo; v <= hi; v += step {
		set |= 1 << v
	}
	return set, nil
}

// span reads what stands before the slash. A single number with a step goes
// on to the end of the field.
func (f cronField) span(item, span string, stepped bool) (lo, hi int, err error) {
	top := f.max
	if f.max == 7 {
		top = 6 // 7 is Sunday again, and not one more
	}
	if span == "*" || span == "?" && strings.HasPrefix(f.name, "day") {
		return f.min, top, nil
	}
	from, to, ranged := strings.Cut(span, "-")
	lo, ok := f.value(from)
	if !ok {
		return 0, 0, f.wrong(item)
	}
	switch {
	case ranged:
		if hi, ok = f.value(to); !ok {
			return 0, 0, f.wrong(item)
		}
	case stepped:
		hi = max(lo, top)
	default:
		hi = lo
	}
	if ranged && f.max == 7 && hi == 0 && lo > 0 {
		hi = 7 // fri-sun
	}
	if lo > hi {
		return 0, 0, fmt.Errorf("%s %q goes backwards; write it as two, %s-%d,%d-%s", f.name, item, from, top, f.min, to)
	}
	return lo, hi, nil
}

func (f cronField) step(item, text string) (int, error) {
	values := f.max - f.min + 1
	if f.max == 7 {
		values = 7
	}
	n, ok := number(text)
	switch {
	case !ok:
		return 0, f.wrong(item)
	case n == 0:
		return 0, fmt.Errorf("%s %q: a step is at least 1", f.name, item)
	case n > values:
		return 0, fmt.Errorf("%s %q: a step of %d is more than the %d that there are; for longer intervals use every, as in every: 90m", f.name, item, n, values)
	}
	return n, nil
}

// value reads one number or name.
func (f cronField) value(text string) (int, bool) {
	if i := slices.Index(f.names, strings.ToLower(text)); i >= 0 {
		return f.min + i, true
	}
	n, ok := number(text)
	return n, ok && n >= f.min && n <= f.max
}

// number reads up to four digits and nothing else.
func number(text string) (int, bool) {
	if text == "" || len(text) > 4 || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}

// wrong says what a field may hold.
func (f cronField) wrong(item string) error {
	also := ""
	switch {
	case f.max == 31:
		also = ", L"
	case f.max == 7:
		also = fmt.Sprintf(" or %s-%s, 5L, 5#2", f.names[0], f.names[6])
	case f.names != nil:
		also = fmt.Sprintf(" or %s-%s", f.names[0], f.names[len(f.names)-1])
	}
	return fmt.Errorf("%s %q is none; allowed are %d-%d%s, *, ranges a-b, steps */n and a-b/n, and lists of these", f.name, item, f.min, f.max, also)
}
