package wire

import "encoding/binary"

// A log segment is a file: SegmentHeadLen bytes of head, then records, each
// ChunkLen bytes as PutChunk writes them and the data. A record of stream 0 is
// not output but an 8-byte count of the bytes that the disk did not take.

// SegmentHeadLen is the length of a log segment's head in bytes.
const SegmentHeadLen = 16

const segmentMagic = 0x6d6179666c6f6731 // "mayflog1"

// PutSegmentHead writes the head of segment number n into b.
func PutSegmentHead(b []byte, n uint64) {
	binary.BigEndian.PutUint64(b, segmentMagic)
	binary.BigEndian.PutUint64(b[8:], n)
}

// SegmentNumber reads the head of a log segment. It reports false when b is
// not one.
func SegmentNumber(b []byte) (uint64, bool) {
	if len(b) < SegmentHeadLen || binary.BigEndian.Uint64(b) != segmentMagic {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), true
}
