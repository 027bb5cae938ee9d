package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchFirewall puts back what others take away, until ctx ends: the accepts
// whenever DOCKER-USER is made or loses a rule, and our own table when someone
// flushes all rules, as reloading a firewall's configuration often does.
func (n *Network) watchFirewall(ctx context.Context) error {
	const nftablesGroup = 7 // NFNLGRP_NFTABLES
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (nftablesGroup - 1)})
	if err != nil {
		return fmt.Errorf("watch firewall: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n.admitDocker() // both for what happened between Open and the watch
	n.restoreTable()
	for {
		docker, table, err := n.nextFirewallEvent(conn)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch firewall: %w", err)
		}
		if docker {
			n.admitDocker()
		}
		if table {
			n.log.Info("restoring the firewall rules of containers", "table", n.nat.table.Name)
			n.restoreTable()
		}
	}
}

// nextFirewallEvent waits for changes and says whether DOCKER-USER, and
// whether our own table, may need to be put right.
func (n *Network) nextFirewallEvent(conn *netlink.Conn) (docker, table bool, err error) {
	messages, err := conn.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return true, true, nil // some events are lost
	}
	if err != nil {
		return false, false, err
	}
	has := func(m netlink.Message, name string) bool { return bytes.Contains(m.Data, []byte(name+"\x00")) }
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWCHAIN, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE:
			docker = docker || has(m, dockerChain)
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE:
			table = table || has(m, n.nat.table.Name)
		}
	}
	return docker, table, nil
}

// restoreTable makes the table hold all that it should.
func (n *Network) restoreTable() {
	if err := errors.Join(n.nat.install(), n.recoverPorts(), n.restoreRedirects(), n.groups.replace()); err != nil {
		n.log.Warn("cannot restore the firewall rules of containers", "table", n.nat.table.Name, "err", err)
	}
}
