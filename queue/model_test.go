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
	cascade map[string]bool // cancelled, or to be, because of a parent
}

func TestQueueAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &machine{t: t, n: startNode(t),
			limit: map[string]int{"a": 1, "b": 2}, paused: map[string]bool{},
			state: map[string]mayfly.TaskState{}, attempt: map[string]int{},
			task: map[string]mayfly.Task{}, grants: map[string]*Grant{}, cascade: map[string]bool{}}
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
			"end and crash": func(r *rapid.T) { // before what follows has been done
				m.end(r, rapid.SampledFrom([]mayfly.Reason{mayfly.Succeeded, mayfly.ExitedNonZero}).Draw(r, "reason"))
				m.crash(r)
			},
			"": m.check,
		})
		m.drain(r)
	})
}

func (m *machine) limits() {
	for w, limit := range m.limit {
		m.n.deploy(mayfly.Workload{Name: w, Concurrency: limit})
	}
	m.n.deploy(mayfly.Workload{Name: "c", Key: mayfly.KeyLimit{Field: "k", Max: 1}})
}

func (m *machine) submit(r *rapid.T) {
	var subs []mayfly.Submission
	for range rapid.IntRange(1, 5).Draw(r, "count") {
		sub := mayfly.Submission{Workload: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "workload")}
		sub.Priority = rapid.SampledFrom([]int{0, 0, 5, 9}).Draw(r, "priority")
		sub.Retries = mayfly.Retries{Max: rapid.IntRange(0, 2).Draw(r, "retries"), Delays: []time.Duration{0}}
		sub.After = m.parents(r)
		if sub.Workload == "c" {
			sub.Payload = []byte(rapid.SampledFrom([]string{`{"k": 1}`, `{"k": 2}`, ``}).Draw(r, "payload"))
		}
		subs = append(subs, sub)
	}
	for _, a := range m.n.Submit(context.Background(), subs) {
		if a.Err != nil {
			r.Fatal(a.Err)
		}
		m.state[a.Task.ID], m.attempt[a.Task.ID], m.task[a.Task.ID] = mayfly.TaskQueued, 1, a.Task
	}
}

// parents are some tasks that have succeeded or may yet.
func (m *machine) parents(r *rapid.T) (ids []string) {
	those := m.in(mayfly.TaskQueued, mayfly.TaskStarting, mayfly.TaskBuried, mayfly.TaskSucceeded)
	slices.Sort(those)
	for range rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(r, "parents") {
		if len(those) > 0 {
			ids = append(ids, rapid.SampledFrom(those).Draw(r, "parent"))
		}
	}
	return ids
}

// held reports whether a task waits for others.
func (m *machine) held(id string) bool {
	return slices.ContainsFunc(m.task[id].After, func(p string) bool { return m.state[p] != mayfly.TaskSucceeded })
}

// over notes what the end of tasks means for those that come after them: the
// first, in order, that has not succeeded decides.
func (m *machine) over() {
	for again := true; again; {
		again = false
		for child, task := range m.task {
			if m.state[child] != mayfly.TaskQueued {
				continue
			}
			i := slices.IndexFunc(task.After, func(p string) bool { return m.state[p] != mayfly.TaskSucceeded })
			if i < 0 {
				continue
			}
			if s := m.state[task.After[i]]; s.Ended() && s != mayfly.TaskBuried {
				m.state[child], m.cascade[child], again = mayfly.TaskCancelled, true, true
			}
		}
	}
}

// ready are the tasks that may be granted now.
func (m *machine) ready() []string {
	running, keys := map[string]int{}, map[string]int{}
	for id := range m.grants {
		running[m.task[id].Workload]++
		keys[m.task[id].LimitKey]++
	}
	var ids []string
	for id, s := range m.state {
		w := m.task[id].Workload
		if s == mayfly.TaskQueued && !m.held(id) && !m.paused[w] && (m.limit[w] == 0 || running[w] < m.limit[w]) &&
			(m.task[id].LimitKey == "" || keys[m.task[id].LimitKey] == 0) {
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
	known := slices.DeleteFunc(slices.Clone(ready), func(id string) bool { return !m.known(id) })
	g := m.n.next()
	id := g.Task.ID
	if !slices.Contains(ready, id) {
		r.Fatalf("granted %s of %s, which is %s", id, g.Task.Workload, m.state[id])
	}
	if g.Attempt.Number != m.attempt[id] {
		r.Fatalf("granted attempt %d of %s, want %d", g.Attempt.Number, id, m.attempt[id])
	}
	for _, other := range known {
		if m.task[other].Workload == g.Task.Workload && m.task[other].Priority > g.Task.Priority {
			r.Fatalf("granted priority %d before %d", g.Task.Priority, m.task[other].Priority)
		}
	}
	m.state[id], m.grants[id] = mayfly.TaskStarting, g
}

// known reports whether the dispatcher has a task among those that can be
// granted; after a crash, and as parents end, they come one after the other.
func (m *machine) known(id string) bool {
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	e := m.n.entries[entryKey(home, id)]
	return e != nil && e.index >= 0
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
	m.over()
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
	m.over()
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
	m.over()
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
		if m.cascade[id] {
			if task, err := m.n.Wait(context.Background(), home, id); err != nil || task.State != s || task.Detail == "" {
				r.Fatalf("%s is %s, %v, want %s", id, task.State, err, s)
			}
		}
		if got := m.n.state(id); got != s {
			r.Fatalf("%s is %s, want %s", id, got, s)
		}
	}
}

// waitsForBuried reports whether a task comes after a buried one.
func (m *machine) waitsForBuried(id string) bool {
	return slices.ContainsFunc(m.task[id].After, func(p string) bool {
		return m.state[p] == mayfly.TaskBuried || m.waitsForBuried(p)
	})
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
			m.over()
		}
		if len(m.ready()) == 0 {
			break
		}
		m.next(r)
	}
	m.check(r)
	for _, id := range m.in(mayfly.TaskQueued, mayfly.TaskStarting) {
		if !m.waitsForBuried(id) {
			r.Fatalf("task %s never came to an end", id)
		}
	}
	m.n.idle()
}
