package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/manifest"
)

// generatedBytes is how much chance a secret has that the deploy makes.
const generatedBytes = 32

// store defines the volumes, and sets the secrets and configs, that the chosen
// workloads name. What must be there already is looked for first, before
// anything is written.
func (d *deployment) store(ctx context.Context) error {
	used := usedBy(d.chosen)
	volumes, err := d.external(ctx, used)
	if err != nil {
		return err
	}
	for _, v := range d.manifest.Volumes {
		if !used["volume "+v.Name] || v.External {
			continue
		}
		if old, ok := volumes[v.Name]; ok && old.App != "" && old.App != v.App {
			return mayfly.Errorf(mayfly.Conflict, "volume %s is of %s, and this manifest is %s", v.Name, old.App, v.App).
				WithHint("give it another name:, or say external: true to share it")
		}
		if _, err := d.cl.PutVolume(ctx, v.Volume); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	if err := d.storeSecrets(ctx, used); err != nil {
		return err
	}
	for _, c := range d.manifest.Configs {
		if !used["config "+c.Name] || c.External {
			continue
		}
		if _, err := d.cl.PutConfig(ctx, c.Name, c.Value); err != nil {
			return fmt.Errorf("config %s: %w", c.Name, err)
		}
	}
	return nil
}

func (d *deployment) storeSecrets(ctx context.Context, used map[string]bool) error {
	for _, s := range d.manifest.Secrets {
		if !used["secret "+s.Name] || s.External {
			continue
		}
		value := s.Value
		if s.Generate {
			if d.secrets[s.Name] {
				continue // whoever has it would not know another
			}
			random := make([]byte, generatedBytes)
			rand.Read(random)
			value = []byte(base64.RawURLEncoding.EncodeToString(random))
		}
		if _, err := d.cl.PutSecret(ctx, s.Name, value); err != nil {
			return fmt.Errorf("secret %s: %w", s.Name, err)
		}
	}
	return nil
}

// external checks that what is not this manifest's is there, and returns the
// volumes that there are. It asks only for kinds of which something is used.
func (d *deployment) external(ctx context.Context, used map[string]bool) (volumes map[string]mayfly.Volume, err error) {
	volumes, d.secrets = map[string]mayfly.Volume{}, map[string]bool{}
	configs := map[string]bool{}
	if len(d.manifest.Volumes) > 0 {
		list, err := d.cl.ListVolumes(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			volumes[v.Name] = v
		}
	}
	if len(d.manifest.Secrets) > 0 {
		list, err := d.cl.ListSecrets(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			d.secrets[s.Name] = true
		}
	}
	if len(d.manifest.Configs) > 0 {
		list, err := d.cl.ListConfigs(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			configs[c.Name] = true
		}
	}
	missing := func(what, name, verb string) error {
		return mayfly.Errorf(mayfly.NotFound, "there is no %s %q, and the manifest makes none", what, name).WithHint("run mayfly %s %s first", verb, name)
	}
	for _, v := range d.manifest.Volumes {
		if _, ok := volumes[v.Name]; !ok && v.External && used["volume "+v.Name] {
			return nil, missing("volume", v.Name, "volume create")
		}
	}
	for _, s := range d.manifest.Secrets {
		if s.External && used["secret "+s.Name] && !d.secrets[s.Name] {
			return nil, missing("secret", s.Name, "secret set")
		}
	}
	for _, c := range d.manifest.Configs {
		if c.External && used["config "+c.Name] && !configs[c.Name] {
			return nil, missing("config", c.Name, "config set")
		}
	}
	return volumes, nil
}

// usedBy is the set of volumes, secrets and configs that workloads name, each
// after the word for its kind.
func usedBy(workloads []manifest.Workload) map[string]bool {
	used := map[string]bool{}
	mount := func(all []mayfly.VolumeMount) {
		for _, v := range all {
			used["volume "+v.Volume] = true
		}
	}
	for _, w := range workloads {
		mount(w.Volumes)
		for _, s := range w.Secrets {
			used["secret "+s.Secret] = true
		}
		for _, c := range w.Configs {
			used["config "+c.Config] = true
		}
		if w.Service == nil {
			continue
		}
		for _, c := range w.Service.Sidecars {
			mount(c.Volumes)
		}
	}
	return used
}
