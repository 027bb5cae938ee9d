package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	const count = 25
	for i := range count {
		if _, err := b.JetStream().Publish(t.Context(), RunSubject("default", fmt.Sprintf("w%d", i%2)), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		from From
		want int  // messages
		more bool // that follow
	}{
		{"all", From{Subject: ">", Limit: 100}, count, false},
		{"exactly all", From{Subject: ">", Limit: count}, count, false},
		{"some", From{Subject: ">", Limit: 10}, 10, true},
		{"one subject", From{Subject: RunSubject("default", "w0"), Limit: 100}, 13, false},
		{"a wildcard", From{Subject: RunSubject("default", "*"), Limit: 20}, 20, true},
		{"from a sequence", From{Subject: ">", Sequence: 20, Limit: 100}, 6, false},
		{"after the end", From{Subject: ">", Sequence: 26, Limit: 100}, 0, false},
		{"no such subject", From{Subject: RunSubject("default", "none"), Limit: 100}, 0, false},
		{"from a time", From{Subject: ">", Time: time.Now().Add(-time.Hour), Limit: 100}, count, false},
		{"from the future", From{Subject: ">", Time: time.Now().Add(time.Hour), Limit: 100}, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			msgs, more, err := b.Read(t.Context(), RunsStream, test.from)
			if err != nil || len(msgs) != test.want || more != test.more {
				t.Fatalf("%d messages, more %v, %v; want %d, %v", len(msgs), more, err, test.want, test.more)
			}
			for i := 1; i < len(msgs); i++ {
				if msgs[i].Sequence <= msgs[i-1].Sequence {
					t.Fatalf("%d follows %d", msgs[i].Sequence, msgs[i-1].Sequence)
				}
			}
		})
	}
	last, err := b.Last(t.Context(), RunsStream, RunSubject("default", "*"))
	if err != nil || last.Sequence != count || string(last.Data) != "24" || last.Subject != RunSubject("default", "w0") {
		t.Errorf("last: %+v, %v", last, err)
	}
	if _, err := b.Last(t.Context(), RunsStream, RunSubject("nobody", "*")); !errors.Is(err, ErrNoMessage) {
		t.Errorf("last of nothing: %v", err)
	}
}

// What does not fit into one read comes with the next.
func TestReadIsBounded(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	const count = 20
	big := bytes.Repeat([]byte("x"), MaxMessage/2)
	for i := range count {
		if _, err := b.JetStream().Publish(t.Context(), ReleaseSubject(ReleaseKey("default", "a", i)), big); err != nil {
			t.Fatal(err)
		}
	}
	got, from := 0, From{Subject: ReleaseSubject(">"), Limit: 1000}
	for more := true; more; {
		var msgs []Message
		var err error
		if msgs, more, err = b.Read(t.Context(), ReleasesStream, from); err != nil {
			t.Fatal(err)
		}
		if len(msgs)*len(big) > readMaxBytes+len(big) {
			t.Fatalf("%d messages of %d bytes at once", len(msgs), len(big))
		}
		got += len(msgs)
		from.Sequence = msgs[len(msgs)-1].Sequence + 1
	}
	if got != count {
		t.Fatalf("%d of %d messages", got, count)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.Read(ctx, "no-such-stream", From{Subject: ">", Limit: 2}); err == nil {
		t.Error("read a stream that is not there")
	}
	if _, err := b.Last(ctx, "no-such-stream", ">"); err == nil {
		t.Error("read a stream that is not there")
	}
}

// An Open that was cut short before the list was synced, or one by a Mayfly
// with another list, is made good by the next, and no data is lost.
func TestListIsMadeGood(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(path string) error
	}{
		{"not synced yet", os.Remove},
		{"another list", func(path string) error { return os.WriteFile(path, []byte("other\n"), 0o600) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			if _, err := b.State().Put(t.Context(), WorkloadKey("default", "a"), []byte("1")); err != nil {
				t.Fatal(err)
			}
			closeBus(t, b)
			path := filepath.Join(dir, listFile)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := test.spoil(path); err != nil {
				t.Fatal(err)
			}
			b = open(t, dir)
			defer closeBus(t, b)
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("fingerprint is %q, %v; want %q", after, err, before)
			}
			if got, err := b.State().Get(t.Context(), WorkloadKey("default", "a")); err != nil || string(got.Value()) != "1" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestNext(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	for _, id := range []string{"a", "b", "c"} {
		for _, workload := range []string{"w", "v"} {
			if _, err := b.JetStream().Publish(t.Context(), DeadSubject("default", workload, id), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for from, want := range []uint64{1, 1, 3, 3, 5, 5} {
		msg, err := b.Next(t.Context(), ParkedStream, DeadSubject("default", "w", "*"), uint64(from))
		if err != nil || msg.Sequence != want {
			t.Errorf("from %d: %d, %v; want %d", from, msg.Sequence, err, want)
		}
	}
	if _, err := b.Next(t.Context(), ParkedStream, DeadSubject("default", "w", "*"), 6); !errors.Is(err, ErrNoMessage) {
		t.Errorf("after the last: %v", err)
	}
}
