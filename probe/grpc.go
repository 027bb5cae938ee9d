package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/mayfly-run/mayfly"
)

const grpcPath = "/grpc.health.v1.Health/Check"

// The fields of grpc.health.v1 that are spoken: both messages have one.
const (
	requestService = 1<<3 | 2 // string service = 1
	responseStatus = 1 << 3   // ServingStatus status = 1
)

const serving = 1

// askGRPC speaks just as much gRPC as a health check needs: one message there
// and one back, over HTTP/2 without TLS. A library would add 4 MB to the program.
func (t Target) askGRPC(ctx context.Context, p *mayfly.GRPCProbe) error {
	conn, release, err := t.dial(ctx, p.Port)
	if err != nil {
		return err
	}
	defer release()
	used := false
	tr := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if used {
				return nil, errors.New("closed without an answer")
			}
			used = true
			return conn, nil
		},
		Protocols:              new(http.Protocols),
		MaxResponseHeaderBytes: maxHead,
		DisableCompression:     true,
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()

	host := t.Host
	if host == "" {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+grpcPath, bytes.NewReader(grpcFrame(p.Service)))
	if err != nil {
		return err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {userAgent}}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	return grpcAnswer(resp, body)
}

// grpcFrame is a HealthCheckRequest as gRPC sends it: not compressed, its length,
// the message.
func grpcFrame(service string) []byte {
	var message []byte
	if service != "" {
		message = append(message, requestService)
		message = binary.AppendUvarint(message, uint64(len(service)))
		message = append(message, service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// grpcAnswer returns nil if the answer is SERVING.
func grpcAnswer(resp *http.Response, body []byte) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %s, not an answer of gRPC", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	status, message := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a message has only headers
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	switch code, err := strconv.Atoi(status); {
	case err != nil:
		return errors.New("not an answer of gRPC")
	case code == 12:
		return errors.New("the server has no health service (grpc.health.v1)")
	case code != 0:
		return fmt.Errorf("status %d %s", code, line(message, maxPart))
	}
	state, err := servingStatus(body)
	switch {
	case err != nil:
		return err
	case state == serving:
		return nil
	case state == 2:
		return errors.New("NOT_SERVING")
	case state == 3:
		return errors.New("SERVICE_UNKNOWN")
	}
	return errors.New("UNKNOWN")
}

// servingStatus reads a framed HealthCheckResponse. A field that is not there is
// 0; other fields are passed over, as protobuf asks.
func servingStatus(body []byte) (uint64, error) {
	bad := errors.New("the answer is not one of grpc.health.v1")
	if len(body) < 5 || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:5])) != uint64(len(body)-5) {
		return 0, bad
	}
	var state uint64
	for rest := body[5:]; len(rest) > 0; {
		key, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, bad
		}
		rest = rest[n:]
		var value uint64
		switch key & 7 {
		case 0: // varint
			if value, n = binary.Uvarint(rest); n <= 0 {
				return 0, bad
			}
		case 1: // 64 bits
			n = 8
		case 2: // bytes
			size, m := binary.Uvarint(rest)
			if m <= 0 || size > uint64(len(rest)) {
				return 0, bad
			}
			n = m + int(size)
		case 5: // 32 bits
			n = 4
		default:
			return 0, bad
		}
		if n > len(rest) {
			return 0, bad
		}
		rest = rest[n:]
		if key == responseStatus {
			state = value
		}
	}
	return state, nil
}
