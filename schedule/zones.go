package schedule

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Zones finds time zones by name and keeps those it has found, so that twenty
// thousand schedules share a few. The zero value is ready for use, by many at
// once.
//
// The data is the machine's, or the program's own where it imports
// time/tzdata, as cmd/mayfly must for machines that have none. A node reads
// them once: new rules hold when its daemon has been started anew.
type Zones struct {
	mu    sync.Mutex
	known map[string]*time.Location
}

// Load returns the zone of a name such as "Europe/Berlin", and UTC for none.
// Names that mean something else on each machine are Invalid, like unknown ones.
func (z *Zones) Load(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if zone := z.known[name]; zone != nil {
		return zone, nil
	}
	if top, _, _ := strings.Cut(name, "/"); slices.Contains([]string{"Local", "localtime", "posixrules", "posix", "right", "Factory"}, top) {
		return nil, unknownZone(name)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, unknownZone(name)
	}
	if z.known == nil {
		z.known = map[string]*time.Location{}
	}
	z.known[name] = zone
	return zone, nil
}

func unknownZone(name string) error {
	return mayfly.Errorf(mayfly.Invalid, "time zone %.80q is not known", name).
		WithHint("use a name of the IANA database, such as Europe/Berlin, or UTC")
}
