package network

import (
	"context"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// dockerFirewall sets up what Docker does to FORWARD, with the iptables given.
func dockerFirewall(t *testing.T, iptables string) {
	t.Helper()
	for _, rule := range []string{
		"-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN",
	} {
		run(t, nil, append([]string{iptables, "-w"}, strings.Fields(rule)...)...)
	}
}

// undoFirewall leaves the chains as a machine without Docker has them.
func undoFirewall(t *testing.T, iptables string) {
	t.Cleanup(func() {
		run(t, nil, iptables, "-P", "FORWARD", "ACCEPT")
		run(t, nil, iptables, "-F")
		run(t, nil, iptables, "-X")
	})
}

func accepts(t *testing.T, iptables, bridge string) int {
	rules := run(t, nil, iptables, "-S", dockerChain)
	return strings.Count(rules, "-i "+bridge+" -j ACCEPT\n") + strings.Count(rules, "-o "+bridge+" -j ACCEPT\n")
}

func TestBesideDocker(t *testing.T) {
	for _, iptables := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(iptables, func(t *testing.T) {
			w := newWorld(t)
			dockerFirewall(t, iptables)
			undoFirewall(t, iptables)
			n := open(t, "docker", Options{})
			reachBothWays(t, n, w)
			if got := accepts(t, iptables, n.bridge); got != 2 {
				t.Errorf("%d rules of ours in %s", got, dockerChain)
			}
			again := open(t, "docker", Options{})
			if got := accepts(t, iptables, again.bridge); got != 2 {
				t.Errorf("%d rules of ours in %s after a second start", got, dockerChain)
			}
			if err := Destroy("docker"); err != nil {
				t.Fatal(err)
			}
			if rules := run(t, nil, iptables, "-S", dockerChain); strings.Contains(rules, n.bridge) || !strings.Contains(rules, "RETURN") {
				t.Errorf("rules after Destroy:\n%s", rules)
			}
		})
	}
}

// reachBothWays fails unless a container reaches the outside and is reached.
func reachBothWays(t *testing.T, n *Network, w *world) {
	t.Helper()
	a := attach(t, n, "a", mayfly.Port{Container: 7, Host: 9000})
	serve(t, a.NetNS, "tcp", ":7")
	serve(t, w.ns, "tcp", ":7")
	mustAsk(t, a.NetNS, "tcp", at(w.addr, 7), w.ours.String())
	mustAsk(t, w.ns, "tcp", at(w.ours, 9000), w.addr.String())
	mustAsk(t, a.NetNS, "tcp", at(w.ours, 9000), "")
}

func TestDockerStartsLater(t *testing.T) {
	w := newWorld(t)
	n := open(t, "later", Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	dockerFirewall(t, "iptables-nft")
	undoFirewall(t, "iptables-nft")
	awaitAccepts(t, n)
	reachBothWays(t, n, w)
	run(t, nil, "iptables-nft", "-F", dockerChain) // as a firewall that reloads
	awaitAccepts(t, n)
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func TestFirewallIsFlushed(t *testing.T) {
	w := newWorld(t)
	n := open(t, "flush", Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	reachBothWays(t, n, w)
	changes, stop := watch(t, unix.NETLINK_NETFILTER, 7) // NFNLGRP_NFTABLES
	defer stop()
	run(t, nil, "nft", "flush", "ruleset")
	for !strings.Contains(run(t, nil, "nft", "list", "ruleset"), ". 9000 : ") {
		if !changes() {
			t.Fatal("the port is not published again")
		}
	}
	mustAsk(t, w.ns, "tcp", at(w.ours, 9000), w.addr.String())
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// awaitAccepts returns when both accepts are in DOCKER-USER; the kernel tells
// of every change.
func awaitAccepts(t *testing.T, n *Network) {
	t.Helper()
	changes, stop := watch(t, unix.NETLINK_NETFILTER, 7) // NFNLGRP_NFTABLES
	defer stop()
	for accepts(t, "iptables-nft", n.bridge) != 2 {
		if !changes() {
			t.Fatalf("no accepts in %s", dockerChain)
		}
	}
}
