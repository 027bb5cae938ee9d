package client

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Bounds of values, in bytes.
const (
	MaxSecret = 64 << 10
	MaxConfig = 256 << 10
)

// SecretInfo is what can be known of a secret.
type SecretInfo struct {
	Name    string    `json:"name"`
	Version int       `json:"version"`
	Changed time.Time `json:"changed"`
}

// PutSecret sets a secret. The value that it has already makes no new version.
func (c *Client) PutSecret(ctx context.Context, name string, value []byte) (SecretInfo, error) {
	if len(value) > MaxSecret {
		return SecretInfo{}, tooLarge("secret", name, len(value), MaxSecret)
	}
	return ask[SecretInfo](ctx, c, call{method: http.MethodPut, path: []string{"secrets", name}, raw: bytes.NewReader(value), size: int64(len(value))})
}

func tooLarge(what, name string, have, most int) error {
	return mayfly.Errorf(mayfly.TooLarge, "%s %s has %d bytes, and %d are the most", what, name, have, most)
}

// ListSecrets returns the secrets by name. Nothing returns a value.
func (c *Client) ListSecrets(ctx context.Context) ([]SecretInfo, error) {
	return all[SecretInfo](ctx, c, "secrets", nil)
}

// RemoveSecret removes a secret; with force although a workload names it.
func (c *Client) RemoveSecret(ctx context.Context, name string, force bool) error {
	query := url.Values{"force": {strconv.FormatBool(force)}}
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"secrets", name}, query: query}, nil)
}

// PutConfig sets a config. The value that it has already makes no new version.
func (c *Client) PutConfig(ctx context.Context, name string, value []byte) (mayfly.Config, error) {
	return c.SwapConfig(ctx, name, value, -1)
}

// SwapConfig sets a config whose version is seen, 0 if there is none yet. Another
// version is a Conflict.
func (c *Client) SwapConfig(ctx context.Context, name string, value []byte, seen int) (mayfly.Config, error) {
	if len(value) > MaxConfig {
		return mayfly.Config{}, tooLarge("config", name, len(value), MaxConfig)
	}
	query := url.Values{"seen": {strconv.Itoa(seen)}}
	return ask[mayfly.Config](ctx, c, call{method: http.MethodPut, path: []string{"configs", name}, query: query, raw: bytes.NewReader(value), size: int64(len(value))})
}

// GetConfig returns a version of a config, the newest if it is 0.
func (c *Client) GetConfig(ctx context.Context, name string, version int) (mayfly.Config, error) {
	query := url.Values{"version": {strconv.Itoa(version)}}
	return ask[mayfly.Config](ctx, c, call{method: http.MethodGet, path: []string{"configs", name}, query: query})
}

// ListConfigs returns the configs by name, without their values.
func (c *Client) ListConfigs(ctx context.Context) ([]mayfly.Config, error) {
	return all[mayfly.Config](ctx, c, "configs", nil)
}

// ConfigHistory returns the versions of a config that are kept, newest first,
// without their values.
func (c *Client) ConfigHistory(ctx context.Context, name string) ([]mayfly.Config, error) {
	page, err := ask[Page[mayfly.Config]](ctx, c, call{method: http.MethodGet, path: []string{"configs", name, "history"}})
	return page.Items, err
}

// RemoveConfig removes a config and its versions; with force although a workload
// names it.
func (c *Client) RemoveConfig(ctx context.Context, name string, force bool) error {
	query := url.Values{"force": {strconv.FormatBool(force)}}
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"configs", name}, query: query}, nil)
}
