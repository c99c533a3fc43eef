//go:build linux

package gauntlet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire is the attacker's own hand on the link: it makes every octet of a frame itself, which takes CAP_NET_RAW.
type wire struct {
	fd           int
	link         netlink.Link
	index        int
	mac, gateway net.HardwareAddr
	addr4, addr6 netip.Addr
	loopback     bool // there is no other link
}

// openWire finds the link that packets go out by, and who is at its other end.
func openWire() (*wire, error) {
	l, err := uplinkInside()
	if err != nil {
		return nil, err
	}
	w := &wire{link: l, index: l.Attrs().Index, mac: l.Attrs().HardwareAddr}
	if err := w.learn(l); err != nil {
		return nil, err
	}
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(everyType)); err != nil {
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	return w, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: everyType, Ifindex: w.index})
}

// uplinkInside is the link that a route leads out by; where that is lo, another one that is up, if there is any: not all
// protocols need have the same.
func uplinkInside() (netlink.Link, error) {
	routes, err := netlink.RouteGet(Shop.AsSlice())
	if err != nil || len(routes) == 0 {
		return nil, fmt.Errorf("no route: %w", err)
	}
	l, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || l.Attrs().Flags&net.FlagLoopback == 0 {
		return l, err
	}
	list, err := netlink.LinkList()
	for _, other := range list {
		if other.Attrs().Flags&(net.FlagLoopback|net.FlagUp) == net.FlagUp {
			return other, nil
		}
	}
	return l, err
}

// learn reads the link's addresses and the gateway's hardware address. Behind lo every address is its own.
func (w *wire) learn(l netlink.Link) error {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		switch ip = ip.Unmap(); {
		case ip.IsLoopback():
		case ip.Is4() && !w.addr4.IsValid():
			w.addr4 = ip
		case ip.Is6() && ip.IsGlobalUnicast() && !w.addr6.IsValid():
			w.addr6 = ip
		}
	}
	if l.Attrs().Flags&net.FlagLoopback != 0 {
		w.loopback, w.mac, w.gateway = true, make(net.HardwareAddr, 6), make(net.HardwareAddr, 6)
		return nil
	}
	if c, err := dial("tcp", at(Shop, 7)); err == nil { // so that the kernel has asked for the gateway
		c.Close()
	}
	neighbours, err := netlink.NeighList(w.index, netlink.FAMILY_V4)
	for _, n := range neighbours {
		if len(n.HardwareAddr) == 6 {
			w.gateway = n.HardwareAddr
			return nil
		}
	}
	return fmt.Errorf("no gateway: %w", err)
}

func (w *wire) close() { unix.Close(w.fd) }

// frame sends one frame to the gateway.
func (w *wire) frame(etherType uint16, payload []byte) error {
	return w.frameTo(w.gateway, w.mac, etherType, payload)
}

func (w *wire) frameTo(to, from net.HardwareAddr, etherType uint16, payload []byte) error {
	b := append(append([]byte{}, to...), from...)
	b = append(binary.BigEndian.AppendUint16(b, etherType), payload...)
	return unix.Sendto(w.fd, b, 0, &unix.SockaddrLinklayer{Protocol: everyType, Ifindex: w.index, Halen: 6})
}

// packet sends one IP packet.
func (w *wire) packet(b []byte) error {
	if b[0]>>4 == 6 {
		return w.frame(unix.ETH_P_IPV6, b)
	}
	return w.frame(unix.ETH_P_IP, b)
}

// ip4 is an IPv4 packet. options are padded by the caller; fragment is the field with flags and offset.
type ip4 struct {
	src, dst netip.Addr
	protocol byte
	options  []byte
	fragment uint16
	id       uint16
	payload  []byte
}

func (p ip4) bytes() []byte {
	hlen := 20 + len(p.options)
	b := make([]byte, hlen, hlen+len(p.payload))
	b[0] = 0x40 | byte(hlen/4)
	binary.BigEndian.PutUint16(b[2:], uint16(hlen+len(p.payload)))
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], p.fragment)
	b[8], b[9] = 64, p.protocol
	copy(b[12:], p.src.AsSlice())
	copy(b[16:], p.dst.AsSlice())
	copy(b[20:], p.options)
	binary.BigEndian.PutUint16(b[10:], ^sum(b, 0))
	return append(b, p.payload...)
}

// ip6 is an IPv6 packet; next is the first header of payload. A hop limit of 0 is 64.
type ip6 struct {
	src, dst netip.Addr
	next     byte
	hops     byte
	payload  []byte
}

func (p ip6) bytes() []byte {
	b := make([]byte, 40, 40+len(p.payload))
	b[0], b[6], b[7] = 0x60, p.next, p.hops
	if p.hops == 0 {
		b[7] = 64
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.payload)))
	copy(b[8:], p.src.AsSlice())
	copy(b[24:], p.dst.AsSlice())
	return append(b, p.payload...)
}

// udpSegment is a datagram with its checksum.
func udpSegment(src, dst netip.Addr, port uint16, text string) []byte {
	b := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(text)))
	b = append(b, text...)
	checksum(b[6:], b, src, dst, unix.IPPROTO_UDP)
	return b
}

// icmp6 is an ICMPv6 message with its checksum.
func icmp6(src, dst netip.Addr, message []byte) []byte {
	b := append([]byte{}, message...)
	checksum(b[2:], b, src, dst, unix.IPPROTO_ICMPV6)
	return b
}

// checksum puts the sum over b and the pseudo-header into at, which was zero.
func checksum(at, b []byte, src, dst netip.Addr, protocol byte) {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = append(pseudo, 0, protocol, byte(len(b)>>8), byte(len(b)))
	binary.BigEndian.PutUint16(at, ^sum(b, sum(pseudo, 0)))
}

// sum is the internet checksum (RFC 1071) before it is inverted.
func sum(b []byte, start uint16) uint16 {
	n := uint32(start)
	for i := 0; i+1 < len(b); i += 2 {
		n += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		n += uint32(b[len(b)-1]) << 8
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}

// udp4 and udp6 are datagrams from the attacker's own address.
func (w *wire) udp4(dst netip.Addr, text string) ip4 {
	return ip4{src: w.addr4, dst: dst, protocol: unix.IPPROTO_UDP, payload: udpSegment(w.addr4, dst, 7, text)}
}

func (w *wire) udp6(dst netip.Addr, text string) ip6 {
	return ip6{src: w.addr6, dst: dst, next: unix.IPPROTO_UDP, payload: udpSegment(w.addr6, dst, 7, text)}
}

// converse says the text to the shop in a frame of its own, and waits for the frame that brings it back: what was sent before
// has been looked at by then.
func (w *wire) converse(text string) error {
	unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	b := make([]byte, 70_000)
	quiet := true // nothing is on its way: a flood may have filled the queue of the link, and it was lost
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if quiet {
			if err := w.packet(w.udp4(Shop, text).bytes()); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		quiet = err != nil
		if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING && n > 30 && bytes.Equal(b[26:30], Shop.AsSlice()) && bytes.Contains(b[:n], []byte(text)) {
			return nil
		}
	}
	return errors.New("no answer to an honest frame")
}
