//go:build linux

package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// peerBuffer is asked for as the receive buffer of the packet socket; the kernel gives what rmem_max allows.
const peerBuffer = 8 << 20

// makeVeth makes a veth pair with one end here and the other in a second network namespace, which only our AF_PACKET
// socket keeps alive: the same frames as from a TAP, without a device node. The user namespace owns both.
//
// The peer has no address and a MAC that no frame is sent to, so its kernel sees every frame as another host's and
// leaves it to the packet socket.
func makeVeth(spec Spec) (int, LinkInfo, error) {
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, LinkInfo{}, &SetupError{Step: StepVeth, Path: "/proc/thread-self/ns/net", Err: err}
	}
	defer unix.Close(here)
	var fd int
	onThreadOfItsOwn(func() { fd, err = makePeer(spec, here) })
	if err != nil {
		return -1, LinkInfo{}, &SetupError{Step: StepVeth, Err: err}
	}
	return fd, LinkInfo{Kind: "veth", VnetHdr: vnetHdrLen, TSO: true, MTU: spec.MTU}, nil
}

// makePeer moves the calling thread to a new network namespace and makes the pair from there; inside is the namespace
// of the sandbox.
func makePeer(spec Spec, inside int) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("unshare network: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	peer := netlink.NewVeth(netlink.LinkAttrs{Name: "peer0", MTU: spec.MTU, TxQLen: queueOffload, HardwareAddr: randomMAC()})
	peer.PeerName, peer.PeerMTU = linkName, uint32(spec.MTU)
	peer.PeerNamespace = netlink.NsFd(inside)
	if err := h.LinkAdd(peer); err != nil {
		return -1, fmt.Errorf("add veth pair: %w", err)
	}
	link, err := h.LinkByName("peer0")
	if err != nil {
		return -1, fmt.Errorf("find veth peer: %w", err)
	}
	if err := errors.Join(h.LinkSetARPOff(link), noLinkLocal(h, link)); err != nil {
		return -1, fmt.Errorf("silence veth peer: %w", err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return -1, fmt.Errorf("set veth peer up: %w", err)
	}
	return openPacketSocket(link.Attrs().Index)
}

// openPacketSocket binds to one interface, which is up: otherwise the first read would say that it is not. Until bound
// the socket has protocol 0 and receives nothing.
func openPacketSocket(index int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	for _, o := range []struct{ level, option, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1}, // not what we send ourselves
		{unix.SOL_SOCKET, unix.SO_RCVBUF, peerBuffer},
		{unix.SOL_SOCKET, unix.SO_SNDBUF, peerBuffer},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("set packet socket option %d: %w", o.option, err)
		}
	}
	all := uint16(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind packet socket: %w", err)
	}
	return fd, nil
}

// randomMAC is locally administered and unicast.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac
}
