package bus

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// late is a server that is slow to answer.
type late struct{ by time.Duration }

func (s late) InProcessConn() (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		time.Sleep(s.by)
		fmt.Fprint(server, "INFO {\"server_id\":\"late\",\"max_payload\":1048576}\r\n")
		for lines := bufio.NewScanner(server); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "PING") {
				fmt.Fprint(server, "PONG\r\n")
			}
		}
	}()
	return client, nil
}

// A machine that is so busy that the server stands still for a while is no reason not
// to start.
func TestDialIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, err := dial(late{openTimeout - time.Second}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
}
