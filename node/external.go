package node

import (
	"context"
	"net"
	"runtime"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// externalAddress is the address of this machine that it would send from, which
// is most often the one at which others reach it; "127.0.0.1" where it has no
// route to anywhere. Nothing is sent: a connection of UDP only chooses a route.
func externalAddress() string {
	c, err := net.Dial("udp4", "192.0.2.1:9") // RFC 5737: nobody's
	if err != nil {
		return "127.0.0.1"
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String()
}

// register says in the record that this machine is a node, and what it has.
func (n *Node) register(ctx context.Context) error {
	_, err := n.store.Nodes.Update(ctx, store.NodeSpace, n.opts.Name, func(old mayfly.NodeInfo, _ bool) (mayfly.NodeInfo, bool, error) {
		return mayfly.NodeInfo{
			Name: n.opts.Name, Epoch: old.Epoch + 1, Labels: n.opts.Labels,
			Memory: n.opts.memory, CPUs: float64(runtime.NumCPU()), Since: time.Now().UTC(),
		}, true, nil
	})
	return err
}
