package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The streams of an attach connection. Each frame is one byte of these, four
// bytes of length (big endian), and that many bytes.
const (
	FrameStdin  = 0 // to the program; an empty frame ends its input
	FrameStdout = 1
	FrameStderr = 2
	FrameExit   = 3 // the ended mayfly.Instance, or of an exec the mayfly.Exit, as JSON; the last frame
	FrameError  = 4 // a Problem as JSON; the last frame
)

// MaxFrame is the most bytes that one frame carries.
const MaxFrame = 1 << 16

const frameHeader = 5

// FrameWriter writes frames, each with one call to Write. It is not safe for
// concurrent use.
type FrameWriter struct {
	w   io.Writer
	buf [frameHeader + MaxFrame]byte
}

// NewFrameWriter returns a FrameWriter to w.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{w: w} }

// WriteFrame writes p as one frame, or as several when it is longer than one
// may be. An empty p is a frame as well.
func (f *FrameWriter) WriteFrame(stream byte, p []byte) error {
	for {
		n := copy(f.buf[frameHeader:], p)
		f.buf[0] = stream
		binary.BigEndian.PutUint32(f.buf[1:], uint32(n))
		if _, err := f.w.Write(f.buf[:frameHeader+n]); err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// FrameReader reads what a FrameWriter wrote. It takes at most MaxFrame bytes
// of memory whatever it is sent.
type FrameReader struct {
	r   io.Reader
	buf []byte
}

// NewFrameReader returns a FrameReader from r.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// ReadFrame returns the next frame. The bytes are valid until the next call.
// The error is io.EOF when the connection ended between two frames.
func (f *FrameReader) ReadFrame() (stream byte, p []byte, err error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(f.r, header[:]); err != nil {
		return 0, nil, err // io.EOF, or io.ErrUnexpectedEOF within a header
	}
	n := binary.BigEndian.Uint32(header[1:])
	if header[0] > FrameError {
		return 0, nil, fmt.Errorf("read frame: unknown stream %d", header[0])
	}
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("read frame: %d bytes, more than %d", n, MaxFrame)
	}
	if f.buf == nil {
		f.buf = make([]byte, MaxFrame)
	}
	if _, err := io.ReadFull(f.r, f.buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return header[0], f.buf[:n], nil
}
