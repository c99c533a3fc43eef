package capture

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"
)

// FuzzRead reads arbitrary files: no panic, and no more events than the file has room for.
func FuzzRead(f *testing.F) {
	d := quicDatagrams(f)
	le := binary.LittleEndian
	hello := clientHello("api.example")
	tcp4 := talk(client, server, hello[:200], hello[200:])
	f.Add(rawIP(tcp4...))
	f.Add(pcapOf(1, ether(etherIPv4, tcp4[3])))
	f.Add(pcapOf(113, append(append(be16(4, 1, 6), make([]byte, 8)...), append(be16(etherIPv4), tcp4[3]...)...)))
	f.Add(rawIP(append(fragmentsOf(tcp4[3], 1, 64), fragmentsOf6(talk(client6, server6, httpHead)[3], 2, 16)...)...))
	f.Add(rawIP(udpPacket(client, server, d[0]), udpPacket(client, server, d[1])))
	f.Add(rawIP(udpPacket(asker, resolver, dnsQuestion(1, "api.example.", dns.TypeA)), udpPacket(resolver, asker,
		dnsAnswer(1, "api.example.", dns.TypeA, "api.example. 60 IN A 192.0.2.1"))))
	f.Add(rawIP(talk(client, server, "EHLO me\r\nSTARTTLS\r\n", hello)...))
	f.Add(bytes.Join([][]byte{sectionBlock(le), interfaceBlock(le, 101, 9, 0, 1, 0, 0x8a, 0, 0, 0), enhancedBlock(le, 0, 1<<40, tcp4[3])}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l lines
		stats, _ := Read(bytes.NewReader(b), &l)
		if uint64(len(l)) != stats.Flows+stats.Queries {
			t.Errorf("%d events for %d flows and %d questions", len(l), stats.Flows, stats.Queries)
		}
		if uint64(len(l)) > uint64(len(b)) {
			t.Errorf("%d events out of %d octets", len(l), len(b))
		}
	})
}

// FuzzAssembler feeds one stream in arbitrary pieces: whatever comes out is the beginning of it.
func FuzzAssembler(f *testing.F) {
	f.Add([]byte{0, 10, 5, 20, 40, 10, 15, 30}, uint32(0xfffffff0))
	f.Fuzz(func(t *testing.T, plan []byte, start uint32) {
		stream := make([]byte, 512)
		for i := range stream {
			stream[i] = byte(i * 7)
		}
		var a assembler
		var out []byte
		for i := 0; i+1 < len(plan); i += 2 {
			from := int(plan[i])
			a.add(start+uint32(from), stream[from:from+int(plan[i+1])])
			if i == len(plan)/2 {
				a.place(start)
			}
			out = append(out, a.drain()...)
		}
		a.placeAtLowest()
		out = append(out, a.drain()...)
		if from := int(a.start - start); len(out) > 0 && !bytes.Equal(out, stream[from:from+len(out)]) {
			t.Errorf("octets from %d came out changed", from)
		}
		a.release()
		if a.cost != 0 {
			t.Errorf("cost %d after release", a.cost)
		}
	})
}
