package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/material"
	"github.com/mayfly-run/mayfly/network"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// template is what all sandboxes of one release, or of one instance, have in
// common, with the image's word and the user's put together.
type template struct {
	config  container.Config // without what a network and an id add
	argv    []string
	network string   // "bridge", "none" or "host"
	meets   []string // networks of the app
	sealed  bool     // shares no directory that anyone may write to, and is likely not to use its network
	ports   []mayfly.Port
	signal  string             // to stop with, as the image says
	files   map[string][]byte  // in /run/mayfly, besides self.json
	beside  *container.Sandbox // whose network it shares
}

// asked is what a user asked of a template; instances and workloads alike.
type asked struct {
	mayfly.Process
	mayfly.Resources
	mounts   []mayfly.Mount
	ports    []mayfly.Port
	readOnly bool
	network  string
	meets    []string // networks of the app
	volatile bool
	files    map[string][]byte
	beside   *container.Sandbox // whose network it shares, instead of having one
}

// template puts an image and what was asked of it together. The image is kept
// for owner until it is released.
func (n *Node) template(ctx context.Context, digest, owner string, a asked) (*template, error) {
	root, err := n.images.Use(ctx, digest, owner)
	if err != nil {
		return nil, err
	}
	img := root.Config
	user := a.User
	if user == "" {
		user = img.User
	}
	u, err := container.LookupUser(root.Lower, user)
	if err != nil {
		return nil, err
	}
	t := &template{network: a.network, meets: a.meets, ports: a.ports, argv: command(img.Entrypoint, img.Cmd, a.Process), signal: img.StopSignal, files: a.files, beside: a.beside}
	if t.network == "" {
		t.network = "bridge"
	}
	env := environment(img.Env, a.Env)
	if n.doors != nil {
		env = withDefault(env, client.HostVariable, DoorHost)
	}
	dir := a.WorkDir
	if dir == "" {
		dir = img.WorkingDir
	}
	t.config = container.Config{
		Lower: root.Lower, User: u, WorkDir: dir, Env: env, Resources: a.Resources,
		Mounts: slices.Clone(a.mounts), ReadOnly: a.readOnly, Volatile: a.volatile,
	}
	for _, p := range build.HostMounts(img.Labels) {
		t.config.Mounts = append(t.config.Mounts, mayfly.Mount{Type: "bind", Source: p, Target: p, ReadOnly: true})
	}
	return t, nil
}

// command is what runs, by the rules of the OCI image spec: an entrypoint that
// is given drops the image's command too.
func command(entrypoint, cmd []string, p mayfly.Process) []string {
	if p.Entrypoint != nil {
		entrypoint, cmd = p.Entrypoint, nil
	}
	if p.Command != nil {
		cmd = p.Command
	}
	return slices.Concat(entrypoint, cmd)
}

// environment lays variables over the image's.
func environment(image []string, over map[string]string) []string {
	env := make([]string, 0, len(image)+len(over))
	for _, e := range image {
		name, _, _ := strings.Cut(e, "=")
		if _, ok := over[name]; !ok {
			env = append(env, e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(over)) {
		env = append(env, name+"="+over[name])
	}
	return env
}

// withDefault sets a variable that is not set.
func withDefault(env []string, name, value string) []string {
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
		return env
	}
	return append(env, name+"="+value)
}

const selfName = "self.json"

// self is what a container is told about itself in /run/mayfly/self.json.
type self struct {
	ID       string            `json:"id"`
	Node     string            `json:"node"`
	Space    string            `json:"space"`
	App      string            `json:"app,omitempty"`
	Workload string            `json:"workload,omitempty"`
	Release  int               `json:"release,omitempty"`
	Replica  int               `json:"replica,omitempty"`
	Sidecar  string            `json:"sidecar,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Address  string            `json:"address,omitempty"`  // in the container's network
	External string            `json:"external,omitempty"` // of the node, as others reach its published ports
	Ports    []mayfly.Port     `json:"ports,omitempty"`    // published, each with its port on the node
}

// readSelf is what a container was told about itself.
func readSelf(s *container.Sandbox) (*self, error) {
	data, err := s.ReadFile(selfName)
	if err != nil {
		return nil, err
	}
	me := &self{}
	if err := json.Unmarshal(data, me); err != nil {
		return nil, fmt.Errorf("read %s: %w", selfName, err)
	}
	return me, nil
}

func (m *self) identity() mayfly.Identity {
	return mayfly.Identity{
		Node: m.Node, Space: m.Space, Instance: m.ID, Workload: m.Workload, Release: m.Release, App: m.App, Replica: m.Replica,
		Sidecar: m.Sidecar, Labels: m.Labels, Address: m.Address, External: m.External, Ports: m.Ports,
	}
}

// sandboxWith makes one sandbox of a template that has secrets and configs.
func (n *Node) sandboxWith(ctx context.Context, id string, t *template, v *material.Values, me self, hostname string) (*container.Sandbox, error) {
	mounts, files, err := n.material.Give(id, v, t.config.User)
	if err != nil {
		return nil, fmt.Errorf("give secrets and configs: %w", err)
	}
	if len(mounts)+len(files) > 0 {
		with := *t
		with.config.Mounts = slices.Concat(t.config.Mounts, mounts)
		with.files = maps.Clone(t.files)
		if with.files == nil {
			with.files = make(map[string][]byte)
		}
		maps.Copy(with.files, files)
		t = &with
	}
	s, err := n.sandbox(ctx, id, t, me, hostname)
	if err == nil {
		s.KeepPrivate(v.Private)
	}
	return s, err
}

// over lays variables over others.
func over(env, more map[string]string) map[string]string {
	if len(more) == 0 {
		return env
	}
	all := maps.Clone(env)
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, more)
	return all
}

// sandbox makes one sandbox of a template, wired to the network and the API.
func (n *Node) sandbox(ctx context.Context, id string, t *template, me self, hostname string) (*container.Sandbox, error) {
	c := t.config
	if hostname == "" {
		hostname = id[len(id)-12:] // the random part, for the first is the time
	}
	c.Hostname = hostname
	var err error
	if c.Resolv, err = n.resolv(t.network, me.Space); err != nil {
		return nil, err
	}
	var address netip.Addr
	switch {
	case t.beside != nil:
		ns, err := t.beside.NetNS()
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		c.NetNS, c.Address = ns, t.beside.Address
		address, _ = netip.ParseAddr(c.Address)
	case t.network == "host":
	case t.network == "none":
		a, err := n.net.AttachNone(ctx, id)
		if err != nil {
			return nil, err
		}
		defer a.NetNS.Close()
		c.NetNS = a.NetNS
	default:
		c.Groups = groupsOf(me.Space, me.App, t.meets)
		a, err := n.attach(ctx, id, t, c.Groups)
		if err != nil {
			return nil, err
		}
		defer a.NetNS.Close() // the container's processes hold it from then on
		c.NetNS, c.Address, c.Ports, address = a.NetNS, a.Address.String(), a.Ports, a.Address
	}
	c.Hosts = network.Hosts(hostname, address)
	me.ID, me.Node, me.Address, me.Ports, me.External = id, n.opts.Name, c.Address, c.Ports, n.external
	text, err := json.Marshal(me)
	if err != nil {
		return nil, err
	}
	n.askers.add(c.Address, &me)
	c.Files = map[string][]byte{selfName: text}
	maps.Copy(c.Files, t.files)
	s, err := n.host.Create(ctx, id, c)
	if err != nil {
		n.released(context.WithoutCancel(ctx), []string{id})
		return nil, t.explain(id, err)
	}
	if err := n.doors.open(s, me.identity()); err != nil {
		s.Remove()
		return nil, err
	}
	return s, nil
}

func (n *Node) attach(ctx context.Context, id string, t *template, groups []string) (*network.Attachment, error) {
	if t.sealed {
		return n.net.AttachSealed(ctx, id, groups...)
	}
	a, err := n.net.Attach(ctx, id, t.ports, groups...)
	if err != nil {
		return nil, n.named(err)
	}
	return a, nil
}

// resolv is the container's /etc/resolv.conf. The machine's own servers come after
// this node's, so that names of the outside are found while the daemon is away.
func (n *Node) resolv(mode, space string) ([]byte, error) {
	switch mode {
	case "none":
		return nil, nil
	case "host":
		return os.ReadFile("/etc/resolv.conf")
	}
	text, err := network.HostResolv()
	if err != nil || n.replicas == nil {
		return text, err
	}
	return network.AskFirst(text, n.net.Gateway(), space+".mayfly"), nil
}
