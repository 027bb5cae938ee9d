package queue

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
)

// machine is a queue and, in plain maps, what it promised so far.
type machine struct {
	t       *testing.T
	n       *node
	limit   map[string]int
	paused  map[string]bool
	state   map[string]mayfly.TaskState // of every accepted task, by id
	attempt map[string]int              // that comes or runs
	task    map[string]mayfly.Task
	grants  map[string]*Grant
}

func TestQueueAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &machine{t: t, n: startNode(t),
			limit: map[string]int{"a": 1, "b": 2}, paused: map[string]bool{},
			state: map[string]mayfly.TaskState{}, attempt: map[string]int{},
			task: map[string]mayfly.Task{}, grants: map[string]*Grant{}}
		defer func() { m.n.stop() }()
		m.limits()
		r.Repeat(map[string]func(*rapid.T){
			"submit":  m.submit,
			"next":    m.next,
			"succeed": m.succeed,
			"fail":    m.fail,
			"cancel":  m.cancel,
			"retry":   m.retry,
			"purge":   m.purge,
			"pause":   m.pause,
			"crash":   m.crash,
			"":        m.check,
		})
		m.drain(r)
	})
}

func (m *machine) limits() {
	for w, limit := range m.limit {
		m.n.deploy(mayfly.Workload{Name: w, Concurrency: limit})
	}
}

func (m *machine) submit(r *rapid.T) {
	var subs []mayfly.Submission
	for range rapid.IntRange(1, 5).Draw(r, "count") {
		sub := mayfly.Submission{Workload: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "workload")}
		sub.Priority = rapid.SampledFrom([]int{0, 0, 5, 9}).Draw(r, "priority")
		sub.Retries = mayfly.Retries{Max: rapid.IntRange(0, 2).Draw(r, "retries"), Delays: []time.Duration{0}}
		subs = append(subs, sub)
	}
	for _, a := range m.n.Submit(context.Background(), subs) {
		if a.Err != nil {
			r.Fatal(a.Err)
		}
		m.state[a.Task.ID], m.attempt[a.Task.ID], m.task[a.Task.ID] = mayfly.TaskQueued, 1, a.Task
	}
}

// ready are the tasks that may be granted now.
func (m *machine) ready() []string {
	running := map[string]int{}
	for id := range m.grants {
		running[m.task[id].Workload]++
	}
	var ids []string
	for id, s := range m.state {
		w := m.task[id].Workload
		if s == mayfly.TaskQueued && !m.paused[w] && (m.limit[w] == 0 || running[w] < m.limit[w]) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *machine) next(r *rapid.T) {
	ready := m.ready()
	if len(ready) == 0 {
		m.n.idle()
		return
	}
	g := m.n.next()
	id := g.Task.ID
	if !slices.Contains(ready, id) {
		r.Fatalf("granted %s of %s, which is %s", id, g.Task.Workload, m.state[id])
	}
	if g.Attempt.Number != m.attempt[id] {
		r.Fatalf("granted attempt %d of %s, want %d", g.Attempt.Number, id, m.attempt[id])
	}
	for _, other := range ready {
		if m.task[other].Workload == g.Task.Workload && m.task[other].Priority > g.Task.Priority && m.known(other) {
			r.Fatalf("granted priority %d before %d", g.Task.Priority, m.task[other].Priority)
		}
	}
	m.state[id], m.grants[id] = mayfly.TaskStarting, g
}

// known reports whether the dispatcher has seen a task; after a crash it sees
// them one after the other.
func (m *machine) known(id string) bool {
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	return m.n.entries[entryKey(home, id)] != nil
}

func (m *machine) any(r *rapid.T, ids []string) string {
	if len(ids) == 0 {
		r.Skip("none")
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(r, "id")
}

func (m *machine) in(states ...mayfly.TaskState) (ids []string) {
	for id, s := range m.state {
		if slices.Contains(states, s) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *machine) end(r *rapid.T, reason mayfly.Reason) {
	id := m.any(r, slices.Collect(maps.Keys(m.grants)))
	g := m.grants[id]
	delete(m.grants, id)
	task := m.n.done(g, reason)
	wanted := endState(reason)
	retries := m.task[id].Retries
	used := (m.attempt[id] - 1) % (retries.Max + 1)
	switch {
	case m.state[id] == mayfly.TaskCancelled:
		wanted = mayfly.TaskCancelled
	case reason == mayfly.Succeeded || retries.Max == 0:
	case used == retries.Max:
		wanted = mayfly.TaskBuried
	default:
		wanted = mayfly.TaskQueued
		m.attempt[id]++
	}
	if task.State != wanted {
		r.Fatalf("%s after attempt %d is %s, want %s", id, g.Attempt.Number, task.State, wanted)
	}
	m.state[id] = wanted
}

func (m *machine) succeed(r *rapid.T) { m.end(r, mayfly.Succeeded) }
func (m *machine) fail(r *rapid.T)    { m.end(r, mayfly.ExitedNonZero) }

func (m *machine) cancel(r *rapid.T) {
	id := m.any(r, slices.Collect(maps.Keys(m.state)))
	_, err := m.n.Cancel(context.Background(), home, id)
	if m.state[id].Ended() {
		if mayfly.KindOf(err) != mayfly.Conflict {
			r.Fatalf("cancelled what is %s: %v", m.state[id], err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	m.state[id] = mayfly.TaskCancelled
}

func (m *machine) retry(r *rapid.T) {
	id := m.any(r, m.in(mayfly.TaskBuried))
	if _, err := m.n.Retry(context.Background(), home, id); err != nil {
		r.Fatal(err)
	}
	m.state[id] = mayfly.TaskQueued
	m.attempt[id]++
}

func (m *machine) purge(r *rapid.T) {
	id := m.any(r, m.in(mayfly.TaskBuried))
	if _, err := m.n.Purge(context.Background(), home, id); err != nil {
		r.Fatal(err)
	}
	m.state[id] = mayfly.TaskFailed
}

func (m *machine) pause(r *rapid.T) {
	w := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "workload")
	change := m.n.Pause
	if m.paused[w] {
		change = m.n.Resume
	}
	if err := change(context.Background(), home, w); err != nil {
		r.Fatal(err)
	}
	m.paused[w] = !m.paused[w]
}

// crash goes on with what a power cut leaves; some attempts survive it.
func (m *machine) crash(r *rapid.T) {
	m.n = m.n.crash(Options{})
	old := m.grants
	m.grants = map[string]*Grant{}
	for _, id := range slices.Sorted(maps.Keys(old)) {
		adopt := rapid.Bool().Draw(r, "survived")
		if m.state[id] == mayfly.TaskCancelled {
			if _, err := m.n.Adopt(context.Background(), home, id, old[id].Attempt); mayfly.KindOf(err) != mayfly.Conflict {
				r.Fatalf("adopted what was cancelled: %v", err)
			}
			continue
		}
		if !adopt {
			m.state[id] = mayfly.TaskQueued
			continue
		}
		g, err := m.n.Adopt(context.Background(), home, id, old[id].Attempt)
		if err != nil {
			r.Fatal(err)
		}
		m.grants[id] = g
	}
	m.n.start()
}

func (m *machine) check(r *rapid.T) {
	for id, s := range m.state {
		if got := m.n.state(id); got != s {
			r.Fatalf("%s is %s, want %s", id, got, s)
		}
	}
}

// drain runs all that is left: every accepted task comes to an end.
func (m *machine) drain(r *rapid.T) {
	for w := range m.paused {
		if m.paused[w] {
			if err := m.n.Resume(context.Background(), home, w); err != nil {
				r.Fatal(err)
			}
			m.paused[w] = false
		}
	}
	for {
		for id, g := range m.grants {
			delete(m.grants, id)
			m.state[id] = m.n.done(g, mayfly.Succeeded).State
		}
		if len(m.ready()) == 0 {
			break
		}
		m.next(r)
	}
	m.check(r)
	if left := m.in(mayfly.TaskQueued, mayfly.TaskStarting); len(left) > 0 {
		r.Fatalf("%d tasks never came to an end", len(left))
	}
	m.n.idle()
}
