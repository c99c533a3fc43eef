//go:build linux

package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Kinds of sockets, as the door gets them.
const (
	KindTCP   = "tproxy-tcp"   // a listener for the flows of one family
	KindUDP   = "tproxy-udp"   // a socket that gets the first datagrams of the flows of one family
	KindICMP  = "tproxy-icmp"  // a raw socket that says what is unreachable, one of each family
	KindLog   = "tproxy-log"   // an NFLOG socket that hears of dropped packets
	KindQueue = "tproxy-queue" // an NFQUEUE socket with the SYNs that are held; not every kernel has it
	KindWatch = "tproxy-watch" // a socket that hears when somebody changes the rules
	KindDNS   = "dns-udp"      // the resolver's sockets on the gateway's addresses
	KindDNS2  = "dns-tcp"
	KindPool  = "tproxy-pool" // where more sockets for UDP flows come from (package sandbox)
)

// MaxPool is how many sockets one request to the pool gets at most.
const MaxPool = 32

// Socket is one descriptor of the sandbox's namespace. It is non-blocking and close-on-exec, and the caller's.
type Socket struct {
	Kind  string
	FD    int
	Queue uint16 // the number of a KindQueue that [Host] has opened
}

// Open sets the namespace of the calling thread up and returns the sockets that the door needs. It needs CAP_NET_ADMIN
// and CAP_NET_RAW over the namespace, and may be called once in it. On error nothing stays open.
func (c Inside) Open() (list []Socket, err error) {
	defer func() {
		if err != nil {
			for _, s := range list {
				unix.Close(s.FD)
			}
			list = nil
		}
	}()
	if err := c.route(); err != nil {
		return nil, err
	}
	for _, f := range c.families() {
		for _, s := range []struct {
			kind string
			open func() (int, error)
		}{
			{KindTCP, func() (int, error) { return listenTCP(netip.AddrPortFrom(f.gateway, c.Port)) }},
			{KindUDP, func() (int, error) { return listenUDP(netip.AddrPortFrom(f.gateway, c.Port), true) }},
			{KindDNS, func() (int, error) { return listenUDP(netip.AddrPortFrom(f.gateway, dnsPort), false) }},
			{KindDNS2, func() (int, error) { return listenTCP(netip.AddrPortFrom(f.gateway, dnsPort)) }},
			{KindICMP, func() (int, error) { return rawICMP(f.own) }},
		} {
			fd, err := s.open()
			if err != nil {
				return list, fmt.Errorf("open %s socket at %s: %w", s.kind, f.gateway, err)
			}
			list = append(list, Socket{Kind: s.kind, FD: fd})
		}
	}
	fd, err := c.listenLog()
	if err != nil {
		return list, fmt.Errorf("listen for dropped packets: %w", err)
	}
	list = append(list, Socket{Kind: KindLog, FD: fd})
	if err := c.install(); err != nil {
		return list, err
	}
	if c.Hold {
		if list, err = c.openQueue(list); err != nil {
			return list, err
		}
	}
	if fd, err = watchRules(); err != nil {
		return list, fmt.Errorf("watch the rules: %w", err)
	}
	return append(list, Socket{Kind: KindWatch, FD: fd}), nil
}

// watchRules joins the group that is told of every change of the namespace's rules. Ours are all there by now: whatever comes
// is somebody else's doing. Joining needs CAP_NET_ADMIN, listening nothing.
func watchRules() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openQueue adds the queue of held SYNs, where the kernel can hold them.
func (c Inside) openQueue(list []Socket) ([]Socket, error) {
	fd, err := c.listenQueue()
	if err != nil {
		return list, nil // no NFQUEUE in this kernel
	}
	held, err := c.hold()
	if err != nil || !held {
		unix.Close(fd)
		return list, err
	}
	return append(list, Socket{Kind: KindQueue, FD: fd}), nil
}

func socketAt(at netip.AddrPort, kind, protocol int) (int, unix.Sockaddr, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	return fd, sa, err
}

// options sets integer options and binds.
func options(fd int, sa unix.Sockaddr, list ...[3]int) error {
	for _, o := range list {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return fmt.Errorf("set option %d: %w", o[1], err)
		}
	}
	if sa == nil {
		return nil
	}
	return unix.Bind(fd, sa)
}

// transparent lets a socket have an address that no link has. Setting it needs CAP_NET_ADMIN or CAP_NET_RAW.
func transparent(ipv6 bool) [3]int {
	if ipv6 {
		return [3]int{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}
	}
	return [3]int{unix.SOL_IP, unix.IP_TRANSPARENT, 1}
}

func listenTCP(at netip.AddrPort) (int, error) {
	fd, sa, err := socketAt(at, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err = options(fd, sa, [3]int{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		[3]int{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}, // an urgent octet stays where it is in the stream, for those who judge and for the server
		transparent(at.Addr().Is6())); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// UDPBuffer is what the sockets for first datagrams may queue, in octets.
const UDPBuffer = 4 << 20

// listenUDP binds a datagram socket; origin has it say with each datagram where that was sent to.
func listenUDP(at netip.AddrPort, origin bool) (int, error) {
	fd, sa, err := socketAt(at, unix.SOCK_DGRAM, 0)
	if err != nil {
		return -1, err
	}
	list := [][3]int{transparent(at.Addr().Is6())}
	if origin {
		list = append(list, [3]int{unix.SOL_SOCKET, unix.SO_RCVBUF, UDPBuffer})
		if at.Addr().Is4() {
			list = append(list, [3]int{unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1})
		} else {
			list = append(list, [3]int{unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1})
		}
	}
	if err := options(fd, sa, list...); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// rawICMP sends ICMP messages with an IP header of its own (IPv4) or of any local source (IPv6), and receives nothing.
func rawICMP(own netip.Addr) (int, error) {
	protocol := unix.IPPROTO_RAW // sends only, with the header included, in both families
	fd, _, err := socketAt(netip.AddrPortFrom(own, 0), unix.SOCK_RAW, protocol)
	return fd, err
}

// listenLog binds a socket to the NFLOG group.
func (c Inside) listenLog() (int, error) { return netfilterSocket(logBuffer, c.logConfig()) }

// logBuffer is what the log's socket may hold of drops that the data path has not counted yet, in octets.
const logBuffer = 2 << 20

// netfilterSocket opens a socket to the kernel's netfilter and has it confirm each message. What is bound to it stays with
// it, in whoever's hands. A kernel that does not give it the buffer leaves it with a small one: it loses sooner, and says so.
func netfilterSocket(buffer int, messages [][]byte) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil { // takes a capability over the host
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // up to net.core.rmem_max
	}
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		for _, m := range messages {
			if err = tell(fd, m); err != nil {
				break
			}
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Of linux/netfilter/nfnetlink_log.h.
const (
	nfulnlMsgConfig   = 1
	nfulaCfgCmd       = 1
	nfulaCfgMode      = 2
	nfulnlCfgCmdBind  = 1
	nfulnlCopyPacket  = 2
	nfnlSubsysULog    = 4
	nfulaCfgQThresh   = 5
	netlinkHeaderSize = 16
)

// logConfig are the messages that bind the group, and have each packet's first octets sent at once.
func (c Inside) logConfig() [][]byte {
	mode := binary.BigEndian.AppendUint32(nil, logBytes)
	mode = append(mode, nfulnlCopyPacket, 0)
	const kind = nfnlSubsysULog<<8 | nfulnlMsgConfig
	return [][]byte{
		message(kind, c.LogGroup, nfulaCfgCmd, []byte{nfulnlCfgCmdBind}),
		message(kind, c.LogGroup, nfulaCfgMode, mode),
		message(kind, c.LogGroup, nfulaCfgQThresh, binary.BigEndian.AppendUint32(nil, 1)),
	}
}

// message is a netlink header, an nfgenmsg with the group or queue it is about, and one attribute.
func message(kind, about, attribute uint16, value []byte) []byte {
	order := binary.NativeEndian
	m := make([]byte, netlinkHeaderSize)
	m = append(m, unix.AF_UNSPEC, 0) // family, version
	m = binary.BigEndian.AppendUint16(m, about)
	m = order.AppendUint16(m, uint16(4+len(value)))
	m = order.AppendUint16(m, attribute)
	m = append(m, value...)
	for len(m)%4 != 0 {
		m = append(m, 0)
	}
	order.PutUint32(m[0:], uint32(len(m)))
	order.PutUint16(m[4:], kind)
	order.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	return m
}

// tell sends one message and waits for its acknowledgement.
func tell(fd int, m []byte) error {
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0) // the kernel has answered before Sendto returned
	if err != nil {
		return err
	}
	if n < netlinkHeaderSize+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("answer of %d octets", n)
	}
	if errno := int32(binary.NativeEndian.Uint32(b[netlinkHeaderSize:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

// FlowSocket opens a socket for the replies of one UDP flow; others may be bound to the same address. It needs no
// capability; SetTransparent does.
func FlowSocket(ipv6 bool) (int, error) {
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := options(fd, nil, [3]int{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// SetTransparent lets a flow's socket be bound to the address that the program sent to. It needs CAP_NET_ADMIN or
// CAP_NET_RAW over the network namespace that the socket is in; the owner of its user namespace has them.
func SetTransparent(fd int, ipv6 bool) error {
	return options(fd, nil, transparent(ipv6))
}
