package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Docker drops every forwarded packet that its own rules do not accept, and
// our accepting it in a table of our own does not help: in netfilter a packet
// must pass all. The chain DOCKER-USER is Docker's place for what others want
// accepted, and two rules of ours go to its head. What containers of ours may
// not receive is still dropped by our own forward chain.
//
// Docker may start after us, so watchFirewall waits for the kernel to say that
// the chain was made. Docker on legacy iptables gives no such event; that is
// looked at when a namespace was taken, at most every legacyEvery.
const (
	dockerChain = "DOCKER-USER"
	legacyEvery = 10 * time.Second
)

func dockerRules() (*nftables.Table, *nftables.Chain) {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	return table, &nftables.Chain{Table: table, Name: dockerChain}
}

// acceptRules are rules as iptables writes and reads them:
// -i BRIDGE -j ACCEPT and -o BRIDGE -j ACCEPT.
func acceptRules(bridge string) []*nftables.Rule {
	table, chain := dockerRules()
	var rules []*nftables.Rule
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		rules = append(rules, &nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: key, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(bridge), 0)},
			&expr.Counter{},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}})
	}
	return rules
}

// isRule tells whether has does what want does, whatever it has counted.
func isRule(has, want *nftables.Rule) bool {
	if len(has.Exprs) != len(want.Exprs) {
		return false
	}
	meta, ok1 := has.Exprs[0].(*expr.Meta)
	cmp, ok2 := has.Exprs[1].(*expr.Cmp)
	verdict, ok3 := has.Exprs[len(has.Exprs)-1].(*expr.Verdict)
	return ok1 && ok2 && ok3 &&
		meta.Key == want.Exprs[0].(*expr.Meta).Key &&
		cmp.Op == expr.CmpOpEq && bytes.Equal(cmp.Data, want.Exprs[1].(*expr.Cmp).Data) &&
		verdict.Kind == expr.VerdictAccept
}

// admit puts the accepts into DOCKER-USER where that exists and lacks them.
func admit(bridge string) error {
	return withDocker(func(conn *nftables.Conn, rules []*nftables.Rule) error {
		for _, want := range acceptRules(bridge) {
			if !slices.ContainsFunc(rules, func(has *nftables.Rule) bool { return isRule(has, want) }) {
				conn.InsertRule(want)
			}
		}
		return nil
	})
}

// dismiss takes the accepts out of DOCKER-USER.
func dismiss(bridge string) error {
	return withDocker(func(conn *nftables.Conn, rules []*nftables.Rule) error {
		for _, ours := range acceptRules(bridge) {
			for _, has := range rules {
				if !isRule(has, ours) {
					continue
				}
				if err := conn.DelRule(has); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// withDocker makes the changes of fn, given the rules that DOCKER-USER has, in
// one transaction. Without such a chain nothing happens.
func withDocker(fn func(conn *nftables.Conn, rules []*nftables.Rule) error) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer conn.CloseLasting()
	rules, err := conn.GetRules(dockerRules())
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("list rules of %s: %w", dockerChain, err)
	}
	if err := fn(conn, rules); err != nil {
		return fmt.Errorf("change rules of %s: %w", dockerChain, err)
	}
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("change rules of %s: %w", dockerChain, err)
	}
	return nil
}

// admitDocker is for Docker on nftables, which is what iptables has meant
// since 2019.
func (n *Network) admitDocker() {
	if err := admit(n.bridge); err != nil {
		n.log.Warn("cannot have Docker's firewall accept packets of containers", "bridge", n.bridge, "err", err)
	}
}

// admitLegacy is for Docker on iptables-legacy, whose rules only that program
// can change.
func (n *Network) admitLegacy(ctx context.Context) {
	if time.Since(n.legacySeen) < legacyEvery {
		return
	}
	n.legacySeen = time.Now()
	if !legacyInUse() {
		return
	}
	for _, dir := range []string{"-i", "-o"} {
		rule := []string{dockerChain, dir, n.bridge, "-j", "ACCEPT"}
		if legacy(ctx, "-C", rule...) != nil && legacy(ctx, "-S", dockerChain) == nil {
			if err := legacy(ctx, "-I", rule...); err != nil {
				n.log.Warn("cannot have Docker's firewall accept packets of containers", "bridge", n.bridge, "err", err)
			}
		}
	}
}

func dismissLegacy(ctx context.Context, bridge string) error {
	if !legacyInUse() {
		return nil
	}
	for _, dir := range []string{"-i", "-o"} {
		rule := []string{dockerChain, dir, bridge, "-j", "ACCEPT"}
		if legacy(ctx, "-C", rule...) != nil {
			continue
		}
		if err := legacy(ctx, "-D", rule...); err != nil {
			return fmt.Errorf("change rules of %s: %w", dockerChain, err)
		}
	}
	return nil
}

// legacyInUse tells whether the kernel has legacy filter rules at all.
func legacyInUse() bool {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(names)), "filter")
}

func legacy(ctx context.Context, verb string, args ...string) error {
	name, err := exec.LookPath("iptables-legacy")
	if err != nil {
		name = "iptables"
	}
	ctx, cancel := context.WithTimeout(ctx, legacyEvery)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, append([]string{"-w", "5", verb}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, verb, err, bytes.TrimSpace(out))
	}
	return nil
}
