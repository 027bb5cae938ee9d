package event_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/event"
	"github.com/mayfly-run/mayfly/queue"
)

// ordered is what an ordered mapping is to do: of each key the first event that
// has neither succeeded nor been buried may run, and no other.
type ordered struct {
	*node
	emitted int
	left    map[string][]string // by key, the ids that are not over, in the order of acceptance
	tries   map[string]int
	running map[string]*queue.Grant // by key
}

// TestOrderModel emits, runs, fails and restarts at random.
func TestOrderModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := start(t, event.Options{})
		defer n.close()
		n.deploy(mayfly.Workload{Name: "w", Retries: mayfly.Retries{Max: 1, Backoff: time.Millisecond}})
		n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded", OrderBy: "data.bucket"})
		o := &ordered{node: n, left: map[string][]string{}, tries: map[string]int{}, running: map[string]*queue.Grant{}}
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			switch rapid.IntRange(0, 9).Draw(r, "step") {
			case 0:
				if len(o.running) == 0 { // their ends would come to nobody
					n.restart(event.Options{})
				}
			case 1, 2, 3:
				o.emitOne(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "key"))
			case 4, 5, 6:
				if o.waiting() > 0 {
					o.take(r)
				}
			default:
				o.end(r, rapid.Bool().Draw(r, "succeeds"))
			}
		}
		for o.waiting() > 0 || len(o.running) > 0 {
			if o.waiting() > 0 {
				o.take(r)
			}
			o.end(r, true)
		}
	})
}

func (o *ordered) emitOne(key string) {
	id := fmt.Sprintf("%s%03d", key, o.emitted)
	o.emitted++
	o.emit(photo(id, key))
	o.left[key] = append(o.left[key], id)
}

// waiting is how many keys can be granted one more.
func (o *ordered) waiting() (n int) {
	for key, ids := range o.left {
		if len(ids) > 0 && o.running[key] == nil {
			n++
		}
	}
	return n
}

// take is granted a task, which is the first of its key.
func (o *ordered) take(r *rapid.T) {
	g := o.next()
	id := g.Task.Request.Header["Ce-Id"]
	key := id[:1]
	if o.running[key] != nil || len(o.left[key]) == 0 || o.left[key][0] != id {
		r.Fatalf("%s is granted, and of its key are left %v", id, o.left[key])
	}
	o.running[key] = g
}

// end ends a task that runs, if there is one.
func (o *ordered) end(r *rapid.T, succeeds bool) {
	for _, key := range []string{"c", "a", "b"} {
		g := o.running[key]
		if g == nil {
			continue
		}
		delete(o.running, key)
		id := o.left[key][0]
		if succeeds {
			o.done(g, mayfly.Succeeded)
		} else {
			o.done(g, mayfly.ExitedNonZero)
		}
		if o.tries[id]++; succeeds || o.tries[id] == 2 { // or buried
			o.left[key] = o.left[key][1:]
		}
		return
	}
}
