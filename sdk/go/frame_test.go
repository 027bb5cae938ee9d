package client

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFramesComeOutAsTheyWentIn(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), 20_000)
	var wire bytes.Buffer
	w := NewFrameWriter(&wire)
	for _, f := range []struct {
		stream byte
		p      []byte
	}{{FrameStdout, []byte("a")}, {FrameStdin, nil}, {FrameStderr, long}, {FrameExit, []byte("{}")}} {
		if err := w.WriteFrame(f.stream, f.p); err != nil {
			t.Fatal(err)
		}
	}
	got := map[byte][]byte{}
	var order []byte
	r := NewFrameReader(&wire)
	for {
		stream, p, err := r.ReadFrame()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(p) > MaxFrame {
			t.Errorf("a frame of %d bytes", len(p))
		}
		order = append(order, stream)
		got[stream] = append(got[stream], p...)
	}
	if !bytes.Equal(got[FrameStderr], long) || string(got[FrameStdout]) != "a" || len(got[FrameStdin]) != 0 || string(got[FrameExit]) != "{}" {
		t.Errorf("got %d bytes of stderr, %q", len(got[FrameStderr]), got[FrameStdout])
	}
	if want := []byte{FrameStdout, FrameStdin, FrameStderr, FrameStderr, FrameStderr, FrameStderr, FrameExit}; !bytes.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}

func TestBadFrames(t *testing.T) {
	cases := []struct {
		name string
		wire string
		want error // nil: any but an end
	}{
		{"nothing", "", io.EOF},
		{"half a header", "\x01\x00", io.ErrUnexpectedEOF},
		{"half a frame", "\x01\x00\x00\x00\x05abc", io.ErrUnexpectedEOF},
		{"no frame", "\x01\x00\x00\x00\x05", io.ErrUnexpectedEOF},
		{"an unknown stream", "\x05\x00\x00\x00\x00", nil},
		{"too long", "\x01\x00\x01\x00\x01", nil},
		{"much too long", "\x01\xff\xff\xff\xff", nil},
	}
	for _, c := range cases {
		_, _, err := NewFrameReader(bytes.NewReader([]byte(c.wire))).ReadFrame()
		if err == nil || c.want != nil && !errors.Is(err, c.want) || c.want == nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

// Whatever is sent, reading it ends, and what was read writes back to the same
// bytes.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{"", "\x00\x00\x00\x00\x00", "\x01\x00\x00\x00\x02ab\x03\x00\x00\x00\x02{}", "\x05\x00\x00\x00\x00", "\x01\xff\xff\xff\xff", "\x01\x00\x00\x00\x05abc"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := NewFrameReader(bytes.NewReader(wire))
		var back bytes.Buffer
		w := NewFrameWriter(&back)
		for {
			stream, p, err := r.ReadFrame()
			if err != nil {
				break
			}
			if err := w.WriteFrame(stream, p); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(wire, back.Bytes()) {
			t.Errorf("read %q, wrote %q", wire, back.Bytes())
		}
	})
}
