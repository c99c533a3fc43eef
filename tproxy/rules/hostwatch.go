//go:build linux

package rules

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

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
