package client

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// networkChanges tells of changed addresses and routes as the kernel does (rtnetlink(7)), until ctx ends. Nil when it cannot:
// what is polled finds them, too, only later.
func networkChanges(ctx context.Context) <-chan struct{} {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	groups := uint32(unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil
	}
	file := os.NewFile(uintptr(fd), "netlink")
	context.AfterFunc(ctx, func() { file.Close() })
	changes := make(chan struct{}, 1)
	go func() {
		b := make([]byte, 64<<10)
		for {
			// What changed does not matter; that messages were lost means that something did.
			if _, err := file.Read(b); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes
}
