//go:build linux

package tests

import (
	"fmt"
	"net"
	"os"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// spoof is a program of its own (main_test.go): it puts frames on the link that no honest program sends. With root inside
// nothing keeps it from that. Each comes from somebody else, claims to be something else, or goes where nothing may.
func spoof(link string) int {
	nic, err := net.InterfaceByName(link)
	if err != nil {
		fmt.Println("spoof:", err)
		return 1
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		fmt.Println("spoof:", err)
		return 1
	}
	gateway := net.HardwareAddr{0x02, 0x77, 0x65, 0x69, 0x72, 0x01}
	for i, f := range forgedFrames(nic.HardwareAddr, gateway) {
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, f...); err != nil {
			fmt.Println("spoof: frame", i, err)
			return 1
		}
		if err := unix.Sendto(fd, b.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: nic.Index}); err != nil {
			fmt.Println("spoof: frame", i, err)
			return 1
		}
	}
	return 0
}

func forgedFrames(own, gateway net.HardwareAddr) (frames [][]gopacket.SerializableLayer) {
	ether := func(src net.HardwareAddr, kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: src, DstMAC: gateway, EthernetType: kind}
	}
	ip := func(src, dst string, proto layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4(), Protocol: proto}
	}
	syn := func(over gopacket.NetworkLayer, port layers.TCPPort) *layers.TCP {
		s := &layers.TCP{SrcPort: 40000, DstPort: port, SYN: true, Seq: 1, Window: 65535}
		s.SetNetworkLayerForChecksum(over)
		return s
	}
	const guest, good, bad = "10.77.0.2", "198.51.100.20", "203.0.113.66"
	for _, src := range []string{"10.77.0.1", "10.77.0.3", "192.0.2.2", "127.0.0.1", good, "0.0.0.0", "255.255.255.255"} {
		over := ip(src, good, layers.IPProtocolTCP)
		frames = append(frames, []gopacket.SerializableLayer{ether(own, layers.EthernetTypeIPv4), over, syn(over, 7)})
	}
	over6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: net.ParseIP("2001:db8::2"), DstIP: net.ParseIP("2001:db8:1::20")}
	honest, denied := ip(guest, good, layers.IPProtocolTCP), ip(guest, bad, layers.IPProtocolTCP)
	inner := ip(guest, bad, layers.IPProtocolTCP)
	return append(frames,
		[]gopacket.SerializableLayer{ether(own, layers.EthernetTypeIPv6), over6, syn(over6, 7)},
		// Another MAC, and the gateway's own.
		[]gopacket.SerializableLayer{ether(net.HardwareAddr{2, 0, 0, 0, 0, 1}, layers.EthernetTypeIPv4), denied, syn(denied, 80)},
		[]gopacket.SerializableLayer{ether(gateway, layers.EthernetTypeIPv4), honest, syn(honest, 80)},
		// Wrapped: in a VLAN, in IP, in GRE.
		[]gopacket.SerializableLayer{ether(own, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}, denied, syn(denied, 80)},
		[]gopacket.SerializableLayer{ether(own, layers.EthernetTypeIPv4), ip(guest, bad, layers.IPProtocolIPv4), inner, syn(inner, 80)},
		[]gopacket.SerializableLayer{ether(own, layers.EthernetTypeIPv4), ip(guest, bad, layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, inner, syn(inner, 80)},
		// Who has the gateway's address? I have.
		[]gopacket.SerializableLayer{ether(own, layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
			HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply, SourceHwAddress: own, SourceProtAddress: net.ParseIP("10.77.0.1").To4(),
			DstHwAddress: gateway, DstProtAddress: net.ParseIP("10.77.0.1").To4()}},
	)
}

// spoofMain is that program's main.
func spoofMain() int {
	if len(os.Args) != 2 {
		fmt.Println("usage: spoof LINK")
		return 2
	}
	return spoof(os.Args[1])
}
