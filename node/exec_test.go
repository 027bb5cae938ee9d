package node

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// lateClient takes the first piece so late that the time for what holds the pipe
// is over, and something goes on writing to it.
type lateClient struct {
	got         []byte
	pipe, other *os.File
}

func (c *lateClient) Write(p []byte) (int, error) {
	if c.got == nil {
		if err := c.pipe.SetReadDeadline(time.Unix(1, 0)); err != nil {
			return 0, err
		}
	}
	if _, err := c.other.Write([]byte("on and on")); err != nil {
		return 0, err
	}
	c.got = append(c.got, p...)
	return len(p), nil
}

// What a program wrote before it ended reaches a client that is slow, and one that
// it left behind holds up nobody.
func TestASlowClientMissesNothing(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	text := bytes.Repeat([]byte("x"), 60_000) // more than is copied at once, and less than a pipe holds
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	to := &lateClient{pipe: r, other: w}
	passOn(to, r)
	if !bytes.HasPrefix(to.got, text) {
		t.Errorf("%d of %d bytes", len(to.got), len(text))
	}
}
