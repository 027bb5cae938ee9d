package schedule

import (
	"container/heap"
	"strings"
	"time"
)

// Name names a schedule among all spaces.
type Name struct{ Space, Name string }

// Index keeps schedules by the time at which each is to be planned
// next, so that planning touches only those whose time has come. Each change
// takes O(log n). The zero value is empty and ready; one goroutine at a time
// may use it.
type Index struct {
	heap wakeHeap
	at   map[Name]*wakeEntry
}

// Set puts a schedule in, or moves it, to be planned at wake. The zero time
// takes it out.
func (x *Index) Set(name Name, wake time.Time) {
	e := x.at[name]
	switch {
	case wake.IsZero() && e == nil:
	case wake.IsZero():
		heap.Remove(&x.heap, e.place)
		delete(x.at, name)
	case e == nil:
		if x.at == nil {
			x.at = map[Name]*wakeEntry{}
		}
		e = &wakeEntry{name: name, wake: wake}
		x.at[name] = e
		heap.Push(&x.heap, e)
	default:
		e.wake = wake
		heap.Fix(&x.heap, e.place)
	}
}

// First returns the earliest time at which a schedule is to be planned, and
// the zero time when there is none.
func (x *Index) First() time.Time {
	if len(x.heap) == 0 {
		return time.Time{}
	}
	return x.heap[0].wake
}

// Pop takes out the schedule that has waited longest of those whose time has
// come, by their names among equals. The caller plans it and sets it again.
func (x *Index) Pop(now time.Time) (Name, bool) {
	if len(x.heap) == 0 || x.heap[0].wake.After(now) {
		return Name{}, false
	}
	e := heap.Pop(&x.heap).(*wakeEntry)
	delete(x.at, e.name)
	return e.name, true
}

// Len is how many schedules wait for their time.
func (x *Index) Len() int { return len(x.heap) }

type wakeEntry struct {
	name  Name
	wake  time.Time
	place int // in the heap
}

// wakeHeap is a heap.Interface, the earliest first.
type wakeHeap []*wakeEntry

func (h wakeHeap) Len() int { return len(h) }

func (h wakeHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	if c := a.wake.Compare(b.wake); c != 0 {
		return c < 0
	}
	if c := strings.Compare(a.name.Space, b.name.Space); c != 0 {
		return c < 0
	}
	return a.name.Name < b.name.Name
}

func (h wakeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *wakeHeap) Push(v any) {
	e := v.(*wakeEntry)
	e.place = len(*h)
	*h = append(*h, e)
}

func (h *wakeHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
