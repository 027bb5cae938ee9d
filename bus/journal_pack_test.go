package bus

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

func packed() []*Write {
	return []*Write{
		{record: Record{Key: "a.1", Label: "w.0", Head: []byte("head"), Data: []byte("data")}},
		{record: Record{Key: "a.2"}},
		{record: Record{Key: "a.3", Label: "w.9", Data: []byte{0, 255, ',', ' '}}, again: true, over: place(5, 7)},
	}
}

func TestUnpack(t *testing.T) {
	writes := packed()
	msg := pack("s", "id", writes)
	list, err := unpack(Message{Sequence: 9, Header: msg.Header, Data: msg.Data})
	if err != nil || len(list) != len(writes) {
		t.Fatalf("%v, %v", list, err)
	}
	for i, got := range list {
		want := writes[i].record
		pos := place(9, i)
		if writes[i].again {
			pos = writes[i].over
		}
		if got.Key != want.Key || got.Label != want.Label || got.Position != pos || !bytes.Equal(got.Head, want.Head) || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%+v became %+v", want, got)
		}
	}
	bare, err := unpack(Message{Sequence: 9, Header: msg.Header})
	if err != nil || len(bare) != len(list) || bare[2].Position != list[2].Position || bare[0].Head != nil {
		t.Errorf("without data: %+v, %v", bare, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	for name, dir := range map[string]string{
		"nothing":                           "",
		"an id only":                        "id",
		"too few fields":                    "id,key label 1",
		"too many fields":                   "id,key label 4 0 5 6",
		"no number":                         "id,key label four 0",
		"a negative length":                 "id,key label -1 5",
		"more than there is":                "id,key label 4 1",
		"less than there is":                "id,key label 1 2",
		"lengths whose sum is no number":    "id,key label 9223372036854775807 9223372036854775807",
		"a position of something newer":     "id,key label 4 0 2560",
		"no position":                       "id,key label 4 0 0",
		"a position that is no number":      "id,key label 4 0 -5",
		"more records than a message takes": "id,key label 4 0" + strings.Repeat(",key label 0 0", 256),
	} {
		msg := Message{Sequence: 9, Header: nats.Header{journalHeader: {dir}}, Data: []byte("data")}
		if list, err := unpack(msg); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	msg := pack("s", "id", packed())
	f.Add(msg.Header.Get(journalHeader), msg.Data, uint64(9))
	f.Add("id,a.1 w.0 0 0", []byte(nil), uint64(1))
	f.Add("id,a.1 w.0 4 0 256,b w 0 0 257", []byte("data"), uint64(2))
	f.Fuzz(func(t *testing.T, dir string, data []byte, seq uint64) {
		list, err := unpack(Message{Sequence: seq, Header: nats.Header{journalHeader: {dir}}, Data: data})
		if err != nil {
			return
		}
		rest := data
		for _, r := range list {
			head, ok1 := bytes.CutPrefix(rest, r.Head)
			tail, ok2 := bytes.CutPrefix(head, r.Data)
			if !ok1 || !ok2 || data != nil && (cap(r.Head) > len(r.Head) || cap(r.Data) > len(r.Data)) {
				t.Fatalf("%+v is not what comes next in %q", r, rest)
			}
			rest = tail
		}
		if len(rest) > 0 {
			t.Fatalf("%q is left", rest)
		}
	})
}
