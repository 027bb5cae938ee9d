package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func bridgeOf(name string) string { return "mf-" + name }

func tableOf(name string) string { return "mayfly-" + name }

// openBridge finds or makes the bridge and sets all that it needs. Subnet and
// gateway are those that the bridge has, else want, else the first free ones.
func (n *Network) openBridge(ctx context.Context, want netip.Prefix) error {
	done, err := n.choosing(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := sweepTables(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(n.bridge)
	var has netip.Prefix
	switch {
	case errors.As(err, &netlink.LinkNotFoundError{}):
	case err != nil:
		return fmt.Errorf("find bridge %s: %w", n.bridge, err)
	case link.Type() != "bridge":
		return mayfly.Errorf(mayfly.Conflict, "%s is a link of type %s, not a bridge of Mayfly's", n.bridge, link.Type()).
			WithHint("remove it with: ip link delete %s", n.bridge)
	default:
		if has, err = addressOf(link); err != nil {
			return err
		}
	}
	if err := n.chooseSubnet(has, want); err != nil {
		return err
	}
	if link == nil {
		if link, err = addBridge(n.bridge, macOf(n.gateway)); err != nil {
			return fmt.Errorf("make bridge %s: %w", n.bridge, err)
		}
	}
	n.index = int32(link.Attrs().Index)
	if err := n.raiseBridge(link, !has.IsValid()); err != nil {
		return fmt.Errorf("set up bridge %s: %w", n.bridge, err)
	}
	if has.IsValid() {
		if err := n.warnOfOverlap(); err != nil {
			return err
		}
	}
	return n.forward()
}

func (n *Network) chooseSubnet(has, want netip.Prefix) (err error) {
	switch {
	case has.IsValid():
		n.gateway, n.subnet = has.Addr(), has.Masked()
		if want.IsValid() && want.Masked() != n.subnet {
			return mayfly.Errorf(mayfly.Conflict, "bridge %s has the subnet %s, not %s", n.bridge, n.subnet, want.Masked()).
				WithHint("stop all containers and remove the bridge with: mayfly down")
		}
	case want.IsValid():
		taken, err := takenPrefixes(0)
		if err != nil {
			return err
		}
		if other, ok := overlapping(taken, want); ok {
			return mayfly.Errorf(mayfly.Conflict, "subnet %s overlaps %s, which this machine has already", want.Masked(), other).
				WithHint("choose another, or none to have one picked")
		}
		n.subnet = want.Masked()
		n.gateway = n.subnet.Addr().Next()
	default:
		if n.subnet, err = freeSubnet(); err != nil {
			return err
		}
		n.gateway = n.subnet.Addr().Next()
		n.log.Info("chose a subnet for containers", "bridge", n.bridge, "subnet", n.subnet)
	}
	n.next = n.gateway
	return nil
}

// addBridge makes the bridge with a hardware address of its own. Without one
// it would take the lowest of its ports', and udev might give it another, and
// then what every container knows about its gateway would be wrong.
func addBridge(name string, mac net.HardwareAddr) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, mac
	snooping := false // it would only cost: there is no multicast router here
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
	if errors.Is(err, unix.EPERM) {
		return nil, mayfly.Errorf(mayfly.Denied, "not permitted: %w", err).WithHint("run as root")
	}
	if err != nil {
		return nil, err
	}
	return netlink.LinkByName(name)
}

func (n *Network) raiseBridge(link netlink.Link, address bool) error {
	// Setting it again would make the kernel forget the neighbours.
	if mac := macOf(n.gateway); !bytes.Equal(link.Attrs().HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return err
		}
	}
	if address {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP: n.gateway.AsSlice(), Mask: net.CIDRMask(n.subnet.Bits(), 32),
		}}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	if err := n.rtnl.run(n.noIPv6(n.index)...); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addressOf(link netlink.Link) (netip.Prefix, error) {
	addrs, err := complete(func() ([]netlink.Addr, error) {
		return netlink.AddrList(link, netlink.FAMILY_V4)
	})
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			return p, nil
		}
	}
	return netip.Prefix{}, nil
}

// forward lets packets through the machine and, from 127.0.0.1, to published
// ports.
func (n *Network) forward() error {
	on, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return fmt.Errorf("read ip_forward: %w", err)
	}
	if strings.TrimSpace(string(on)) != "1" {
		if err := setSysctl("ipv4/ip_forward", "1"); err != nil {
			return mayfly.Errorf(mayfly.Denied, "turn on forwarding: %w", err).
				WithHint("containers reach the outside only with: sysctl -w net.ipv4.ip_forward=1")
		}
		n.log.Info("turned on net.ipv4.ip_forward, which containers need to reach the outside")
	}
	if err := setSysctl("ipv4/conf/"+n.bridge+"/route_localnet", "1"); err != nil {
		return fmt.Errorf("let 127.0.0.1 reach published ports: %w", err)
	}
	return nil
}
