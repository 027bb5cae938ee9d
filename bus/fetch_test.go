package bus

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sequences of messages, for comparing.
func sequences(msgs []Message) []uint64 {
	list := []uint64{}
	for _, msg := range msgs {
		list = append(list, msg.Sequence)
	}
	return list
}

// Messages 1 to 20, of which 3, 5 to 14 and 20 were removed.
func openWithHoles(t *testing.T) *Bus {
	t.Helper()
	b := open(t, t.TempDir())
	t.Cleanup(func() { closeBus(t, b) })
	for i := 1; i <= 20; i++ {
		if _, err := b.JetStream().Publish(t.Context(), DeadSubject("default", "w", fmt.Sprint(i)), []byte(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := b.JetStream().Stream(t.Context(), ParkedStream)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 20; i++ {
		if i == 3 || i >= 5 && i < 15 || i == 20 {
			if err := stream.DeleteMsg(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b
}

// TestRemove: what is not there is no error.
func TestRemove(t *testing.T) {
	b := openWithHoles(t)
	stream, err := b.JetStream().Stream(t.Context(), ParkedStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{1, 2, 2, 5, 19, 20, 99} {
		if err := Remove(t.Context(), stream, seq); err != nil {
			t.Errorf("remove %d: %v", seq, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Remove(ctx, stream, 4); err == nil {
		t.Error("removed without an answer")
	}
}

func TestGet(t *testing.T) {
	b := openWithHoles(t)
	for _, test := range []struct{ ask, want []uint64 }{
		{[]uint64{}, []uint64{}},
		{[]uint64{1}, []uint64{1}},
		{[]uint64{3}, []uint64{}},
		{[]uint64{99}, []uint64{}},
		{[]uint64{2, 1, 19, 6, 3, 99}, []uint64{1, 2, 19}},
	} {
		msgs, err := b.Get(t.Context(), ParkedStream, test.ask)
		if err != nil || !slices.Equal(sequences(msgs), test.want) {
			t.Errorf("get %v: %v, %v; want %v", test.ask, sequences(msgs), err, test.want)
		}
		for _, msg := range msgs {
			if string(msg.Data) != fmt.Sprint(msg.Sequence) || msg.Subject != DeadSubject("default", "w", string(msg.Data)) {
				t.Errorf("message %d is %q of %s", msg.Sequence, msg.Data, msg.Subject)
			}
		}
	}
}

func TestScanFrom(t *testing.T) {
	b := openWithHoles(t)
	for _, test := range []struct {
		from uint64
		want []uint64
	}{
		{0, []uint64{1, 2, 4, 15, 16, 17, 18, 19}},
		{5, []uint64{15, 16, 17, 18, 19}},
		{20, []uint64{}},
		{99, []uint64{}},
	} {
		got := []uint64{}
		err := b.Scan(t.Context(), ParkedStream, "", test.from, func(list []Message) bool {
			for _, p := range list {
				got = append(got, p.Sequence)
				if p.Subject != DeadSubject("default", "w", fmt.Sprint(p.Sequence)) {
					t.Errorf("message %d is of %s", p.Sequence, p.Subject)
				}
			}
			return true
		})
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("scan from %d: %v, %v; want %v", test.from, got, err, test.want)
		}
	}
	stream, err := b.JetStream().Stream(t.Context(), ParkedStream)
	if err != nil || stream.CachedInfo().State.Consumers != 0 {
		t.Errorf("%d consumers are left, %v", stream.CachedInfo().State.Consumers, err)
	}
}

// What does not come at once comes in order, until enough was seen.
func TestScanFar(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	const count = walkBatch + 10
	for i := range count {
		if _, err := b.JetStream().PublishAsync(DeadSubject("default", "w", fmt.Sprint(i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	<-b.JetStream().PublishAsyncComplete()
	for _, enough := range []uint64{1, count} {
		var last uint64
		err := b.Scan(t.Context(), ParkedStream, "", 1, func(list []Message) bool {
			for _, p := range list {
				if last++; p.Sequence != last {
					t.Fatalf("%d instead of %d", p.Sequence, last)
				}
			}
			return last < enough
		})
		if err != nil || last < enough || enough == 1 && last == count {
			t.Errorf("up to %d of %d, %v", last, enough, err)
		}
	}
}

func TestLastOf(t *testing.T) {
	b := openWithHoles(t)
	var subjects []string
	for i := range MaxLast {
		subjects = append(subjects, DeadSubject("default", "w", fmt.Sprint(i)))
	}
	for _, test := range []struct {
		subjects []string
		want     []uint64
	}{
		{nil, []uint64{}},
		{subjects[3:4], []uint64{}},
		{subjects, []uint64{1, 2, 4, 15, 16, 17, 18, 19}},
	} {
		msgs, err := b.LastOf(t.Context(), ParkedStream, test.subjects)
		if got := slices.Sorted(slices.Values(sequences(msgs))); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("last of %d: %v, %v; want %v", len(test.subjects), got, err, test.want)
		}
	}
}

// What does not fit into one answer comes with the next.
func TestLastOfMuch(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	const count = 20
	big := bytes.Repeat([]byte("x"), MaxMessage/2)
	var subjects []string
	for i := range count {
		subjects = append(subjects, DeadSubject("default", "w", fmt.Sprint(i)))
		if _, err := b.JetStream().Publish(t.Context(), subjects[i], big); err != nil {
			t.Fatal(err)
		}
	}
	msgs, err := b.LastOf(t.Context(), ParkedStream, subjects)
	if err != nil || len(msgs) != count {
		t.Errorf("%d messages, %v", len(msgs), err)
	}
}

func TestScan(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	const count = walkBatch + 10
	for i := range 2 * count {
		msg := nats.NewMsg(DeadSubject([]string{"a", "b"}[i%2], "w", fmt.Sprint(i)))
		msg.Header.Set("X", "y")
		msg.Data = []byte("data")
		if _, err := b.JetStream().PublishMsgAsync(msg); err != nil {
			t.Fatal(err)
		}
	}
	<-b.JetStream().PublishAsyncComplete()
	for subject, want := range map[string]int{"": 2 * count, DeadSubject("a", "*", "*"): count, DeadSubject("c", "*", "*"): 0} {
		got, last := 0, uint64(0)
		err := b.Scan(t.Context(), ParkedStream, subject, 0, func(list []Message) bool {
			for _, msg := range list {
				if msg.Sequence <= last || msg.Header.Get("X") != "y" || len(msg.Data) > 0 {
					t.Errorf("after %d: %+v", last, msg)
				}
				got, last = got+1, msg.Sequence
			}
			return true
		})
		if err != nil || got != want {
			t.Errorf("%q: got %d messages, %v; want %d", subject, got, err, want)
		}
	}
	seen := 0
	err := b.Scan(t.Context(), ParkedStream, "", 5, func(list []Message) bool {
		seen++
		if list[0].Sequence != 5 {
			t.Errorf("begins at %d", list[0].Sequence)
		}
		return false
	})
	if err != nil || seen != 1 {
		t.Errorf("called %d times, %v", seen, err)
	}
}
