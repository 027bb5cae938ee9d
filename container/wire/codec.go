package wire

import "encoding/binary"

// Bodies are fixed-width big-endian integers, and strings and lists with a
// 4-byte length in front.

func (g Greeting) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, g.Version)
	b = binary.BigEndian.AppendUint32(b, g.Main)
	b = binary.BigEndian.AppendUint32(b, g.LogMax)
	b = binary.BigEndian.AppendUint32(b, uint32(len(g.Running)))
	for _, r := range g.Running {
		b = append(binary.BigEndian.AppendUint32(b, r.Number), r.Label)
	}
	return b
}

// RunningLen is the length in bytes of an encoded Running.
const RunningLen = 5

// Decode reads the body of a Hello. Bytes after those known are of a newer
// version and are passed over.
func (g *Greeting) Decode(b []byte) error {
	d := decoder{b: b}
	g.Version, g.Main, g.LogMax = d.uint16(), d.uint32(), d.uint32()
	if g.Version < 2 || d.err != nil {
		return d.err
	}
	n := d.uint32()
	if uint64(n)*RunningLen > uint64(len(d.b)) {
		return ErrMalformed
	}
	for range n {
		g.Running = append(g.Running, Running{Number: d.uint32(), Label: d.byte()})
	}
	return d.err
}

func (p Program) Append(b []byte) []byte {
	b = appendList(b, p.Argv)
	b = appendList(b, p.Env)
	b = appendString(b, p.Dir)
	b = append(b, byte(p.Stdin), byte(p.Stdout), byte(p.Stderr), p.Label)
	if p.As == nil {
		return b
	}
	b = append(b, 1)
	for _, n := range append([]uint32{p.As.UID, p.As.GID, uint32(len(p.As.Groups))}, p.As.Groups...) {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func (k Kill) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, k.Process)
	return append(b, k.Signal, flag(k.Group))
}

func (g Dialing) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, g.Port)
	return binary.BigEndian.AppendUint32(b, g.Timeout)
}

func (f Failure) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, f.Errno)
	return appendString(b, f.Text)
}

// Decode reads the body of an Error.
func (f *Failure) Decode(b []byte) error {
	d := decoder{b: b}
	f.Errno, f.Text = d.uint32(), d.string()
	return d.err
}

// StatusLen is the length in bytes of an encoded Status, which is also a
// record of the file of statuses.
const StatusLen = 16

func (s Status) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, s.Process)
	b = binary.BigEndian.AppendUint32(b, uint32(s.Label)<<16|s.Wait&0xffff)
	return binary.BigEndian.AppendUint64(b, uint64(s.Time))
}

// Decode reads the body of an Exited.
func (s *Status) Decode(b []byte) error {
	d := decoder{b: b}
	process, wait, time := d.uint32(), d.uint32(), int64(d.uint64())
	s.Process, s.Label, s.Wait, s.Time = process, uint8(wait>>16), wait&0xffff, time
	return d.err
}

// ChunkLen is the length in bytes of what stands before a Chunk's data, on the
// wire and in the log.
const ChunkLen = 13

// PutChunk writes what stands before n bytes of a Chunk's data into b.
func PutChunk(b []byte, stream, label byte, time int64, n int) {
	binary.BigEndian.PutUint64(b, uint64(time))
	b[8] = stream | label<<streamBits
	binary.BigEndian.PutUint32(b[9:], uint32(n))
}

// streamBits are for the stream of a chunk; those above are its label.
const streamBits = 2

// Decode reads the body of an Output. Data aliases b.
func (c *Chunk) Decode(b []byte) error {
	d := decoder{b: b}
	time, stream := int64(d.uint64()), d.byte()
	c.Time, c.Stream, c.Label = time, stream&(1<<streamBits-1), stream>>streamBits
	c.Data = d.bytes()
	return d.err
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func appendList(b []byte, l []string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(l)))
	for _, s := range l {
		b = appendString(b, s)
	}
	return b
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// decoder reads a body from the front. After the first error it gives zeroes.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b) {
		d.err = ErrMalformed
		return make([]byte, min(max(n, 0), 8))
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte     { return d.take(1)[0] }
func (d *decoder) uint16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }
func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *decoder) bytes() []byte {
	n := d.uint32()
	if d.err != nil || n > uint32(len(d.b)) {
		d.err = ErrMalformed
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) string() string { return string(d.bytes()) }
