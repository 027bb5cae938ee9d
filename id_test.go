package mayfly

import (
	"regexp"
	"testing"
	"time"
)

var anID = regexp.MustCompile(`^[0-9a-hj-km-np-tv-z]{20}$`)

func TestIDs(t *testing.T) {
	before := time.Now().Truncate(time.Millisecond)
	id := NewID()
	after := time.Now()
	if !anID.MatchString(id) || id == NewID() {
		t.Errorf("new id %q", id)
	}
	if made, ok := IDTime(id); !ok || made.Before(before) || made.After(after) {
		t.Errorf("id %q was made at %s, not between %s and %s", id, made, before, after)
	}
	if made, ok := IDTime(id[:4]); !ok || made.After(before) {
		t.Errorf("ids that begin with %q are of %s at the earliest", id[:4], made)
	}
	if _, ok := IDTime("06u"); ok {
		t.Error("there is no u in an id")
	}
	if a := IDOf("a", "b"); !anID.MatchString(a) || a != IDOf("a", "b") || a == IDOf("ab") || a == IDOf("a", "c") {
		t.Errorf("the id of a and b is %q", a)
	}
}
