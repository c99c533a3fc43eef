//go:build linux

package rules

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// listRulings lists the chains of the door and the handles of their rules, in their order: the kernel gives a rule that is added
// or replaced a handle that there was not. What the rules say is not read, as the library cannot read all of it.
func (h *Host) listRulings() (list []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", told(err))
	}
	for _, c := range chains {
		if c.Table.Name != TableName(h.cfg.Link) {
			continue
		}
		policy := nftables.ChainPolicyAccept
		if c.Policy != nil {
			policy = *c.Policy
		}
		list = append(list, fmt.Sprint(tableFamily(c.Table.Family), " chain ", c.Name, " ", policy))
	}
	slices.Sort(list) // the kernel lists them in no order
	for _, t := range h.tables() {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(t.Family)})
		req.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)))
		messages, err := req.Execute(unix.NETLINK_NETFILTER, 0)
		if err != nil {
			return nil, fmt.Errorf("list nftables rules: %w", told(err))
		}
		for _, m := range messages {
			attributes, err := nl.ParseRouteAttr(m[min(len(m), nl.SizeofNfgenmsg):])
			if err != nil {
				return nil, fmt.Errorf("list nftables rules: %w", err)
			}
			for _, a := range attributes {
				if a.Attr.Type == unix.NFTA_RULE_HANDLE {
					list = append(list, fmt.Sprintf("%s rule %x", tableFamily(t.Family), a.Value))
				}
			}
		}
	}
	return list, nil
}

// nftablesGroup is NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h: every change of a ruleset is told there.
const nftablesGroup = 7

// Changes tells that somebody, weir itself included, has changed an nftables ruleset of this network namespace. Several
// changes may be told as one. Close the file to end it; the channel is closed then.
func Changes() (<-chan struct{}, *os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, nil, fmt.Errorf("watch nftables: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (nftablesGroup - 1)}); err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("watch nftables: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nftables changes")
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		b := make([]byte, 64<<10)
		for {
			if _, err := f.Read(b); err != nil && !errors.Is(err, unix.ENOBUFS) { // with that error some were lost
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, f, nil
}
