package capture

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/miekg/dns"

	"github.com/weir-dev/weir/flow/event"
)

// The captures of these tests are written by gopacket, an implementation that shares nothing with the reader.

var (
	client  = netip.MustParseAddrPort("10.77.0.2:40000")
	server  = netip.MustParseAddrPort("192.0.2.1:443")
	client6 = netip.MustParseAddrPort("[2001:db8::2]:40000")
	server6 = netip.MustParseAddrPort("[2001:db8::1]:443")
	begin   = time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC)
)

const httpHead = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"

// lines is a sink that keeps one short line per event:
//
//	tcp 10.77.0.2:40000 > 192.0.2.1:443 http-host api.example
//	dns A api.example 192.0.2.53:53 NOERROR 192.0.2.1
type lines []string

func (l *lines) Emit(e *event.Event) {
	switch d := e.Details.(type) {
	case *event.Connect:
		line := fmt.Sprintf("%s %s > %s %s", d.Protocol, d.Src, d.Dst, d.NameSource)
		for _, name := range d.Names {
			line += " " + name
		}
		if d.Reason != "" {
			line += " " + d.Reason
		}
		*l = append(*l, line)
	case *event.DNSQuery:
		*l = append(*l, strings.TrimSpace(fmt.Sprintf("dns %s %s %s %s %s", d.QType, d.Hostname, d.Server, d.RCode, strings.Join(d.Answers, " "))))
	}
}

// read returns the lines of a capture that must be readable to its end.
func read(t *testing.T, capture []byte) []string {
	t.Helper()
	var l lines
	if _, err := Read(bytes.NewReader(capture), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// wantLines compares without regard to order: flows are reported when they are known.
func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	got = slices.Clone(got)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// pcapOf writes frames into a classic pcap, a millisecond apart.
func pcapOf(link uint16, frames ...[]byte) []byte { return spread(link, time.Millisecond, frames) }

// spaced writes IP packets that are apart in time.
func spaced(apart time.Duration, packets ...[]byte) []byte { return spread(101, apart, packets) }

func spread(link uint16, apart time.Duration, frames [][]byte) []byte {
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	must(w.WriteFileHeader(MaxRecord, layers.LinkType(link)))
	for i, f := range frames {
		must(w.WritePacket(gopacket.CaptureInfo{
			Timestamp: begin.Add(time.Duration(i) * apart), CaptureLength: len(f), Length: len(f),
		}, f))
	}
	return b.Bytes()
}

// rawIP writes IP packets.
func rawIP(packets ...[]byte) []byte { return pcapOf(101, packets...) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func serialize(ls ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, ls...))
	return bytes.Clone(b.Bytes())
}

// ipPacket wraps transport layers into an IP packet.
func ipPacket(src, dst netip.Addr, proto layers.IPProtocol, ls ...gopacket.SerializableLayer) []byte {
	if src.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		return serialize(append([]gopacket.SerializableLayer{ip}, ls...)...)
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	return serialize(append([]gopacket.SerializableLayer{ip}, ls...)...)
}

func tcpPacket(src, dst netip.AddrPort, seq, ack uint32, flags string, data string) []byte {
	l := &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), Seq: seq, Ack: ack, Window: 65535,
		SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), FIN: strings.Contains(flags, "F"), RST: strings.Contains(flags, "R"),
	}
	return ipPacket(src.Addr(), dst.Addr(), layers.IPProtocolTCP, l, gopacket.Payload(data))
}

func udpPacket(src, dst netip.AddrPort, data []byte) []byte {
	l := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	return ipPacket(src.Addr(), dst.Addr(), layers.IPProtocolUDP, l, gopacket.Payload(data))
}

// Initial sequence numbers of a talk; the client's wraps around within the first kilobyte.
const (
	isn       = uint32(0xffffff00)
	serverISN = uint32(5000)
)

// talk is a connection: a handshake, then the client's segments, each acknowledged.
func talk(c, s netip.AddrPort, segments ...string) [][]byte {
	p := [][]byte{
		tcpPacket(c, s, isn, 0, "S", ""),
		tcpPacket(s, c, serverISN, isn+1, "SA", ""),
		tcpPacket(c, s, isn+1, serverISN+1, "A", ""),
	}
	seq := isn + 1
	for _, data := range segments {
		p = append(p, tcpPacket(c, s, seq, serverISN+1, "A", data))
		seq += uint32(len(data))
		p = append(p, tcpPacket(s, c, serverISN+1, seq, "A", ""))
	}
	return p
}

// clientHello is the first record of a TLS client.
func clientHello(name string) string {
	near, far := net.Pipe()
	go func() {
		tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: name == "", NextProtos: []string{"h2"}}).Handshake()
		near.Close()
	}()
	defer far.Close()
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	must(err)
	return string(b[:n])
}

// quicDatagrams are stored client datagrams: two for quic.example, two for other.example.
func quicDatagrams(t testing.TB) [][]byte {
	f, err := os.Open("testdata/quic.hex")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list [][]byte
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		b, err := hex.DecodeString(s.Text())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// dnsQuestion and dnsAnswer are messages about the address of a name.
func dnsQuestion(id uint16, name string, qtype uint16) []byte {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.Id = id
	b, err := m.Pack()
	must(err)
	return b
}

func dnsAnswer(id uint16, name string, qtype uint16, records ...string) []byte {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.Id, m.Response = id, true
	for _, r := range records {
		rr, err := dns.NewRR(r)
		must(err)
		m.Answer = append(m.Answer, rr)
	}
	b, err := m.Pack()
	must(err)
	return b
}
