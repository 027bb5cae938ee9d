package queue

import (
	"bytes"
	"cmp"
	"container/heap"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// Key limits. A task whose turn has come while its key is at the limit is taken
// out of the way: those behind it go first, however many of the same key lie
// before them. When a task of the key ends, the oldest of the key in each lane is
// put back in front. Of the tasks in the way a few are kept in memory; of the
// others nothing but their sequence, 8 bytes, and they are read a second time.
const (
	blockedMax  = 16 // entries of one key in one lane
	blockedFew  = 1  // the same, when many are held
	maxLimitKey = 64 // bytes
)

// blocked is the tasks of one key in one lane that are out of the way.
type blocked struct {
	window entryHeap
	unread sequences // all after those of window
	most   int       // that a task of the key says; 0: the limit of the flow
	last   uint64    // of those that are read again, which are between; one batch at a time
}

// limitKey is the value of a field, as in "user.id", of a JSON payload: its JSON
// text, or a digest of it where it is long. It is empty when there is no such
// field, or it is null.
func limitKey(payload []byte, field string) string {
	for _, name := range strings.Split(field, ".") {
		var object map[string]json.RawMessage
		if json.Unmarshal(payload, &object) != nil {
			return ""
		}
		payload = object[name]
	}
	var text string
	if json.Unmarshal(payload, &text) == nil && bytes.HasPrefix(bytes.TrimSpace(payload), []byte{'"'}) {
		payload, _ = json.Marshal(text) // the same text can be written in many ways
	}
	var value bytes.Buffer
	if json.Compact(&value, payload) != nil || value.String() == "null" {
		return ""
	}
	if value.Len() <= maxLimitKey {
		return value.String()
	}
	sum := sha256.Sum256(value.Bytes())
	return hex.EncodeToString(sum[:maxLimitKey/4])
}

// limitKeyIn is limitKey for a payload of which there is only the beginning.
func limitKeyIn(begin []byte, field string) string {
	d := json.NewDecoder(bytes.NewReader(begin))
	for _, name := range strings.Split(field, ".") {
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			return ""
		}
		for {
			t, err := d.Token()
			if err != nil || t == json.Delim('}') {
				return ""
			}
			if t == any(name) {
				break
			}
			var other json.RawMessage
			if d.Decode(&other) != nil {
				return ""
			}
		}
	}
	var value json.RawMessage
	if d.Decode(&value) != nil {
		return ""
	}
	return limitKey(append(append([]byte(`{"value":`), value...), '}'), "value")
}

// count notes that an entry is granted.
func (q *Queue) count(e *entry) {
	f := e.lane.flow
	f.granted++
	if e.task.LimitKey != "" {
		if f.keys == nil {
			f.keys = map[string]int{}
		}
		f.keys[e.task.LimitKey]++
	}
}

// uncount notes that an entry is not granted any more.
func (q *Queue) uncount(e *entry) {
	f, key := e.lane.flow, e.task.LimitKey
	f.granted--
	if key == "" {
		return
	}
	if f.keys[key]--; f.keys[key] <= 0 {
		delete(f.keys, key)
	}
	q.nextOfKey(f, key)
}

// nextOfKey puts those of a key back in front of which one may go now.
func (q *Queue) nextOfKey(f *flow, key string) {
	for _, l := range f.lanes {
		if l != nil && l.blocked[key] != nil {
			q.unblock(l, key)
		}
	}
}

// atLimit reports whether as many tasks of an entry's key are granted as may be.
func (f *flow) atLimit(e *entry) bool {
	most := f.mostOf(e.task.LimitMax)
	return e.task.LimitKey != "" && most > 0 && f.keys[e.task.LimitKey] >= most
}

// mostOf is how many tasks of a key may run at once, where one says so itself.
func (f *flow) mostOf(said int) int { return cmp.Or(said, f.limits.key.Max) }

// overtakes reports whether tasks of an entry's key that come before it are to be
// read again first.
func (l *lane) overtakes(e *entry) bool {
	b := l.blocked[e.task.LimitKey]
	return b != nil && (b.unread.len() > 0 && e.seq > b.unread.first(1)[0] || e.seq > b.last && l.unread.contains(b.last))
}

// skipBlocked takes what cannot go because of its key away from the heads of the
// lanes.
func (q *Queue) skipBlocked(f *flow) {
	if f.limits.key.Max <= 0 && !f.limited {
		return
	}
	for _, l := range f.lanes {
		if l == nil {
			continue
		}
		for len(l.window) > 0 && (f.atLimit(l.window[0]) || l.overtakes(l.window[0])) {
			q.block(heap.Pop(&l.window).(*entry))
		}
		q.wantRead(l)
	}
}

// block takes an entry out of the way. Those in memory are before the others.
func (q *Queue) block(e *entry) {
	l := e.lane
	if l.blocked == nil {
		l.blocked = map[string]*blocked{}
	}
	b := l.blocked[e.task.LimitKey]
	if b == nil {
		b = &blocked{}
		l.blocked[e.task.LimitKey] = b
	}
	b.most = e.task.LimitMax
	e.blocked = b
	heap.Push(&b.window, e)
	most := blockedMax
	if len(q.entries) > q.most/2 {
		most = blockedFew
	}
	for len(b.window) > 0 {
		last := b.window.last()
		if len(b.window) <= most && !l.overtakes(last) {
			break
		}
		heap.Remove(&b.window, last.index)
		q.drop(last)
		b.unread.insert(last.seq)
	}
}

// last is the entry with the highest sequence; there is one.
func (h entryHeap) last() *entry {
	return slices.MaxFunc(h, func(x, y *entry) int { return cmp.Compare(x.seq, y.seq) })
}

// unblock puts the oldest of a key that was out of the way back in front.
func (q *Queue) unblock(l *lane, key string) {
	b := l.blocked[key]
	if len(b.window) > 0 {
		e := heap.Pop(&b.window).(*entry)
		e.blocked = nil
		heap.Push(&l.window, e)
	}
	if len(b.window) <= blockedMax/4 {
		q.readBlocked(l, b, blockedMax-blockedMax/4)
	}
	if len(b.window) == 0 && b.unread.len() == 0 && !l.unread.contains(b.last) {
		delete(l.blocked, key)
	}
}

// readBlocked has tasks of a key read again, whatever else the window has.
func (q *Queue) readBlocked(l *lane, b *blocked, most int) {
	again := slices.Clone(b.unread.first(most))
	if len(again) == 0 || l.unread.contains(b.last) {
		return
	}
	for _, seq := range again {
		b.unread.remove(seq)
	}
	b.last = again[len(again)-1]
	l.unread.insertFirst(again)
	l.urgent += len(again)
	q.wantRead(l)
}

// readOn goes on where what was read again had ended meanwhile.
func (q *Queue) readOn(l *lane) {
	for key, b := range l.blocked {
		if len(b.window) == 0 && l.flow.keys[key] < l.flow.mostOf(b.most) {
			q.readBlocked(l, b, blockedMax)
		}
		if len(b.window) == 0 && b.unread.len() == 0 && !l.unread.contains(b.last) {
			delete(l.blocked, key)
		}
	}
}

// unblockAll puts everything back, because the limit has changed.
func (q *Queue) unblockAll(f *flow) {
	for _, l := range f.lanes {
		if l == nil {
			continue
		}
		for _, b := range l.blocked {
			for _, e := range b.window {
				e.blocked = nil
				heap.Push(&l.window, e)
			}
			l.unread.insertFirst(b.unread.first(b.unread.len()))
		}
		l.blocked = nil
		q.wantRead(l)
	}
}
