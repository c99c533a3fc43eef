package capture

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const udpLine = "udp 10.77.0.2:40000 > 192.0.2.1:443 "

func TestQUIC(t *testing.T) {
	d := quicDatagrams(t)
	up := func(b []byte) []byte { return udpPacket(client, server, b) }
	down := func(b []byte) []byte { return udpPacket(server, client, b) }
	reply := append([]byte{0xc0, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4, 0}, make([]byte, 60)...)
	tests := []struct {
		name    string
		packets [][]byte
		want    []string
	}{
		{"in order", [][]byte{up(d[0]), up(d[1])}, []string{udpLine + "quic-sni quic.example"}},
		{"the other way round, twice", [][]byte{up(d[1]), up(d[1]), up(d[0]), up(d[0])}, []string{udpLine + "quic-sni quic.example"}},
		{"half of the hello", [][]byte{up(d[0])}, []string{udpLine + "none"}},
		{"the server seen first", [][]byte{down(reply), up(d[0]), up(d[1])}, []string{udpLine + "quic-sni quic.example"}},
		{"after something else", [][]byte{up([]byte("probe")), up(d[0]), up(d[1])}, []string{udpLine + "quic-sni quic.example"}},
		{"to a high port, server first", [][]byte{
			udpPacket(netip.MustParseAddrPort("192.0.2.1:50443"), client, []byte("?")),
			udpPacket(client, netip.MustParseAddrPort("192.0.2.1:50443"), d[0]),
			udpPacket(client, netip.MustParseAddrPort("192.0.2.1:50443"), d[1]),
		}, []string{"udp 10.77.0.2:40000 > 192.0.2.1:50443 quic-sni quic.example"}},
		{"another connection on the same ports", [][]byte{up(d[0]), up(d[1]), up(d[2]), up(d[3])},
			[]string{udpLine + "quic-sni quic.example", udpLine + "quic-sni other.example"}},
		{"the same connection again", [][]byte{up(d[0]), up(d[1]), up(d[0]), up(d[1])}, []string{udpLine + "quic-sni quic.example"}},
		{"no quic", [][]byte{up([]byte("hello")), down([]byte("hello"))}, []string{udpLine + "none"}},
		{"server first, ports tell", [][]byte{down([]byte("hello"))}, []string{udpLine + "none"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantLines(t, read(t, rawIP(tt.packets...)), tt.want...) })
	}
}

// TestIdle lets a UDP flow fall silent: what comes after the timeout is a new flow.
func TestIdle(t *testing.T) {
	p := udpPacket(client, server, []byte("hello"))
	wantLines(t, read(t, spaced(udpIdle, p, p)), udpLine+"none")
	wantLines(t, read(t, spaced(udpIdle+time.Second, p, p)), udpLine+"none", udpLine+"none")
}

func TestEcho(t *testing.T) {
	packet := func(src, dst netip.Addr, kind byte, id uint16) []byte {
		proto := layers.IPProtocolICMPv4
		if src.Is6() {
			proto = layers.IPProtocolICMPv6
		}
		return ipPacket(src, dst, proto, gopacket.Payload([]byte{kind, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}))
	}
	c, s, c6, s6 := client.Addr(), server.Addr(), client6.Addr(), server6.Addr()
	wantLines(t, read(t, rawIP(
		packet(c, s, 8, 7), packet(s, c, 0, 7), packet(c, s, 8, 7), // one ping
		packet(s, c, 0, 8),                             // its request was not captured
		packet(c6, s6, 128, 7), packet(s6, c6, 129, 7), // ICMPv6
		packet(s, c, 3, 9), // unreachable: no flow of its own
	)),
		fmt.Sprintf("icmp %s:0 > %s:0 none", c, s),
		fmt.Sprintf("icmp %s:0 > %s:0 none", c, s),
		fmt.Sprintf("icmp [%s]:0 > [%s]:0 none", c6, s6))
}
