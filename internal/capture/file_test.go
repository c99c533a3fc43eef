package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/weir-dev/weir/flow/event"
)

// classic writes a pcap by hand, in any of its shapes.
func classic(order binary.AppendByteOrder, magic uint32, packets ...[]byte) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = order.AppendUint32(b, 65535)
	b = order.AppendUint32(b, 101)
	for _, p := range packets {
		b = order.AppendUint32(b, uint32(begin.Unix()))
		frac := uint32(begin.Nanosecond())
		if magic != 0xa1b23c4d {
			frac /= 1000
		}
		b = order.AppendUint32(b, frac)
		b = order.AppendUint32(b, uint32(len(p)))
		b = order.AppendUint32(b, uint32(len(p)))
		if magic == 0xa1b2cd34 {
			b = append(b, make([]byte, 8)...)
		}
		b = append(b, p...)
	}
	return b
}

// block makes a pcapng block.
func block(order binary.AppendByteOrder, kind uint32, body []byte) []byte {
	body = append(bytes.Clone(body), make([]byte, -len(body)&3)...)
	b := order.AppendUint32(nil, kind)
	b = order.AppendUint32(b, uint32(len(body)+12))
	b = append(b, body...)
	return order.AppendUint32(b, uint32(len(body)+12))
}

func sectionBlock(order binary.AppendByteOrder) []byte {
	b := order.AppendUint32(nil, 0x1a2b3c4d)
	b = order.AppendUint16(b, 1)
	b = order.AppendUint16(b, 0)
	return block(order, blockSection, append(b, 255, 255, 255, 255, 255, 255, 255, 255))
}

// interfaceBlock describes an interface; options are raw.
func interfaceBlock(order binary.AppendByteOrder, link uint16, options ...byte) []byte {
	b := order.AppendUint16(nil, link)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return block(order, blockInterface, append(b, options...))
}

func enhancedBlock(order binary.AppendByteOrder, iface uint32, stamp uint64, p []byte) []byte {
	b := order.AppendUint32(nil, iface)
	b = order.AppendUint32(b, uint32(stamp>>32))
	b = order.AppendUint32(b, uint32(stamp))
	b = order.AppendUint32(b, uint32(len(p)))
	b = order.AppendUint32(b, uint32(len(p)))
	return block(order, blockEnhanced, append(b, p...))
}

// TestFormats reads one packet out of every kind of file, with its time.
func TestFormats(t *testing.T) {
	p := udpPacket(client, server, []byte("hello"))
	le, be := binary.LittleEndian, binary.BigEndian
	micro := uint64(begin.UnixMicro())
	ng := func(blocks ...[]byte) []byte { return bytes.Join(blocks, nil) }
	tests := []struct {
		name string
		file []byte
		at   time.Time
	}{
		{"microseconds, little endian", classic(le, 0xa1b2c3d4, p), begin},
		{"microseconds, big endian", classic(be, 0xa1b2c3d4, p), begin},
		{"nanoseconds, little endian", classic(le, 0xa1b23c4d, p), begin},
		{"nanoseconds, big endian", classic(be, 0xa1b23c4d, p), begin},
		{"modified", classic(le, 0xa1b2cd34, p), begin},
		{"pcapng", ng(sectionBlock(le), interfaceBlock(le, 101), enhancedBlock(le, 0, micro, p)), begin},
		{"pcapng, big endian", ng(sectionBlock(be), interfaceBlock(be, 101), enhancedBlock(be, 0, micro, p)), begin},
		{"pcapng, nanoseconds", ng(sectionBlock(le), interfaceBlock(le, 101, 9, 0, 1, 0, 9, 0, 0, 0), enhancedBlock(le, 0, uint64(begin.UnixNano()), p)), begin},
		{"pcapng, power of two", ng(sectionBlock(le), interfaceBlock(le, 101, 9, 0, 1, 0, 0x8a, 0, 0, 0), enhancedBlock(le, 0, uint64(begin.Unix())<<10+512, p)),
			time.Unix(begin.Unix(), 5e8).UTC()},
		{"pcapng, offset", ng(sectionBlock(le), interfaceBlock(le, 101, 14, 0, 8, 0, 60, 0, 0, 0, 0, 0, 0, 0), enhancedBlock(le, 0, micro, p)), begin.Add(time.Minute)},
		{"pcapng, second interface", ng(sectionBlock(le), interfaceBlock(le, 1), interfaceBlock(le, 101), enhancedBlock(le, 1, micro, p)), begin},
		{"pcapng, unknown blocks", ng(sectionBlock(le), block(le, 0xbad, make([]byte, 99)), interfaceBlock(le, 101), block(le, 10, []byte("keys")), enhancedBlock(le, 0, micro, p)), begin},
		{"pcapng, second section", ng(sectionBlock(be), interfaceBlock(be, 1), sectionBlock(le), interfaceBlock(le, 101), enhancedBlock(le, 0, micro, p)), begin},
		{"pcapng, simple packet", ng(sectionBlock(le), interfaceBlock(le, 101), block(le, blockSimple, append(le.AppendUint32(nil, uint32(len(p))), p...))), time.Unix(0, 0).UTC()},
		{"pcapng, obsolete packet", ng(sectionBlock(le), interfaceBlock(le, 101), block(le, blockPacket, append(le.AppendUint32(le.AppendUint32(le.AppendUint32(le.AppendUint32(
			[]byte{0, 0, 0, 0}, uint32(micro>>32)), uint32(micro)), uint32(len(p))), uint32(len(p))), p...))), begin},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r times
			stats, err := Read(bytes.NewReader(tt.file), &r)
			if err != nil || stats.Frames != 1 || len(r) != 1 || !r[0].Equal(tt.at) {
				t.Errorf("got %d frames, events at %v, error %v; want one at %v", stats.Frames, r, err, tt.at)
			}
		})
	}
}

// times keeps the times of events.
type times []time.Time

func (r *times) Emit(e *event.Event) { *r = append(*r, e.Time) }

// TestPcapngWriter reads what gopacket's writer writes, options and statistics included.
func TestPcapngWriter(t *testing.T) {
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: "eth0", Comment: "a comment", LinkType: layers.LinkTypeRaw, OS: "test"}, pcapgo.NgWriterOptions{
		SectionInfo: pcapgo.NgSectionInfo{Hardware: "none", Comment: "made for a test"},
	})
	must(err)
	for _, p := range talk(client, server, httpHead) {
		must(w.WritePacket(gopacket.CaptureInfo{Timestamp: begin, CaptureLength: len(p), Length: len(p)}, p))
	}
	must(w.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{LastUpdate: begin, PacketsReceived: 5}))
	must(w.Flush())
	wantLines(t, read(t, b.Bytes()), httpLine)
}

// TestDamaged wants an error that says where, and everything before it.
func TestDamaged(t *testing.T) {
	le := binary.LittleEndian
	good := rawIP(talk(client, server, httpHead)...)
	ng := bytes.Join([][]byte{sectionBlock(le), interfaceBlock(le, 101), enhancedBlock(le, 0, 0, talk(client, server)[0])}, nil)
	with := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		le.PutUint32(b[at:], v)
		return b
	}
	last := len(good) - 40 // of the last record, which is a header of 16 octets and a packet of 40
	const none = "-"
	tests := []struct {
		name string
		file []byte
		err  string
		want string
	}{
		{"empty", nil, "read file header: file is only 0 octets long", none},
		{"no capture", []byte("<html>"), "read file header: neither pcap nor pcapng (it begins with 3c 68 74 6d)", none},
		{"gzip", []byte{0x1f, 0x8b, 8, 0}, "read file header: the file is compressed with gzip; unpack it first", none},
		{"header cut off", good[:20], "read file header: file is cut off here", none},
		{"version", with(good, 4, 9), "read file header: pcap version 9.0 is not known", none},
		{"record header cut off", good[:last-3], fmt.Sprintf("read record 5 at octet %d: file is cut off here", last-16), httpLine},
		{"packet cut off", good[:len(good)-1], fmt.Sprintf("read record 5 at octet %d: file is cut off here", last-16), httpLine},
		{"absurd length", with(good, last-8, 0xffffffff), fmt.Sprintf("read record 5 at octet %d: a record of 4294967295 octets, at most 262144 are allowed", last-16), httpLine},
		{"pcapng, cut off", ng[:len(ng)-1], "read record 1 at octet 48: file is cut off here", none},
		{"pcapng, absurd length", with(ng, 52, 0xfffffff0), "read record 1 at octet 48: a block of 4294967280 octets, from 12 to 16777216 are allowed", none},
		{"pcapng, zero length", with(ng, 52, 0), "read record 1 at octet 48: a block of 0 octets, from 12 to 16777216 are allowed", none},
		{"pcapng, absurd packet", with(ng, 68, 0xfffffff0), "read record 1 at octet 48: a packet of 4294967280 octets in a block with room for 40, at most 262144 are allowed", none},
		{"pcapng, unknown interface", with(ng, 56, 3), "read record 1 at octet 48: a packet of interface 3, which the file does not describe", none},
		{"pcapng, lengths differ", with(ng, len(ng)-4, 7), "read record 1 at octet 48: block length 72 is repeated as 7", none},
		{"pcapng, byte order", with(ng, 8, 7), "read record 1 at octet 0: section header has no byte order (07 00 00 00)", none},
		{"pcapng, version", with(ng, 12, 2), "read record 1 at octet 0: pcapng version 2.0 is not known", none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l lines
			_, err := Read(bytes.NewReader(tt.file), &l)
			if err == nil || err.Error() != tt.err {
				t.Errorf("got error  %v\nwant error %s", err, tt.err)
			}
			if got := strings.Join(l, "; "); tt.want != none && got != tt.want || tt.want == none && got != "" {
				t.Errorf("got events %q, want %q", got, tt.want)
			}
		})
	}
}

// TestReadError passes the error of the reader on.
func TestReadError(t *testing.T) {
	good := rawIP(talk(client, server, httpHead)...)
	var l lines
	_, err := Read(io.MultiReader(bytes.NewReader(good), failing{}), &l)
	if err == nil || !strings.HasSuffix(err.Error(), "disk on fire") || len(l) != 1 {
		t.Errorf("got %d events and error %v", len(l), err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, fmt.Errorf("disk on fire") }

// TestMemory reads a capture in which every packet opens a flow with something to keep: what is kept stays bounded, and
// every flow is reported.
func TestMemory(t *testing.T) {
	const flows = 6000
	hold := strings.Repeat("x", 30000) // ahead of a hole: kept until the end
	var sink counter
	before := heap()
	stats, err := Read(&stream{n: flows, make: func(i int) []byte {
		c := client
		b := tcpPacket(c, server, serverISN, serverISN, "A", hold)
		binary.BigEndian.PutUint32(b[12:], 0x0a000000+uint32(i)) // a source address of its own
		return b
	}}, &sink)
	if err != nil || sink.events != flows || stats.Evicted == 0 {
		t.Errorf("got %d events, %d evicted, error %v", sink.events, stats.Evicted, err)
	}
	if grown := int64(sink.peak) - int64(before); grown > 4*MaxHeld {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

type counter struct {
	events int
	peak   uint64
}

func (c *counter) Emit(*event.Event) {
	c.events++
	if c.events%500 == 0 {
		c.peak = max(c.peak, heap())
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// stream is a pcap of n packets that is made while it is read.
type stream struct {
	n, next int
	make    func(i int) []byte
	buf     []byte
}

func (s *stream) Read(b []byte) (int, error) {
	if len(s.buf) == 0 {
		if s.next == s.n {
			return 0, io.EOF
		}
		s.buf = rawIP(s.make(s.next))
		if s.next > 0 {
			s.buf = s.buf[24:]
		}
		s.next++
	}
	n := copy(b, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

// TestMaxFlows opens more flows than are remembered.
func TestMaxFlows(t *testing.T) {
	const flows = MaxFlows + 500
	var sink lines
	p := udpPacket(client, server, []byte("hello"))
	stats, err := Read(&stream{n: flows, make: func(i int) []byte {
		b := bytes.Clone(p)
		binary.BigEndian.PutUint32(b[12:], 0x0a000000+uint32(i))
		return b
	}}, &sink)
	if err != nil || len(sink) != flows || stats.Evicted != 500 || stats.Flows != flows {
		t.Errorf("got %d events, %d evicted, %d flows, error %v", len(sink), stats.Evicted, stats.Flows, err)
	}
}
