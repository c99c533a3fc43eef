package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var mac = net.HardwareAddr{2, 0x77, 0x65, 0x69, 0x72, 2}

func be16(v ...uint16) []byte {
	var b []byte
	for _, x := range v {
		b = binary.BigEndian.AppendUint16(b, x)
	}
	return b
}

// etherType of an IP packet, by its version.
func etherType(ip []byte) uint16 {
	if ip[0]>>4 == 4 {
		return etherIPv4
	}
	return etherIPv6
}

func ether(kind uint16, body []byte) []byte {
	return bytes.Join([][]byte{mac, mac, be16(kind), body}, nil)
}

// TestLinkTypes reads the same two connections under every link layer.
func TestLinkTypes(t *testing.T) {
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	snap := func(ip []byte) []byte { return join([]byte{0xaa, 0xaa, 3, 0, 0, 0}, be16(etherType(ip)), ip) }
	ppp := func(ip []byte) []byte {
		if ip[0]>>4 == 4 {
			return join(be16(0x21), ip)
		}
		return join(be16(0x57), ip)
	}
	family := func(ip []byte, v6 byte) byte {
		if ip[0]>>4 == 4 {
			return 2
		}
		return v6
	}
	dot11 := func(head []byte, ip []byte) []byte { return join(head, make([]byte, 24-len(head)), snap(ip)) }
	tests := []struct {
		name string
		link uint16
		wrap func(ip []byte) []byte
	}{
		{"null, little endian", 0, func(ip []byte) []byte { return join([]byte{family(ip, 30), 0, 0, 0}, ip) }},
		{"null, converted file", 0, func(ip []byte) []byte { return join([]byte{0, 0, 0, family(ip, 24)}, ip) }},
		{"loop", 108, func(ip []byte) []byte { return join([]byte{0, 0, 0, family(ip, 28)}, ip) }},
		{"enc", 109, func(ip []byte) []byte { return join([]byte{family(ip, 24), 0, 0, 0}, make([]byte, 8), ip) }},
		{"raw", 101, func(ip []byte) []byte { return ip }},
		{"raw, BSD", 12, func(ip []byte) []byte { return ip }},
		{"raw, OpenBSD", 14, func(ip []byte) []byte { return ip }},
		{"raw IPv4", 228, func(ip []byte) []byte { return ip }},
		{"raw IPv6", 229, func(ip []byte) []byte { return ip }},
		{"ethernet", 1, func(ip []byte) []byte {
			e := &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetType(etherType(ip))}
			return serialize(e, gopacket.Payload(ip))
		}},
		{"ethernet, padded", 1, func(ip []byte) []byte { return ether(etherType(ip), join(ip, make([]byte, 18))) }},
		{"802.1Q", 1, func(ip []byte) []byte {
			e := &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeDot1Q}
			q := &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetType(etherType(ip))}
			return serialize(e, q, gopacket.Payload(ip))
		}},
		{"QinQ", 1, func(ip []byte) []byte {
			return ether(etherQinQ, join(be16(1, etherVLAN, 2, etherType(ip)), ip))
		}},
		{"802.3 with SNAP", 1, func(ip []byte) []byte { return ether(uint16(len(ip)+8), snap(ip)) }},
		{"802.2 with the address of IP", 1, func(ip []byte) []byte { return ether(uint16(len(ip)+3), join([]byte{6, 6, 3}, ip)) }},
		{"VN-Tag", 1, func(ip []byte) []byte { return ether(etherVNTag, join(be16(1, 2, etherType(ip)), ip)) }},
		{"PBB", 1, func(ip []byte) []byte { return ether(etherPBB, join(be16(1, 2), ether(etherType(ip), ip))) }},
		{"NSH", 1, func(ip []byte) []byte {
			return ether(etherNSH, join([]byte{0, 2, 2, 3, 0, 0, 1, 255}, ether(etherType(ip), ip)))
		}},
		{"NSH with IP", 1, func(ip []byte) []byte {
			return ether(etherNSH, join([]byte{0, 6, 1, 1, 0, 0, 1, 255}, make([]byte, 16), ip))
		}},
		{"MPLS", 1, func(ip []byte) []byte {
			return ether(etherMPLS, join([]byte{0, 1, 0, 64, 0, 1, 1, 64}, ip))
		}},
		{"MPLS pseudowire", 1, func(ip []byte) []byte {
			return ether(etherMPLS, join([]byte{0, 1, 1, 64, 0, 0, 0, 0}, ether(etherType(ip), ip)))
		}},
		{"PPPoE", 1, func(ip []byte) []byte {
			return ether(etherPPPoE, join([]byte{0x11, 0, 0, 9}, be16(uint16(len(ip)+2)), ppp(ip)))
		}},
		{"PPPoE link", 51, func(ip []byte) []byte { return join([]byte{0x11, 0, 0, 9}, be16(uint16(len(ip)+2)), ppp(ip)) }},
		{"PPP", 9, func(ip []byte) []byte { return ppp(ip) }},
		{"PPP with address and control", 9, func(ip []byte) []byte { return join([]byte{0xff, 3}, ppp(ip)) }},
		{"PPP with short protocol", 9, func(ip []byte) []byte { return ppp(ip)[1:] }},
		{"PPP HDLC, Cisco", 50, func(ip []byte) []byte { return join([]byte{0x0f, 0}, be16(etherType(ip)), ip) }},
		{"PPP with direction", 204, func(ip []byte) []byte { return join([]byte{1, 0xff, 3}, ppp(ip)) }},
		{"Cisco HDLC", 104, func(ip []byte) []byte { return join([]byte{0x0f, 0}, be16(etherType(ip)), ip) }},
		{"RFC 1483", 100, snap},
		{"cooked", 113, func(ip []byte) []byte { return join(be16(4, 1, 6), make([]byte, 8), be16(etherType(ip)), ip) }},
		{"cooked with VLAN", 113, func(ip []byte) []byte {
			return join(be16(4, 1, 6), make([]byte, 8), be16(etherVLAN, 7, etherType(ip)), ip)
		}},
		{"cooked with 802.2", 113, func(ip []byte) []byte { return join(be16(4, 1, 6), make([]byte, 8), be16(4), snap(ip)) }},
		{"cooked GRE device", 113, func(ip []byte) []byte { return join(be16(4, 778, 0), make([]byte, 8), be16(etherType(ip)), ip) }},
		{"cooked radiotap", 113, func(ip []byte) []byte {
			return join(be16(4, 803, 6), make([]byte, 8), be16(0), []byte{0, 0, 8, 0, 0, 0, 0, 0}, dot11([]byte{0x08, 2}, ip))
		}},
		{"cooked 2", 276, func(ip []byte) []byte { return join(be16(etherType(ip), 0, 0, 1, 1), make([]byte, 10), ip) }},
		{"NFLOG", 239, func(ip []byte) []byte {
			return join([]byte{2, 0, 0, 0}, []byte{5, 0, 10, 0, 'x', 0, 0, 0},
				binary.LittleEndian.AppendUint16(nil, uint16(len(ip)+4)), []byte{9, 0}, ip)
		}},
		{"802.11", 105, func(ip []byte) []byte { return dot11([]byte{0x08, 1}, ip) }},
		{"802.11 QoS with four addresses", 105, func(ip []byte) []byte {
			return join([]byte{0x88, 3}, make([]byte, 22+6+2), snap(ip))
		}},
		{"802.11 aggregate", 105, func(ip []byte) []byte {
			return join([]byte{0x88, 1}, make([]byte, 22), []byte{0x80, 0}, mac, mac, be16(uint16(len(ip)+8)), snap(ip))
		}},
		{"radiotap", 127, func(ip []byte) []byte { return join([]byte{0, 0, 10, 0}, make([]byte, 6), dot11([]byte{0x08, 2}, ip)) }},
		{"prism", 119, func(ip []byte) []byte {
			return join([]byte{0x44, 0, 0, 0, 144, 0, 0, 0}, make([]byte, 136), dot11([]byte{0x08, 2}, ip))
		}},
		{"AVS", 163, func(ip []byte) []byte {
			return join([]byte{0x80, 0x21, 0x10, 0x01, 0, 0, 0, 64}, make([]byte, 56), dot11([]byte{0x08, 2}, ip))
		}},
	}
	packets := append(talk(client, server, httpHead), talk(client6, server6, httpHead)...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var frames [][]byte
			for _, p := range packets {
				frames = append(frames, tt.wrap(p))
			}
			wantLines(t, read(t, pcapOf(tt.link, frames...)),
				"tcp 10.77.0.2:40000 > 192.0.2.1:443 http-host api.example",
				"tcp [2001:db8::2]:40000 > [2001:db8::1]:443 http-host api.example")
		})
	}
}

func TestUnsupportedLinkType(t *testing.T) {
	var l lines
	_, err := Read(bytes.NewReader(pcapOf(189, []byte{1, 2, 3})), &l)
	if want := "decode frames: link type 189 is not supported"; fmt.Sprint(err) != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

// TestShortFrames cuts frames at every octet: nothing may be made up, nothing may panic.
func TestShortFrames(t *testing.T) {
	ip := tcpPacket(client, server, 1, 1, "A", httpHead)
	frame := ether(etherVLAN, append(be16(7, etherType(ip)), ip...))
	for n := range frame {
		for _, line := range read(t, pcapOf(1, frame[:n])) {
			if line != "tcp 10.77.0.2:40000 > 192.0.2.1:443 none" {
				t.Fatalf("cut at %d: %s", n, line)
			}
		}
	}
}
