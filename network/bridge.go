package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func bridgeOf(name string) string { return "mf-" + name }

func tableOf(name string) string { return "mayfly-" + name }

// openBridge finds or makes the bridge and sets all that it needs.
func (n *Network) openBridge(want netip.Prefix) error {
	link, err := netlink.LinkByName(n.bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		link, err = addBridge(n.bridge)
	}
	if err != nil {
		return fmt.Errorf("open bridge %s: %w", n.bridge, err)
	}
	if link.Type() != "bridge" {
		return mayfly.Errorf(mayfly.Conflict, "%s is a link of type %s, not a bridge of Mayfly's", n.bridge, link.Type()).
			WithHint("remove it with: ip link delete %s", n.bridge)
	}
	n.index = int32(link.Attrs().Index)
	if err := n.addressBridge(link, want); err != nil {
		return err
	}
	n.next = n.gateway
	// A bridge takes the lowest address of its ports unless it has one of
	// its own, and then every container's neighbour entry would be wrong.
	// Setting it again would make the kernel forget the neighbours.
	if mac := macOf(n.gateway); !bytes.Equal(link.Attrs().HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set hardware address of %s: %w", n.bridge, err)
		}
	}
	if err := n.rtnl.run(n.noIPv6(n.index)...); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("raise bridge %s: %w", n.bridge, err)
	}
	return n.forward()
}

func addBridge(name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false // it would only cost: there is no multicast router here
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, mayfly.Errorf(mayfly.Denied, "make bridge %s: %w", name, err).WithHint("run as root")
		}
		return nil, err
	}
	return netlink.LinkByName(name)
}

// addressBridge settles subnet and gateway: those that the bridge has, else
// want, else the first free one.
func (n *Network) addressBridge(link netlink.Link, want netip.Prefix) error {
	has, err := addressOf(link)
	if err != nil {
		return err
	}
	if has.IsValid() {
		n.gateway, n.subnet = has.Addr(), has.Masked()
		if want.IsValid() && want.Masked() != n.subnet {
			return mayfly.Errorf(mayfly.Conflict, "bridge %s has the subnet %s, not %s", n.bridge, n.subnet, want.Masked()).
				WithHint("stop all containers and remove the bridge with: mayfly down")
		}
		return nil
	}
	if !want.IsValid() {
		if want, err = freeSubnet(); err != nil {
			return err
		}
		n.log.Info("chose a subnet for containers", "bridge", n.bridge, "subnet", want)
	}
	n.subnet = want.Masked()
	n.gateway = n.subnet.Addr().Next()
	addr, err := netlink.ParseAddr(netip.PrefixFrom(n.gateway, n.subnet.Bits()).String())
	if err != nil {
		return fmt.Errorf("address of bridge %s: %w", n.bridge, err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("set address of %s: %w", n.bridge, err)
	}
	return nil
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
