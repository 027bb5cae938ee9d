package wire

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

type body interface{ Append([]byte) []byte }

func TestBodiesComeBackAsTheyWere(t *testing.T) {
	tests := []struct {
		in     body
		decode func([]byte) (body, error)
	}{
		{Greeting{Version: 3, Main: 7, LogMax: 1 << 20, Running: []Running{{Number: 8}, {Number: 9, Label: MaxLabel}}}, func(b []byte) (body, error) { var v Greeting; err := v.Decode(b); return v, err }},
		{Failure{Errno: 2, Text: "no"}, func(b []byte) (body, error) { var v Failure; err := v.Decode(b); return v, err }},
		{Status{Process: 1, Label: MaxLabel, Wait: 0x0700, Time: -5}, func(b []byte) (body, error) { var v Status; err := v.Decode(b); return v, err }},
	}
	for _, tt := range tests {
		b := tt.in.Append(nil)
		got, err := tt.decode(b)
		if err != nil || !reflect.DeepEqual(got, tt.in) {
			t.Errorf("%#v came back as %#v, %v", tt.in, got, err)
		}
		if _, err := tt.decode(b[:len(b)-1]); err != ErrMalformed {
			t.Errorf("%T cut short: %v", tt.in, err)
		}
	}
}

func TestGreetingOfANewerVersionIsUnderstood(t *testing.T) {
	var g Greeting
	b := append(Greeting{Version: 9}.Append(nil), "what is not known yet"...)
	if err := g.Decode(b); err != nil || g.Version != 9 {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestGreetingOfVersionOneSaysNothingOfPrograms(t *testing.T) {
	var g Greeting
	b := Greeting{Version: 1, Main: 4}.Append(nil)
	if err := g.Decode(b[:10]); err != nil || g.Main != 4 || g.Running != nil {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestGreetingThatPromisesTooMuch(t *testing.T) {
	var g Greeting
	b := Greeting{Version: 2}.Append(nil)
	b[10] = 0xff
	if err := g.Decode(b); err != ErrMalformed {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestChunkHasALabel(t *testing.T) {
	for _, want := range []Chunk{{Stream: 1}, {Stream: 2, Label: 1}, {Stream: 1, Label: MaxLabel, Time: 9, Data: []byte("x")}} {
		b := make([]byte, ChunkLen, ChunkLen+len(want.Data))
		PutChunk(b, want.Stream, want.Label, want.Time, len(want.Data))
		var got Chunk
		err := got.Decode(append(b, want.Data...))
		if err != nil || got.Stream != want.Stream || got.Label != want.Label || got.Time != want.Time || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	}
}

func TestHeaderRefusesWhatIsTooLongOrTooShort(t *testing.T) {
	var b [HeaderLen]byte
	for _, n := range []int{-5, -1, MaxFrame} {
		PutHeader(b[:], Start, 1, n)
		if _, _, _, ok := Header(b[:]); ok {
			t.Errorf("a body of %d bytes", n)
		}
	}
}

func TestSegmentHead(t *testing.T) {
	var b [SegmentHeadLen]byte
	PutSegmentHead(b[:], 42)
	if n, ok := SegmentNumber(b[:]); n != 42 || !ok {
		t.Errorf("got %d, %v", n, ok)
	}
	if _, ok := SegmentNumber([]byte(strings.Repeat("x", SegmentHeadLen))); ok {
		t.Error("anything is taken for a segment")
	}
}

// FuzzDecode: no body makes a decoder panic or take more memory than the body
// is long.
func FuzzDecode(f *testing.F) {
	f.Add(byte(Hello), Greeting{Version: 1}.Append(nil))
	f.Add(byte(Output), append(make([]byte, 9), 0, 0, 0, 2, 'h', 'i'))
	f.Add(byte(Error), Failure{Errno: 2, Text: "x"}.Append(nil))
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		switch Type(kind) {
		case Output:
			var c Chunk
			if c.Decode(b) == nil && !bytes.Contains(b, c.Data) {
				t.Fatal("data that was not in the body")
			}
		case Error:
			new(Failure).Decode(b)
		case Exited:
			new(Status).Decode(b)
		default:
			new(Greeting).Decode(b)
		}
	})
}
