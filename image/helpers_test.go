package image_test

import (
	"bytes"
	"compress/gzip"
	"runtime"
	"strconv"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

const goarch = runtime.GOARCH

func digestOf(data []byte) string { return digest.FromBytes(data).String() }

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// sparseTar makes a tar of one entry that says it is a sparse file, which
// archive/tar reads but does not write.
func sparseTar(t testing.TB, e entry) []byte {
	t.Helper()
	records := ""
	for k, v := range e.pax {
		records += paxRecord(k, v)
	}
	data := makeTar(t, entry{name: "GNUSparseFile.0/s", body: e.body})
	var buf bytes.Buffer
	head := makeTar(t, entry{name: "PaxHeaders.0/s", body: records})
	head[156] = 'x'
	fixChecksum(head[:512])
	buf.Write(head[:512+(len(records)+511)/512*512])
	buf.Write(data)
	return buf.Bytes()
}

func paxRecord(k, v string) string {
	n := len(k) + len(v) + 3
	for size := n + 1; ; size++ {
		s := strconv.Itoa(size) + " " + k + "=" + v + "\n"
		if len(s) == size {
			return s
		}
	}
}

func fixChecksum(block []byte) {
	for i := 148; i < 156; i++ {
		block[i] = ' '
	}
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	for i := range 6 {
		block[148+i] = '0' + byte(sum>>(3*(5-i))&7)
	}
	block[154], block[155] = 0, ' '
}
