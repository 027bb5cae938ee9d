package explain

import (
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

func TestEvent(t *testing.T) {
	a := mayfly.AcceptedEvent{Space: "default", Number: 7, Key: "thekey", Accepted: ago(3 * time.Second), Event: mayfly.Event{
		ID: "e 1", Type: "photo.uploaded", Source: "/photos", Subject: "cat.jpg", Extensions: map[string]string{mayfly.HopsAttribute: "3"},
	}}
	again := a
	again.Event.ID, again.Replay = "e1", &mayfly.Replayed{ID: "r", Of: 7}
	thumb := mayfly.EventMapping{ID: "m1", Workload: "thumb", Type: "photo.*", OrderBy: "subject"}
	hook := mayfly.EventMapping{ID: "m2", URL: "https://example.org", Type: "*"}
	first := "It is an event of the type photo.uploaded from /photos, about cat.jpg, accepted 3 s ago as number 7; 2 deliveries led to it."
	failed := []mayfly.Attempt{{Number: 2, Exit: &mayfly.Exit{Code: 1, Reason: mayfly.ExitedNonZero}}}
	buried := mayfly.Task{ID: "t", Workload: "thumb", Release: 4, State: mayfly.TaskBuried, Attempt: 2, Attempts: failed, Ended: ago(time.Second)}
	queued := mayfly.Task{ID: "t", Workload: "thumb", Release: 4, State: mayfly.TaskQueued, Accepted: ago(2 * time.Second)}
	retried := queued
	retried.NotBefore, retried.Attempts = now.Add(8*time.Second), failed[:1]
	done := mayfly.Task{ID: "t2", Workload: "thumb", Release: 5, State: mayfly.TaskSucceeded, Attempt: 1, Ended: ago(time.Second)}
	of := func(d mayfly.EventDelivery) mayfly.EventStory {
		return mayfly.EventStory{Event: a, Given: true, Deliveries: []mayfly.EventDelivery{d}}
	}
	replayed := of(mayfly.EventDelivery{Mapping: thumb, Task: &buried})
	replayed.Replays = []mayfly.EventStory{{Event: again, Given: true, Deliveries: []mayfly.EventDelivery{{Mapping: thumb, Task: &done}}}}
	for name, tt := range map[string]struct {
		s     mayfly.EventStory
		state string
		why   []string
		help  []string
	}{
		"not given": {mayfly.EventStory{Event: a}, "waiting", []string{"Its turn has not come: it waits until those before it have become tasks."}, nil},
		"wanted by nobody": {mayfly.EventStory{Event: a, Given: true, Others: []mayfly.EventRefusal{
			{Mapping: hook, Type: true, Why: "x"}, {Mapping: thumb, Why: "it is newer than the event"},
		}}, "unwanted",
			[]string{"No mapping wants it, so nobody got it.", "Not to thumb (by photo.*, mapping m1): it is newer than the event.", "Of other types only: * to https://example.org."},
			[]string{"map its type, then have it delivered: mayfly map-event NAME photo.uploaded; mayfly event replay --id thekey"}},
		"buried": {of(mayfly.EventDelivery{Mapping: thumb, Task: &buried}), "failed",
			[]string{"To thumb (by photo.*, mapping m1): task t, release 4, was buried 1 s ago after 2 attempts: it is in the dead letters; attempt 2 failed with exit code 1."},
			[]string{"run it again, by the same release: mayfly task retry t", "deliver it anew, to what is there then: mayfly event replay --id thekey --map m1", "see what it wrote: mayfly task logs t"}},
		"replayed after that": {replayed, "delivered",
			[]string{"To thumb (by photo.*, mapping m1): task t, release 4, was buried 1 s ago after 2 attempts: it is in the dead letters; attempt 2 failed with exit code 1.",
				"It was accepted again 3 s ago, for replay r.", "In that replay: To thumb (by photo.*, mapping m1): task t2, release 5, succeeded 1 s ago, after 1 attempt."},
			[]string{"run it again, by the same release: mayfly task retry t", "deliver it anew, to what is there then: mayfly event replay --id thekey --map m1", "see what it wrote: mayfly task logs t"}},
		"paused": {of(mayfly.EventDelivery{Mapping: thumb, Task: &queued, Wait: mayfly.TaskWait{Paused: true}}), "waiting",
			[]string{"To thumb (by photo.*, mapping m1): task t, release 4, is queued: it was accepted 2 s ago and waits because the tasks of thumb are paused."},
			[]string{"let them run: mayfly task resume thumb"}},
		"concurrency": {of(mayfly.EventDelivery{Mapping: thumb, Task: &queued, Wait: mayfly.TaskWait{Running: 3, Most: 3}}), "waiting",
			[]string{"To thumb (by photo.*, mapping m1): task t, release 4, is queued: it was accepted 2 s ago and waits because as many tasks of thumb run as may at once: 3."}, nil},
		"backoff": {of(mayfly.EventDelivery{Mapping: thumb, Task: &retried}), "waiting",
			[]string{"To thumb (by photo.*, mapping m1): task t, release 4, is queued: attempt 1 failed; the next one begins in 8 s; attempt 2 failed with exit code 1."}, nil},
		"order": {of(mayfly.EventDelivery{Mapping: thumb, Behind: &mayfly.EventBehind{Key: "cat.jpg", First: mayfly.AcceptedEvent{Number: 5, Event: mayfly.Event{ID: "e0"}}, Task: "t0"}}), "waiting",
			[]string{`To thumb (by photo.*, mapping m1): it waits for event e0 (number 5), which has the same subject, "cat.jpg", and goes first, as task t0.`},
			[]string{"why that one takes so long: mayfly why t0"}},
		"a call that failed": {of(mayfly.EventDelivery{Mapping: hook, Call: &mayfly.EventCall{State: "waiting", Tries: 2, Error: "it answered 503 Service Unavailable", Due: now.Add(time.Minute)}}), "waiting",
			[]string{"To https://example.org (by *, mapping m2): it was tried twice, and the last call failed: it answered 503 Service Unavailable; the next is in 60 s."}, nil},
		"one that was given up": {of(mayfly.EventDelivery{Mapping: hook, Call: &mayfly.EventCall{State: "given up", Tries: 1, Error: "it answered 410 Gone", Ended: ago(time.Second)}}), "failed",
			[]string{"To https://example.org (by *, mapping m2): it was given up 1 s ago after 1 call: it answered 410 Gone."},
			[]string{"deliver it anew, to what is there then: mayfly event replay --id thekey --map m2"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := Event(tt.s, now)
			same(t, "why", x.Why, append([]string{first}, tt.why...))
			same(t, "help", x.Help, tt.help)
			if x.State != tt.state {
				t.Errorf("it is %s, not %s", x.State, tt.state)
			}
		})
	}
}
