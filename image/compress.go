package image

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/mayfly-run/mayfly"
)

// maxWindow bounds the memory that a zstd frame may ask for. It is what the
// zstd program itself accepts without --long.
const maxWindow = 128 << 20

// decompress returns the plain bytes of r, which is gzip, zstd or neither, and
// whether it was compressed. Formats that cannot be a layer are refused by name.
func decompress(r io.Reader) (plain io.ReadCloser, compressed bool, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, false, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, false, mayfly.Errorf(mayfly.Invalid, "read gzip: %w", err)
		}
		return zr, true, nil
	case isZstd(head):
		zr, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, false, mayfly.Errorf(mayfly.Invalid, "read zstd: %w", err)
		}
		return zr.IOReadCloser(), true, nil
	}
	for magic, hint := range map[string]string{
		"\xfd7zXZ\x00": "it is xz: unpack it with `xz -d` first",
		"BZh":          "it is bzip2: unpack it with `bzip2 -d` first",
		"PK\x03\x04":   "it is a zip archive: unpack it and import the directory",
		"\x7fELF":      "it is a program: put it into a tar or a directory",
		"QFI\xfb":      "it is a disk image of a virtual machine",
		"hsqs":         "it is a squashfs: unpack it with `unsquashfs` and import the directory",
	} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return nil, false, notAnImage().WithHint("%s", hint)
		}
	}
	return io.NopCloser(br), false, nil
}

// isZstd tells a zstd frame, or a skippable frame that may stand before one.
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// newZstdWriter compresses our own layers. One goroutine, so that the same
// input always gives the same bytes, and with them the same digest.
func newZstdWriter(w io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(true))
}

func notAnImage() *mayfly.Error {
	return mayfly.Errorf(mayfly.Invalid, "not an image").
		WithHint("an image is an OCI layout, a docker-archive or a root file system, as a tar (plain, gzip or zstd) or a directory")
}

// limitReader fails with TooLarge after n bytes, where io.LimitReader would
// end as if all were well.
type limitReader struct {
	r    io.Reader
	n    int64
	what string
	max  int64
}

func newLimitReader(r io.Reader, limit int64, what string) *limitReader {
	return &limitReader{r: r, n: limit, what: what, max: limit}
}

func (l *limitReader) Read(p []byte) (int, error) {
	if l.n < 0 {
		return 0, mayfly.Errorf(mayfly.TooLarge, "%s is larger than %d bytes", l.what, l.max)
	}
	if int64(len(p)) > l.n+1 {
		p = p[:l.n+1]
	}
	n, err := l.r.Read(p)
	l.n -= int64(n)
	if l.n < 0 {
		return n - 1, mayfly.Errorf(mayfly.TooLarge, "%s is larger than %d bytes", l.what, l.max)
	}
	return n, err
}
