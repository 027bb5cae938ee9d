package queue

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Bounds of one attempt at a callback.
const (
	callTimeout  = 15 * time.Second
	callHeaders  = 16 << 10 // bytes of the answer's
	callAnswer   = 4 << 10  // bytes of the answer that are read, so that the connection can be used again
	secretPrefix = "whsec_"
	secretBytes  = 32
)

// callbackBody is what a callback says.
type callbackBody struct {
	Type      string      `json:"type"` // "task." and the state
	Timestamp time.Time   `json:"timestamp"`
	Data      mayfly.Task `json:"data"` // without its environment, which may have secrets
}

// goneError means that nobody wants to be told any more.
type goneError struct{ status string }

func (e *goneError) Error() string { return "it answered " + e.status }

// newCaller makes a client that follows no redirect, uses no proxy, and reaches
// no address that answers for the machine or its network only.
func newCaller() *http.Client {
	dialer := &net.Dialer{Timeout: callTimeout / 2, Control: func(_, address string, _ syscall.RawConn) error {
		return checkAddress(address)
	}}
	return &http.Client{
		Timeout:       callTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    callTimeout / 2,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: callHeaders,
		},
	}
}

// checkAddress refuses link-local addresses, where clouds keep what a machine
// must not give away, and the other ones at which they do. It sees the address
// that is connected to, whatever a name stood for before.
func checkAddress(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("call %s: %w", address, err)
	}
	ip := at.Addr().WithZone("").Unmap()
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip == awsMetadata || ip == aliMetadata || ip == oracleMetadata {
		return fmt.Errorf("%s is not an address that a callback may go to", ip)
	}
	return nil
}

// What is refused beside link-local addresses, and what may stand for any.
var (
	nat64          = netip.MustParsePrefix("64:ff9b::/96")
	awsMetadata    = netip.MustParseAddr("fd00:ec2::254")
	aliMetadata    = netip.MustParseAddr("100.100.100.200")
	oracleMetadata = netip.MustParseAddr("192.0.0.192")
)

// notify makes one attempt: it fails when the answer is not one of success.
func notify(ctx context.Context, client *http.Client, task mayfly.Task, secret string) error {
	url := task.Callback
	task.Env = nil
	body, err := json.Marshal(callbackBody{Type: "task." + string(task.State), Timestamp: task.Ended, Data: task})
	if err != nil {
		return fmt.Errorf("encode callback: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	id, at := fmt.Sprintf("%s-%s-%d", task.ID, task.State, task.Attempt), strconv.FormatInt(time.Now().Unix(), 10)
	signature, err := sign(secret, id, at, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "mayfly")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", at)
	req.Header.Set("webhook-signature", signature)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, callAnswer) // what it says does not matter
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusGone:
		return &goneError{resp.Status}
	default:
		return fmt.Errorf("it answered %s", resp.Status)
	}
}

// sign is a signature of Standard Webhooks, version 1.
func sign(secret, id, at string, body []byte) (string, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
	if err != nil {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

func newSecret() string {
	var key [secretBytes]byte
	rand.Read(key[:])
	return secretPrefix + base64.StdEncoding.EncodeToString(key[:])
}
