package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/miekg/dns"
)

// fragmentsOf cuts an IPv4 packet into fragments with at most size octets each.
func fragmentsOf(ip []byte, id uint16, size int) [][]byte {
	head, body := ip[:20], ip[20:]
	var list [][]byte
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		f := append(bytes.Clone(head), body[at:end]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], id)
		field := uint16(at / 8)
		if end < len(body) {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], field)
		list = append(list, f)
	}
	return list
}

// fragmentsOf6 does the same for IPv6, with a fragment header.
func fragmentsOf6(ip []byte, id uint32, size int) [][]byte {
	head, body := ip[:40], ip[40:]
	var list [][]byte
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		field := uint16(at)
		if end < len(body) {
			field |= 1
		}
		f := bytes.Clone(head)
		f[6] = protoFragment
		f = append(f, head[6], 0)
		f = binary.BigEndian.AppendUint16(f, field)
		f = binary.BigEndian.AppendUint32(f, id)
		f = append(f, body[at:end]...)
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		list = append(list, f)
	}
	return list
}

func TestFragments(t *testing.T) {
	hello := clientHello("api.example")
	v4 := talk(client, server, hello)
	v6 := talk(client6, server6, hello)
	v4 = slices.Replace(v4, 3, 4, fragmentsOf(v4[3], 7, 256)...)
	v6 = slices.Replace(v6, 3, 4, fragmentsOf6(v6[3], 7, 256)...)
	const line4 = "tcp 10.77.0.2:40000 > 192.0.2.1:443 sni api.example"
	const line6 = "tcp [2001:db8::2]:40000 > [2001:db8::1]:443 sni api.example"

	t.Run("in order", func(t *testing.T) { wantLines(t, read(t, rawIP(append(v4, v6...)...)), line4, line6) })
	t.Run("any order, some twice", func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			all := append(slices.Clone(v4), v6...)
			all = append(all, v4[4], v6[4])
			r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			wantLines(t, read(t, rawIP(all...)), line4, line6)
		}
	})
	t.Run("one missing", func(t *testing.T) {
		wantLines(t, read(t, rawIP(slices.Delete(slices.Clone(v4), 4, 5)...)), "tcp 10.77.0.2:40000 > 192.0.2.1:443 none")
	})
	t.Run("overlap", func(t *testing.T) {
		// A fragment that lies over two others: which of the octets a host takes is anyone's guess.
		forged := bytes.Clone(v4[4])
		field := binary.BigEndian.Uint16(forged[6:])
		binary.BigEndian.PutUint16(forged[6:], field+1)
		wantLines(t, read(t, rawIP(slices.Insert(slices.Clone(v4), 4, forged)...)), "tcp 10.77.0.2:40000 > 192.0.2.1:443 none")
	})
	t.Run("overlap, then all of it again", func(t *testing.T) {
		forged := bytes.Clone(v4[4])
		binary.BigEndian.PutUint16(forged[6:], binary.BigEndian.Uint16(forged[6:])+1)
		wantLines(t, read(t, rawIP(slices.Concat(v4[:5], [][]byte{forged}, v4[3:])...)), "tcp 10.77.0.2:40000 > 192.0.2.1:443 none")
	})
	t.Run("too late", func(t *testing.T) {
		wantLines(t, read(t, spaced(fragmentTimeout/2, v4...)), "tcp 10.77.0.2:40000 > 192.0.2.1:443 none")
	})
	t.Run("last one cut by the snap length", func(t *testing.T) {
		one := talk(client, server, httpHead+"a body that does not matter")
		pieces := fragmentsOf(one[3], 9, 64)
		pieces[1] = pieces[1][:len(pieces[1])-5]
		wantLines(t, read(t, rawIP(slices.Replace(one, 3, 4, pieces...)...)), "tcp 10.77.0.2:40000 > 192.0.2.1:443 http-host api.example")
	})
	t.Run("ends twice", func(t *testing.T) {
		forged := bytes.Clone(v4[4])
		binary.BigEndian.PutUint16(forged[6:], binary.BigEndian.Uint16(forged[6:])&^0x2000)
		wantLines(t, read(t, rawIP(slices.Insert(slices.Clone(v4), 4, forged)...)), "tcp 10.77.0.2:40000 > 192.0.2.1:443 none")
	})
	t.Run("extension header inside", func(t *testing.T) {
		one := talk(client6, server6, hello)
		q := append(bytes.Clone(one[3][:40]), protoTCP, 0, 1, 4, 0, 0, 0, 0)
		q[6] = protoOptions
		one = slices.Replace(one, 3, 4, fragmentsOf6(append(q, one[3][40:]...), 9, 512)...)
		wantLines(t, read(t, rawIP(one...)), line6)
	})
	t.Run("atomic", func(t *testing.T) {
		one := talk(client6, server6, hello)
		one[3] = fragmentsOf6(one[3], 9, 1<<16)[0]
		wantLines(t, read(t, rawIP(one...)), line6)
	})
}

func TestFragmentBounds(t *testing.T) {
	var l lines
	var frames [][]byte
	for i := range MaxFragments + 10 {
		frames = append(frames, fragmentsOf(udpPacket(client, server, make([]byte, 64)), uint16(i), 32)[0])
	}
	stats, err := Read(bytes.NewReader(rawIP(frames...)), &l)
	if err != nil || len(l) != 0 || stats.Fragments != MaxFragments+10 {
		t.Errorf("got %d events, %d fragments unused, error %v; want 0, all and none", len(l), stats.Fragments, err)
	}
}

// TestExtensionHeaders puts IPv6 extension headers before TCP.
func TestExtensionHeaders(t *testing.T) {
	packets := talk(client6, server6, httpHead)
	for i, p := range packets {
		q := bytes.Clone(p[:40])
		q[6] = protoHopByHop
		q = append(q, protoRouting, 0, 1, 4, 0, 0, 0, 0)     // hop-by-hop: padding
		q = append(q, protoOptions, 1, 4, 0, 0, 0, 0, 0)     // routing header of 16 octets
		q = append(q, 0, 0, 0, 0, 0, 0, 0, 0)                //
		q = append(q, protoAH, 0, 1, 4, 0, 0, 0, 0)          // destination options
		q = append(q, protoTCP, 4, 0, 0, 0, 0, 0, 1)         // authentication header of 24 octets
		q = append(q, make([]byte, 16)...)                   //
		q = append(q, p[40:]...)                             //
		binary.BigEndian.PutUint16(q[4:], uint16(len(q)-40)) //
		packets[i] = q
	}
	wantLines(t, read(t, rawIP(packets...)), "tcp [2001:db8::2]:40000 > [2001:db8::1]:443 http-host api.example")
}

// TestTunnels carries the same connection through every tunnel. Only the inner flow is reported.
func TestTunnels(t *testing.T) {
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	a, b := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	overUDP := func(port uint16, head []byte) func([]byte) []byte {
		return func(ip []byte) []byte {
			return udpPacket(netip.AddrPortFrom(a, 50000), netip.AddrPortFrom(b, port), join(head, ip))
		}
	}
	bridged := func(wrap func([]byte) []byte) func([]byte) []byte {
		return func(ip []byte) []byte { return wrap(ether(etherType(ip), ip)) }
	}
	gre := func(head ...uint16) func([]byte) []byte {
		return func(ip []byte) []byte {
			return ipPacket(a, b, layers.IPProtocolGRE, gopacket.Payload(join(be16(head...), ip)))
		}
	}
	tests := []struct {
		name   string
		c, s   netip.AddrPort
		tunnel func(ip []byte) []byte
	}{
		{"IP in IP", client, server, func(ip []byte) []byte { return ipPacket(a, b, layers.IPProtocolIPv4, gopacket.Payload(ip)) }},
		{"6in4", client6, server6, func(ip []byte) []byte { return ipPacket(a, b, layers.IPProtocolIPv6, gopacket.Payload(ip)) }},
		{"4in6", client, server, func(ip []byte) []byte {
			return ipPacket(client6.Addr(), server6.Addr(), layers.IPProtocolIPv4, gopacket.Payload(ip))
		}},
		{"GRE", client, server, gre(0, etherIPv4)},
		{"GRE with key, checksum and sequence number", client, server, gre(0xb000, etherIPv4, 1, 2, 3, 4, 5, 6)},
		{"GRE, bridged", client, server, bridged(gre(0, etherBridge))},
		{"GRE, PPTP", client, server, gre(0x3081, etherPPP, 9, 9, 0, 1, 0, 1, 0xff03, 0x0021)},
		{"ERSPAN I", client, server, bridged(gre(0, etherERSPAN))},
		{"ERSPAN II", client, server, bridged(gre(0x1000, etherERSPAN, 0, 1, 0x1000, 0, 0, 0))},
		{"ERSPAN III", client, server, bridged(gre(0x1000, etherERSPAN3, 0, 1, 0x2000, 0, 0, 0, 0, 0))},
		{"EtherIP", client, server, bridged(func(f []byte) []byte {
			return ipPacket(a, b, layers.IPProtocolEtherIP, gopacket.Payload(join([]byte{0x30, 0}, f)))
		})},
		{"VXLAN", client, server, bridged(overUDP(portVXLAN, []byte{8, 0, 0, 0, 0, 0, 7, 0}))},
		{"VXLAN with group policy", client, server, bridged(overUDP(portVXLAN, []byte{0x88, 0, 0, 9, 0, 0, 7, 0}))},
		{"GENEVE with an option", client6, server6, bridged(overUDP(portGENEVE, join([]byte{1, 0}, be16(etherBridge), make([]byte, 8))))},
		{"GTP-U", client, server, func(ip []byte) []byte {
			return overUDP(portGTPU, join([]byte{0x30, 255}, be16(uint16(len(ip))), []byte{0, 0, 0, 1}))(ip)
		}},
		{"GTP-U with an extension header", client, server, func(ip []byte) []byte {
			return overUDP(portGTPU, join([]byte{0x34, 255}, be16(uint16(len(ip)+8)), []byte{0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0}))(ip)
		}},
		{"Teredo server", client6, server6, overUDP(portTeredo, nil)},
		{"Teredo with authentication and origin", client6, server6,
			overUDP(portTeredo, join([]byte{0, 1, 0, 0}, make([]byte, 9), make([]byte, 8)))},
		{"Teredo peer", netip.MustParseAddrPort("[2001:0:102::1]:40000"), server6, overUDP(33333, nil)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var packets [][]byte
			for _, p := range talk(tt.c, tt.s, httpHead) {
				packets = append(packets, tt.tunnel(p))
			}
			wantLines(t, read(t, rawIP(packets...)), fmt.Sprintf("tcp %s > %s http-host api.example", tt.c, tt.s))
		})
	}
	t.Run("DNS to a tunnel's port", func(t *testing.T) {
		to := netip.AddrPortFrom(asker.Addr(), portVXLAN)
		wantLines(t, read(t, rawIP(udpPacket(resolver, to, dnsAnswer(0x0800, "api.example.", dns.TypeA)))), "dns A api.example 192.0.2.53:53 NOERROR")
	})
	t.Run("no Teredo elsewhere", func(t *testing.T) {
		inner := tcpPacket(client6, server6, 1, 1, "A", httpHead)
		wantLines(t, read(t, rawIP(overUDP(33333, nil)(inner))), "udp 198.51.100.1:50000 > 198.51.100.2:33333 none")
	})
}

// TestNesting packs a packet into more tunnels than are followed.
func TestNesting(t *testing.T) {
	p := tcpPacket(client, server, 1, 1, "A", httpHead)
	for range maxLayers + 1 {
		p = ipPacket(client.Addr(), server.Addr(), layers.IPProtocolIPv4, gopacket.Payload(p))
	}
	var l lines
	stats, err := Read(bytes.NewReader(rawIP(p)), &l)
	if err != nil || stats.Undecoded != 1 || len(l) != 0 {
		t.Errorf("got %d events, %d undecoded, error %v", len(l), stats.Undecoded, err)
	}
}
