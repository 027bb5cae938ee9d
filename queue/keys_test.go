package queue

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// of is a task of somebody.
func of(user string) mayfly.Submission {
	return mayfly.Submission{Workload: "w", Payload: []byte(`{"user": {"id": ` + user + `}}`)}
}

func keyed(limit int) mayfly.Workload {
	return mayfly.Workload{Name: "w", Key: mayfly.KeyLimit{Field: "user.id", Max: limit}}
}

// users are whose tasks are granted next, all that can be.
func (n *node) users(count int) (users string, grants []*Grant) {
	n.t.Helper()
	for range count {
		g := n.next()
		users += g.Task.LimitKey
		grants = append(grants, g)
	}
	n.idle()
	return users, grants
}

func TestKeyLimit(t *testing.T) {
	n := startNode(t)
	n.deploy(keyed(1))
	n.submit(of("1"), of("1"), of("1"), of("2"), work("w"), of("null"), of("2"))
	users, grants := n.users(4) // two have none
	if users != "12" {
		t.Errorf("granted those of %q", users)
	}
	n.done(grants[0], mayfly.Succeeded)
	users, second := n.users(1)
	if users != "1" {
		t.Errorf("granted that of %q", users)
	}
	n.deploy(keyed(2)) // one more of each
	users, third := n.users(2)
	if users != "12" && users != "21" {
		t.Errorf("granted those of %q", users)
	}
	for _, g := range append(append(grants[1:], second...), third...) {
		n.done(g, mayfly.Succeeded)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.flows[flowKey{home, "w"}]; len(f.keys) > 0 || f.granted != 0 || len(f.lanes[0].blocked) > 0 {
		t.Errorf("%d keys and %d tasks count on, %d are in the way", len(f.keys), f.granted, len(f.lanes[0].blocked))
	}
}

// Thousands that cannot go hold nobody up, take little memory and lose neither
// their order nor, over a crash, themselves.
func TestManyOfOneKey(t *testing.T) {
	const count = 3000
	n := startNode(t)
	n.mu.Lock()
	n.most = 100
	n.mu.Unlock()
	n.deploy(keyed(1))
	var ids []string
	for range count / MaxBatch {
		subs := make([]mayfly.Submission, MaxBatch)
		for i := range subs {
			subs[i] = of("1")
		}
		for _, task := range n.submit(subs...) {
			ids = append(ids, task.ID)
		}
	}
	n.submit(of("2"), of("3"))
	users, grants := n.users(3)
	if users != "123" {
		t.Errorf("granted those of %q", users)
	}
	n.mu.Lock()
	if len(n.entries) > 2*n.most {
		t.Errorf("%d tasks are in memory", len(n.entries))
	}
	n.mu.Unlock()
	if _, err := n.Cancel(t.Context(), home, ids[1000]); err != nil {
		t.Fatal(err)
	}
	g := grants[0]
	for i, id := range ids {
		if i == 1000 {
			continue
		}
		if g == nil {
			g = n.next()
		}
		if g.Task.ID != id {
			t.Fatalf("turn %d is that of another task", i)
		}
		n.done(g, mayfly.Succeeded)
		g = nil
		if i == 500 {
			n = n.crash(Options{})
			n.start()
			users, grants := n.users(3)
			if users != "123" {
				t.Fatalf("after the crash those of %q are granted", users)
			}
			g = grants[0]
			n.done(grants[1], mayfly.Succeeded)
			n.done(grants[2], mayfly.Succeeded)
		}
		if i == 1500 {
			n.submit(of("4"))
			first, second := n.next(), n.next()
			if first.Task.LimitKey != "1" || second.Task.LimitKey != "4" {
				t.Fatalf("granted those of %s and %s", first.Task.LimitKey, second.Task.LimitKey)
			}
			g = first
		}
	}
}

func TestLimitKeyOfPayloads(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, test := range []struct{ payload, field, want string }{
		{`{"user": {"id": 7}}`, "user.id", `7`},
		{` { "user" : "a\u0062" } `, "user", `"ab"`},
		{`{"user": "ab"}`, "user", `"ab"`},
		{`{"user": "7"}`, "user", `"7"`},
		{`{"user": true}`, "user", `true`},
		{`{"user": null}`, "user", ``},
		{`{"user": ""}`, "user", `""`},
		{`{"user": [1, 2]}`, "user", `[1,2]`},
		{`{"user": 1}`, "user.id", ``},
		{`{"user": 1}`, "User", ``},
		{`{"user": 1}`, "", ``},
		{`not json`, "user", ``},
		{``, "user", ``},
		{`[1]`, "user", ``},
	} {
		if got := limitKey([]byte(test.payload), test.field); got != test.want {
			t.Errorf("%s of %s is %q, want %q", test.field, test.payload, got, test.want)
		}
	}
	one, other := limitKey([]byte(`{"a": "`+long+`"}`), "a"), limitKey([]byte(`{"a": "`+long+`y"}`), "a")
	if one == other || one == "" || len(one) > maxLimitKey {
		t.Errorf("long values are %q and %q", one, other)
	}
}

func FuzzLimitKey(f *testing.F) {
	f.Add([]byte(`{"user": {"id": 7}}`), "user.id")
	f.Add([]byte(`{"user": "\ud800"}`), "user")
	f.Add([]byte(`{"": {"": [1]}}`), ".")
	f.Add([]byte(`nul`), "")
	f.Fuzz(func(t *testing.T, payload []byte, field string) {
		got := limitKey(payload, field)
		if len(got) > maxLimitKey {
			t.Fatalf("%d bytes", len(got))
		}
		if got != "" && !json.Valid(payload) {
			t.Fatalf("found %q in what is no JSON", got)
		}
	})
}

func TestSequencesAtTheFront(t *testing.T) {
	for _, test := range []struct{ have, gone, first []uint64 }{
		{nil, nil, []uint64{1, 2}},
		{[]uint64{5, 6, 7}, nil, []uint64{1, 2}},
		{[]uint64{1, 2, 5, 6, 7}, []uint64{1, 2}, []uint64{3, 4}},
		{[]uint64{1, 2, 5, 6, 7}, []uint64{1, 2}, []uint64{1, 2, 3, 4}},
		{[]uint64{3, 5}, nil, []uint64{1, 4, 5, 6}},
	} {
		var s sequences
		all := map[uint64]bool{}
		for _, seq := range test.have {
			s.insert(seq)
			all[seq] = true
		}
		for _, seq := range test.gone {
			s.remove(seq)
			delete(all, seq)
		}
		s.insertFirst(test.first)
		for _, seq := range test.first {
			all[seq] = true
		}
		last := uint64(0)
		for _, seq := range s.first(s.len()) {
			if !all[seq] || seq <= last {
				t.Errorf("%v: have %v", test, s.first(s.len()))
			}
			last = seq
		}
		if s.len() != len(all) {
			t.Errorf("%v: have %s", test, fmt.Sprint(s.first(s.len())))
		}
	}
}
