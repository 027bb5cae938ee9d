package queue

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
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

// NewCaller makes a client that follows no redirect, uses no proxy, and reaches
// no address that answers for the machine or its network only.
func NewCaller() *http.Client {
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

// CheckURL refuses what no webhook can be sent to. Empty is nobody. What a name
// stands for is looked at when it is called.
func CheckURL(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil || len(raw) > maxCallback || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return mayfly.Errorf(mayfly.Invalid, "%.100q is not an http or https URL of at most %d bytes", raw, maxCallback)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := checkAddress(netip.AddrPortFrom(ip, 0).String()); err != nil {
			return mayfly.Errorf(mayfly.Invalid, "%.100q: %w", raw, err)
		}
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

// notify makes one attempt, as Post does.
func notify(ctx context.Context, client *http.Client, task mayfly.Task, secret string) (again time.Duration, err error) {
	task.Env = nil
	body, err := json.Marshal(callbackBody{Type: "task." + string(task.State), Timestamp: task.Ended, Data: task})
	if err != nil {
		return 0, fmt.Errorf("encode callback: %w", err)
	}
	id := fmt.Sprintf("%s-%s-%d", task.ID, task.State, task.Attempt)
	return Post(ctx, client, Webhook{URL: task.Callback, ID: id, Secret: secret, Type: "application/json", Body: body})
}

// Webhook is a request of Standard Webhooks, to somebody outside.
type Webhook struct {
	URL    string
	ID     string // the same for each time that it is sent
	Secret string // as Queue.Secret gives it
	Type   string // media type of Body
	Body   []byte
}

// maxRetryAfter is the longest that an answer may ask to be left alone.
const maxRetryAfter = 24 * time.Hour

// Post sends a webhook once. Where the answer is not one of success, that is an
// error, and again is how long it asks to be left alone, if it does. IsGone tells
// of one that wants nothing more.
func Post(ctx context.Context, client *http.Client, w Webhook) (again time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(w.Body))
	if err != nil {
		return 0, err
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	signature, err := sign(w.Secret, w.ID, at, w.Body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", w.Type)
	req.Header.Set("User-Agent", "mayfly")
	req.Header.Set("webhook-id", w.ID)
	req.Header.Set("webhook-timestamp", at)
	req.Header.Set("webhook-signature", signature)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, callAnswer) // what it says does not matter
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return 0, nil
	case resp.StatusCode == http.StatusGone:
		return 0, &goneError{resp.Status}
	default:
		return retryAfter(resp.Header.Get("Retry-After"), time.Now()), fmt.Errorf("it answered %s", resp.Status)
	}
}

// IsGone reports whether an error of Post says that nobody wants to be told.
func IsGone(err error) bool {
	var gone *goneError
	return errors.As(err, &gone)
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	seconds, err := strconv.ParseUint(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && seconds > uint64(maxRetryAfter/time.Second) {
		return maxRetryAfter
	}
	if err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, min(at.Sub(now), maxRetryAfter))
	}
	return 0
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
