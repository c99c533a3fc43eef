//go:build linux

package tproxy

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// TestDatagram reads with another implementation what Questions sends.
func TestDatagram(t *testing.T) {
	for _, c := range []struct {
		src, dst string
		first    gopacket.LayerType
	}{
		{"198.51.100.53:4053", "10.99.0.2:40000", layers.LayerTypeIPv4},
		{"[2001:db8::53]:4053", "[fd99::2]:40000", layers.LayerTypeIPv6},
	} {
		src, dst := netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
		for _, payload := range [][]byte{[]byte("an answer"), {}, bytes.Repeat([]byte{0xff}, 1231)} {
			p := gopacket.NewPacket(datagram(src, dst, payload), c.first, gopacket.Default)
			udp, ok := p.TransportLayer().(*layers.UDP)
			if !ok || p.ErrorLayer() != nil {
				t.Fatalf("%s: no datagram: %v", c.src, p)
			}
			if uint16(udp.SrcPort) != src.Port() || uint16(udp.DstPort) != dst.Port() || !bytes.Equal(udp.Payload, payload) {
				t.Errorf("%s: %v", c.src, udp)
			}
			if from, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw()); from != src.Addr() {
				t.Errorf("%s: from %s", c.src, from)
			}
			sum := udp.Checksum
			udp.SetNetworkLayerForChecksum(p.NetworkLayer())
			b := gopacket.NewSerializeBuffer()
			if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, udp, gopacket.Payload(payload)); err != nil {
				t.Fatal(err)
			}
			if udp.Checksum != sum {
				t.Errorf("%s: checksum %#x, want %#x", c.src, sum, udp.Checksum)
			}
		}
	}
}

// question is the header and question section of a message about a.example with one answer and an additional record.
var question = []byte("\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x01\x01a\x07example\x00\x00\x01\x00\x01")

func TestTruncated(t *testing.T) {
	short := append([]byte(nil), question...)
	short[2] |= 0x02
	copy(short[6:12], make([]byte, 6))
	for _, c := range []struct {
		name         string
		answer, want []byte
	}{
		{"an answer", append(append([]byte(nil), question...), "records"...), short},
		{"the question alone", question, short},
		{"cut in the question", question[:20], question[:20]},
		{"cut in the header", question[:5], question[:5]},
		{"two questions", append([]byte("\x12\x34\x81\x80\x00\x02"), question[6:]...), append([]byte("\x12\x34\x81\x80\x00\x02"), question[6:]...)},
		{"nothing", nil, nil},
	} {
		if got := truncated(c.answer); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzTruncated(f *testing.F) {
	f.Add(question)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, answer []byte) {
		if got := truncated(answer); len(got) > len(answer) {
			t.Errorf("%d octets of %d", len(got), len(answer))
		}
	})
}
