// Package node is one machine of Mayfly: it runs the instances that were asked
// for, keeps sandboxes of each function waiting, hands them to runs, and
// reports what became of them to the store.
//
// It composes images, networks and containers, and it alone knows all three.
// An instance that was accepted goes on when the daemon is killed: Open adopts
// what is still there, records how the rest ended, and throws waiting sandboxes
// away. Which function a request is for, and what an answer looks like, is the
// router's; which node runs what will be the reconciler's.
package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/discovery"
	"github.com/mayfly-run/mayfly/image"
	"github.com/mayfly-run/mayfly/material"
	"github.com/mayfly-run/mayfly/network"
	"github.com/mayfly-run/mayfly/store"
	"golang.org/x/sync/errgroup"
)

// Options tune a Node. The zero value is fit for production.
type Options struct {
	Log        *slog.Logger      // nil: no log
	Name       string            // of the machine among others; its host name if empty
	Driver     string            // "native" if empty, or the name or path of an OCI runtime
	PoolIdle   time.Duration     // without a call for so long, no sandbox waits; 5 min if zero
	PoolMemory int64             // bytes that waiting sandboxes may take; an eighth of the machine's if zero
	MaxWaiting int               // sandboxes of one function that wait; 32 if zero, none if negative
	MaxRunning int               // runs at once; one for each 16 MB of memory if zero
	Labels     map[string]string // of the machine, such as zone
	Subnet     netip.Prefix      // of containers' addresses; the first free one if zero

	BuildMemory int64         // bytes that one build of code may use, its files included; 2 GB, or half of the machine's, if zero
	BuildTime   time.Duration // that one build may take; 10 min if zero

	memory int64 // of the machine, in bytes
}

// Parts are what a Node composes. The caller opens and closes them.
type Parts struct {
	Store  *store.Store
	Images *image.Store
	Stacks *build.Stacks
	Init   []byte // mayfly-init for this machine
	Inside Inside // answers programs in containers; nil: they have nowhere to ask

	Volumes  Volumes
	Material *material.Store

	Discovery *discovery.Discovery // nil: no services are run
	Outside   *discovery.Outside   // asked before consumers are told of what has changed; nil: there is nothing
}

// Volumes are those of this machine, and who uses which.
type Volumes interface {
	// Recover takes up what an earlier daemon left; lives says which instances may
	// still run.
	Recover(ctx context.Context, lives func(instance string) bool) error

	// Define defines the volumes that nobody has.
	Define(ctx context.Context, space string, mounts []mayfly.VolumeMount) error

	// Claim makes volumes ready for an instance, all or none, and returns what to
	// mount. A Conflict names who has one of them.
	Claim(ctx context.Context, in mayfly.Instance, mounts []mayfly.VolumeMount) ([]mayfly.Mount, error)

	// Fill puts what the image has at the targets into volumes that are empty. mounts
	// are those of Claim, and lower is the image's layers.
	Fill(ctx context.Context, in mayfly.Instance, volumes []mayfly.VolumeMount, mounts []mayfly.Mount, lower []string) error

	// Release ends the claims of an instance whose processes have ended.
	Release(ctx context.Context, instance string) error

	// CheckFunction refuses a function that writes to what only one may write to.
	CheckFunction(w *mayfly.Workload) error

	// Leave removes the volumes that go with a workload which was deleted.
	Leave(ctx context.Context, w *mayfly.Workload) error
}

// Node is this machine.
type Node struct {
	dir      string
	opts     Options
	store    *store.Store
	images   *image.Store
	stacks   *build.Stacks
	net      *network.Network
	host     *container.Host
	doors    *doors
	logs     *keptLogs
	volumes  Volumes
	material *material.Store
	token    string // derived from the data directory; names bridge and cgroups

	external string    // address of the machine, as others reach published ports
	replicas *replicas // of services that are assigned to this node
	askers   *askers

	making  chan struct{} // a slot for each sandbox that is being made
	running chan struct{} // a slot for each run that has a sandbox to itself
	dropped chan struct{} // a function was dropped
	budget  *container.Budget

	building chan struct{} // a slot for each build of code

	mu        sync.Mutex
	functions map[functionKey]*function
	users     map[functionKey]int  // runs and deploys that need a release's image
	instances map[string]*instance // that have not been removed, by id
	left      []leftAttempt        // of an earlier daemon, until somebody takes them over
	leaving   bool                 // attempts go on when this daemon has ended
	runner    *Runner              // that runs tasks here, or nil
	ctx       context.Context      // of Run; nil before and after
	begun     chan struct{}        // closed when Run has begun
	tasks     sync.WaitGroup       // goroutines that Run waits for
	stopped   bool                 // nothing is started any more
}

// Token derives the short name from a data directory that tells the kernel
// objects of nodes on one machine apart.
func Token(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:4])
}

// Open takes up the work in dir, where an earlier daemon left it.
func Open(ctx context.Context, dir string, p Parts, o Options) (_ *Node, err error) {
	if err := defaults(&o); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	n := &Node{
		dir: dir, opts: o, store: p.Store, images: p.Images, stacks: p.Stacks, token: Token(dir), volumes: p.Volumes, material: p.Material,
		making:    make(chan struct{}, 2*runtime.NumCPU()),
		running:   make(chan struct{}, o.MaxRunning),
		dropped:   make(chan struct{}, 1),
		budget:    container.NewBudget(o.PoolMemory),
		building:  make(chan struct{}, maxBuilds),
		begun:     make(chan struct{}),
		functions: make(map[functionKey]*function),
		users:     make(map[functionKey]int),
		instances: make(map[string]*instance),
		askers:    newAskers(),
	}
	n.external = externalAddress()
	n.sweepParts()
	if p.Discovery != nil {
		n.replicas = newReplicas(n, p.Discovery)
		if p.Outside != nil {
			n.replicas.outside = p.Outside.Checked()
		}
	}
	if n.logs, err = openKeptLogs(dir + "/logs"); err != nil {
		return nil, err
	}
	init, err := container.InstallInit(dir+"/init", p.Init)
	if err != nil {
		return nil, err
	}
	driver, err := openDriver(o.Driver, init, dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.closeMachine(), closeDriver(driver))
		}
	}()
	n.host, err = container.Open(dir+"/sandboxes", init, driver, container.Options{
		Log: o.Log, Cgroup: "/mayfly-" + n.token, Volatile: dir + "/volatile", Released: n.released,
	})
	if err != nil {
		return nil, err
	}
	if n.doors, err = openDoors(p.Inside, o.Log); err != nil {
		return nil, err
	}
	if n.net, err = network.Open(ctx, n.token, network.Options{Log: o.Log, Subnet: o.Subnet}); err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	if err = n.recover(ctx); err != nil {
		return nil, err
	}
	if err = n.register(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

func defaults(o *Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		o.Name = name
	}
	if o.PoolIdle == 0 {
		o.PoolIdle = 5 * time.Minute
	}
	total, err := memTotal()
	if err != nil {
		return err
	}
	if o.PoolMemory == 0 {
		o.PoolMemory = total / 8
	}
	o.memory = total
	if o.MaxRunning == 0 {
		o.MaxRunning = max(int(total/(16<<20)), 16)
	}
	return nil
}

func openDriver(name, init, dir string) (container.Driver, error) {
	if name == "" || name == "native" {
		return container.NewNative(init, container.NativeOptions{})
	}
	return container.NewOCI(name, dir+"/runtime")
}

// closeDriver ends the processes of a driver that has any.
func closeDriver(d container.Driver) error {
	if c, ok := d.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Memory is what this machine has, in bytes.
func (n *Node) Memory() int64 { return n.opts.memory }

// Run works until ctx ends. Then it refuses new work, ends what calls were
// waiting for, throws waiting sandboxes away, and leaves instances running.
func (n *Node) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	tail, stopTail := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTail()
	var g errgroup.Group
	g.Go(func() error { return n.net.Run(work) })
	g.Go(func() error { return n.doors.run(work) })
	g.Go(func() error { return n.host.Run(tail) }) // outlives those who bury
	n.begin(work)
	g.Go(func() error { return n.replicas.run(work) })
	g.Go(func() error { return n.refreshFunctions(work) })
	g.Go(func() error { return n.keepLeast(work) })
	<-work.Done()
	n.mu.Lock()
	n.ctx = nil
	n.mu.Unlock()
	n.tasks.Wait()
	stopTail()
	return g.Wait()
}

// begin starts what was waiting for Run.
func (n *Node) begin(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ctx = ctx
	close(n.begun)
	for _, in := range n.instances {
		if in.sandbox != nil {
			n.watchLocked(in)
		}
	}
}

// goTask runs f in a goroutine that Run waits for. It blocks until Run has
// begun, and reports false, without calling f, when Run is over.
func (n *Node) goTask(f func(ctx context.Context)) bool {
	<-n.begun
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.goTaskLocked(f)
}

func (n *Node) goTaskLocked(f func(ctx context.Context)) bool {
	if n.ctx == nil {
		return false
	}
	ctx := n.ctx
	n.tasks.Add(1)
	go func() {
		defer n.tasks.Done()
		f(ctx)
	}()
	return true
}

// Close lets go of the network, of the memory that sandboxes waited in, and of
// the driver's processes. Run must have returned.
func (n *Node) Close() error {
	err := errors.Join(n.closeMachine(), closeDriver(n.host.Driver()))
	if n.deserted() {
		err = errors.Join(err, network.Destroy(n.token))
	}
	return err
}

// closeMachine closes what of the machine is open: all, or as far as Open came.
func (n *Node) closeMachine() error {
	var errs []error
	if n.doors != nil {
		n.doors.close() // where Run never ran
	}
	if n.net != nil {
		errs = append(errs, n.net.Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	return errors.Join(errs...)
}

// deserted says that nothing is left that needs the bridge.
func (n *Node) deserted() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return true
	}
	if n.leaving {
		return false
	}
	for _, in := range n.instances {
		select {
		case <-in.recorded:
		default:
			return false
		}
	}
	return true
}

// released takes back what sandboxes that ended were given.
func (n *Node) released(ctx context.Context, ids []string) {
	n.doors.shut(ids...) // first: a connection is of its container's network namespace
	n.askers.drop(ids...)
	if err := n.net.Detach(ctx, ids...); err != nil {
		n.opts.Log.Error("detach from network", "err", err)
	}
	for _, id := range ids {
		n.letGo(ctx, id)
	}
}

// letGo takes back the volumes, secrets and configs of an instance whose
// processes have ended, where nobody could do anything about an error.
func (n *Node) letGo(ctx context.Context, id string) {
	if err := errors.Join(n.volumes.Release(ctx, id), n.material.Release(id)); err != nil {
		n.opts.Log.Error("release volumes and secrets", "instance", id, "err", err)
	}
}

// recover adopts the instances that an earlier daemon left and discards what
// nobody wants.
func (n *Node) recover(ctx context.Context) error {
	wanted := make(map[string]bool)
	var held []network.Held
	owners := map[string]bool{} // of images, by name
	for _, o := range n.images.Owners() {
		owners[o.Name] = true
	}
	for _, rec := range n.store.Instances("") {
		if rec.Node != n.opts.Name {
			continue
		}
		if cameBack(rec, owners) {
			if err := n.store.DeleteInstance(ctx, rec.Space, rec.ID); err != nil {
				return fmt.Errorf("remove instance %s again: %w", rec.ID, err)
			}
			continue
		}
		in := newInstance(rec)
		wanted[rec.ID] = true
		n.instances[rec.ID] = in
		if rec.State == mayfly.Exited {
			continue
		}
		s, err := n.adopt(rec.ID)
		if mayfly.KindOf(err) == mayfly.NotFound {
			if err := n.lost(ctx, in); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("adopt instance %s: %w", rec.ID, err)
		}
		in.sandbox = s
		held = append(held, heldBy(s)...)
	}
	left, err := n.host.Left()
	if err != nil {
		return err
	}
	for _, id := range left {
		if !wanted[id] {
			if a, ok := n.recoverAttempt(id); ok {
				n.left = append(n.left, a)
				held = append(held, heldBy(a.sandbox)...)
				continue
			}
			if err := n.host.Discard(id); err != nil {
				n.opts.Log.Error("discard sandbox", "id", id, "err", err)
			}
		}
	}
	n.dropOwners(ctx, wanted)
	if err := n.volumes.Recover(ctx, n.lives); err != nil {
		return fmt.Errorf("take up volumes: %w", err)
	}
	if err := n.material.Recover(n.lives); err != nil {
		return fmt.Errorf("take back secrets: %w", err)
	}
	return n.net.Recover(ctx, held)
}

// cameBack reports whether an instance had been removed, long enough ago for a
// kill -9 to bring back its record. An instance has its image until then.
func cameBack(rec store.Instance, owners map[string]bool) bool {
	return time.Since(rec.Created) > bus.MarkerTTL && !owners[rec.ID]
}

// lives reports whether a container of an earlier daemon may still run.
func (n *Node) lives(id string) bool {
	if in := n.instances[id]; in != nil {
		return in.sandbox != nil && in.State != mayfly.Exited
	}
	return slices.ContainsFunc(n.left, func(a leftAttempt) bool { return a.sandbox.ID == id })
}

// heldBy is what a sandbox holds of the network; nothing once it has ended: the
// machine may have been started again since, and have another subnet.
func heldBy(s *container.Sandbox) []network.Held {
	select {
	case <-s.Ended():
		return nil
	default:
	}
	a, err := netip.ParseAddr(s.Address)
	if err != nil {
		return nil
	}
	return []network.Held{{ID: s.ID, Address: a, Ports: s.Ports, Groups: s.Groups}}
}

// adopt takes over a sandbox that an earlier daemon left, and its socket.
func (n *Node) adopt(id string) (*container.Sandbox, error) {
	s, err := n.host.Adopt(id)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.Ended():
	default:
		if err := n.doors.reopen(s); err != nil {
			n.opts.Log.Error("listen for a container", "id", id, "err", err) // it can go on without
		}
		if err := n.askers.adopt(s); err != nil {
			n.opts.Log.Error("note whose an address is", "id", id, "err", err)
		}
	}
	return s, nil
}

// dropOwners ends the uses of images by what is no more.
func (n *Node) dropOwners(ctx context.Context, instances map[string]bool) {
	for _, o := range n.images.Owners() {
		if key, ok := keyOfOwner(o.Name); ok {
			n.drop(ctx, key)
		} else if !instances[o.Name] {
			n.releaseImages(ctx, o.Name)
		}
	}
}

// lost records the end of an instance of which nothing is left.
func (n *Node) lost(ctx context.Context, in *instance) error {
	return n.recordEnd(ctx, in, mayfly.Exit{
		Code: 137, Reason: mayfly.Lost, Detail: "nothing was left of it when the node started", Time: time.Now(),
	})
}
