//go:build linux

package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bounds of what is read inside a namespace, whose owner may have filled it with links and addresses.
const (
	maxAddresses    = 64
	maxAddressDumps = 64 // messages of the kernel, 32 KiB each
	insidePatience  = 2  // seconds without an answer of the kernel
)

// end is a link inside a namespace.
type end struct {
	name      string
	parent    int // index of the link at its other end
	mac       net.HardwareAddr
	addresses []netip.Addr
	cookie    uint64
}

// enter runs do on a thread that is in the namespace. A thread that cannot come back ends.
func (f *Finder) enter(ns *os.File, do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("enter namespace: %w", err)
			return
		}
		err := do()
		if unix.Setns(int(f.home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// socketIn returns a netlink socket in the namespace, and the namespace's cookie.
func (f *Finder) socketIn(ns *os.File) (fd int, cookie uint64, err error) {
	err = f.enter(ns, func() error {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open netlink socket in namespace: %w", err)
		}
		if cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
			unix.Close(fd)
			return fmt.Errorf("read cookie of namespace (Linux 5.14): %w", err)
		}
		return nil
	})
	return fd, cookie, err
}

// lookInside reads the link with the index in the namespace; [ErrGone] if there is none.
func (f *Finder) lookInside(ns *os.File, index int) (end, error) {
	fd, cookie, err := f.socketIn(ns)
	if err != nil {
		return end{}, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: insidePatience}); err != nil {
		return end{}, fmt.Errorf("set time limit: %w", err)
	}
	// With strict checking the kernel sends the addresses of the one link that is asked for (Linux 4.20).
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return end{}, fmt.Errorf("set strict checking: %w", err)
	}
	e, err := linkIn(fd, index)
	if err != nil {
		return end{}, err
	}
	e.cookie = cookie
	e.addresses, err = addressesIn(fd, index)
	return e, err
}

func linkIn(fd, index int) (e end, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	found := false
	err = exchange(fd, req, func(m syscall.NetlinkMessage) (more bool, err error) {
		link, err := netlink.LinkDeserialize(nil, m.Data)
		if err != nil {
			return false, err
		}
		a := link.Attrs()
		e, found = end{name: a.Name, parent: a.ParentIndex, mac: a.HardwareAddr}, link.Type() == "veth"
		return false, nil
	})
	switch {
	case errors.Is(err, unix.ENODEV) || err == nil && !found:
		return end{}, fmt.Errorf("look at link %d in namespace: %w", index, ErrGone)
	case err != nil:
		return end{}, fmt.Errorf("look at link %d in namespace: %w", index, err)
	}
	return e, nil
}

func addressesIn(fd, index int) (list []netip.Addr, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	msg.Index = uint32(index)
	req.AddData(msg)
	err = exchange(fd, req, func(m syscall.NetlinkMessage) (more bool, err error) {
		if a, ok := addressOf(m.Data, index); ok {
			list = append(list, a)
		}
		return len(list) < maxAddresses, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses of link %d in namespace: %w", index, err)
	}
	return list, nil
}

// addressOf reads an address message (rtnetlink(7), RTM_NEWADDR) about the link.
func addressOf(b []byte, index int) (a netip.Addr, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg || int(binary.NativeEndian.Uint32(b[4:])) != index {
		return netip.Addr{}, false
	}
	attributes, err := nl.ParseRouteAttr(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return netip.Addr{}, false
	}
	for _, attr := range attributes {
		// IFA_LOCAL is the link's own address, which IFA_ADDRESS is not on point-to-point links; IPv6 has the latter only.
		if attr.Attr.Type == unix.IFA_LOCAL || attr.Attr.Type == unix.IFA_ADDRESS && !ok {
			a, ok = netip.AddrFromSlice(attr.Value)
		}
	}
	return a, ok && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast()
}

// exchange sends the request and has each message of the answer visited, until visit wants no more.
func exchange(fd int, req *nl.NetlinkRequest, visit func(syscall.NetlinkMessage) (more bool, err error)) error {
	if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to kernel: %w", err)
	}
	buf := make([]byte, 32<<10)
	for range maxAddressDumps {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("receive from kernel: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("read answer of kernel: %w", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return fmt.Errorf("read answer of kernel: %w", unix.EBADMSG)
				}
				if e := -int32(binary.NativeEndian.Uint32(m.Data)); e != 0 {
					return syscall.Errno(e)
				}
				return nil
			}
			if more, err := visit(m); err != nil || !more {
				return err
			}
		}
	}
	return ErrTooMany
}
