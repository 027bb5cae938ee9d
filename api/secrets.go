package api

import (
	"context"
	"io"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// Secrets are values that only containers get to see. The material package
// gives them. What they return never has a value in it.
type Secrets interface {
	// SetSecret keeps a value. The same value again makes no new version.
	SetSecret(ctx context.Context, space, name string, value []byte) (mayfly.Secret, error)
	ListSecrets(ctx context.Context, space string) ([]mayfly.Secret, error)

	// RemoveSecret is a Conflict while a workload names it, unless force.
	RemoveSecret(ctx context.Context, space, name string, force bool) error
}

// Configs are values with a history. The material package gives them.
type Configs interface {
	// SetConfig keeps the next version. The same value again makes none. A seen
	// that is not negative has to be the version that there is.
	SetConfig(ctx context.Context, space, name string, value []byte, seen int) (mayfly.Config, error)

	// GetConfig returns a version, the newest if it is 0. Lists have no values.
	GetConfig(ctx context.Context, space, name string, version int) (mayfly.Config, error)
	ListConfigs(ctx context.Context, space string) ([]mayfly.Config, error)
	ConfigHistory(ctx context.Context, space, name string) ([]mayfly.Config, error)

	// RemoveConfig is a Conflict while a workload names it, unless force.
	RemoveConfig(ctx context.Context, space, name string, force bool) error
}

// ValueRef is the part of an operation's input that names a secret or a config.
type ValueRef struct {
	InSpace
	Name string `path:"name" maxLength:"64" doc:"its name"`
}

// InForce is the part of an operation's input that says that one knows.
type InForce struct {
	Force bool `query:"force" doc:"although a workload names it"`
}

func (r *router) secrets() {
	service := r.services.Secrets
	r = needing(r, service, "secrets")
	answerWith(r, operation{id: "list-secrets", route: "GET /v1/secrets", summary: "List secrets by name, without their values"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[client.SecretInfo], error) {
			all, err := service.ListSecrets(ctx, in.Space)
			items := []client.SecretInfo{}
			for _, s := range all {
				items = append(items, secretInfo(s))
			}
			return page(items, in.InPage, false, func(s client.SecretInfo) string { return s.Name }), err
		})
	answerWith(r, operation{id: "set-secret", route: "PUT /v1/secrets/{name}", summary: "Set a secret", upload: client.MaxSecret,
		detail: "The body is the value. It is sealed, and no operation gives it back. An empty one is refused. The same value again makes no new version."},
		func(ctx context.Context, in *struct {
			ValueRef
			InBody
		}) (client.SecretInfo, error) {
			value, err := io.ReadAll(io.LimitReader(in.body, client.MaxSecret+1))
			if err != nil {
				return client.SecretInfo{}, err
			}
			s, err := service.SetSecret(ctx, in.Space, in.Name, value)
			return secretInfo(s), err
		})
	done(r, operation{id: "remove-secret", route: "DELETE /v1/secrets/{name}", summary: "Remove a secret"},
		func(ctx context.Context, in *struct {
			ValueRef
			InForce
		}) error {
			return service.RemoveSecret(ctx, in.Space, in.Name, in.Force)
		})
}

func secretInfo(s mayfly.Secret) client.SecretInfo {
	return client.SecretInfo{Name: s.Name, Version: s.Version, Changed: s.Changed}
}

func (r *router) configs() {
	service := r.services.Configs
	r = needing(r, service, "configs")
	answerWith(r, operation{id: "list-configs", route: "GET /v1/configs", summary: "List configs by name, without their values"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[mayfly.Config], error) {
			items, err := service.ListConfigs(ctx, in.Space)
			return page(items, in.InPage, false, func(c mayfly.Config) string { return c.Name }), err
		})
	answerWith(r, operation{id: "get-config", route: "GET /v1/configs/{name}", summary: "Get a config"},
		func(ctx context.Context, in *struct {
			ValueRef
			Version int `query:"version" minimum:"0" doc:"one of the last ten; the newest if 0"`
		}) (mayfly.Config, error) {
			return service.GetConfig(ctx, in.Space, in.Name, in.Version)
		})
	answerWith(r, operation{id: "config-history", route: "GET /v1/configs/{name}/history", summary: "List the versions of a config, newest first, without their values"},
		func(ctx context.Context, in *struct {
			ValueRef
			InPage
		}) (client.Page[mayfly.Config], error) {
			items, err := service.ConfigHistory(ctx, in.Space, in.Name)
			return client.Page[mayfly.Config]{Items: items}, err
		})
	answerWith(r, operation{id: "set-config", route: "PUT /v1/configs/{name}", summary: "Set a config", upload: client.MaxConfig,
		detail: "The body is the value. The same value again makes no new version; another one reaches those who use it."},
		func(ctx context.Context, in *struct {
			ValueRef
			InBody
			Seen int `query:"seen" default:"-1" minimum:"-1" doc:"the version that it follows, else it is a 409; 0: there is none yet; -1: any"`
		}) (mayfly.Config, error) {
			value, err := io.ReadAll(io.LimitReader(in.body, client.MaxConfig+1))
			if err != nil {
				return mayfly.Config{}, err
			}
			c, err := service.SetConfig(ctx, in.Space, in.Name, value, in.Seen)
			c.Value = nil
			return c, err
		})
	done(r, operation{id: "remove-config", route: "DELETE /v1/configs/{name}", summary: "Remove a config and its versions"},
		func(ctx context.Context, in *struct {
			ValueRef
			InForce
		}) error {
			return service.RemoveConfig(ctx, in.Space, in.Name, in.Force)
		})
}
