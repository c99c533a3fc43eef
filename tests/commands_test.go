//go:build linux

package tests

import (
	"net"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/rogpeppe/go-internal/testscript"
)

// heardCommand asserts that the server that says goodbye first has heard the text (world_test.go).
func heardCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: heard TEXT")
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, ok := heard.Load(args[0]); ok {
			return
		}
	}
	ts.Fatalf("the server did not hear %q", args[0])
}

// captureCommand writes a packet capture with a DNS query and an HTTP request for shop.example.
func captureCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: capture FILE")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	w := pcapgo.NewWriter(f)
	ts.Check(w.WriteFileHeader(65536, layers.LinkTypeEthernet))
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for _, packet := range [][]gopacket.SerializableLayer{
		{&layers.UDP{SrcPort: 40000, DstPort: 53}, &layers.DNS{ID: 7, RD: true,
			Questions: []layers.DNSQuestion{{Name: []byte("shop.example"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}}}},
		{&layers.TCP{SrcPort: 40001, DstPort: 80, Seq: 1000, SYN: true, Window: 65535}},
		{&layers.TCP{SrcPort: 40001, DstPort: 80, Seq: 1001, Ack: 1, ACK: true, PSH: true, Window: 65535},
			gopacket.Payload("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")},
	} {
		b, err := frame(packet)
		ts.Check(err)
		ts.Check(w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(b), Length: len(b)}, b))
		at = at.Add(time.Millisecond)
	}
}

// frame puts Ethernet and IPv4 around a transport layer and what it carries.
func frame(inner []gopacket.SerializableLayer) ([]byte, error) {
	ip := &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.IPv4(192, 0, 2, 2).To4(), DstIP: shop.AsSlice()}
	switch l := inner[0].(type) {
	case *layers.UDP:
		ip.Protocol = layers.IPProtocolUDP
		l.SetNetworkLayerForChecksum(ip)
	case *layers.TCP:
		ip.Protocol = layers.IPProtocolTCP
		l.SetNetworkLayerForChecksum(ip)
	}
	ether := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append([]gopacket.SerializableLayer{ether, ip}, inner...)...)
	return b.Bytes(), err
}
