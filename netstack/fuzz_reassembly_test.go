package netstack

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// sentFragment is one fragment as a test sent it: data at offset of the datagram id.
type sentFragment struct {
	id     byte
	offset int
	more   bool
	data   []byte
}

// parseFragments makes fragments of an input: five bytes each, id, offset in units of 8, size, flags, and what the bytes
// behind the UDP header are. The datagrams all say that they have size bytes.
func parseFragments(in []byte, size int) (frags []sentFragment) {
	for ; len(in) >= 5 && len(frags) < 200; in = in[5:] {
		f := sentFragment{id: in[0] % 4, offset: int(in[1]) * 8, more: in[3]&1 != 0}
		n := int(in[2])
		if in[3]&2 != 0 {
			n *= 8 // what fits together, mostly
		}
		if in[3]&4 != 0 {
			f.offset *= 33 // up to beyond what a datagram may have
		}
		f.data = make([]byte, n)
		for i := range f.data {
			f.data[i] = in[4] ^ byte(f.offset+i)
		}
		if f.offset == 0 {
			udp := header.UDP(make([]byte, header.UDPMinimumSize))
			udp.Encode(&header.UDPFields{SrcPort: 9, DstPort: 9, Length: uint16(header.UDPMinimumSize + size)})
			copy(f.data, udp)
		}
		frags = append(frags, f)
	}
	return frags
}

// canMake says whether payload is the beginning of what some of the fragments of one datagram make when they are laid
// end to end: no byte of two fragments, none of two datagrams, none twice, and the last one says that it is the last.
func canMake(frags []sentFragment, payload []byte) bool {
	for id := range byte(4) {
		reached := map[int]bool{0: true}
		var ends []int // grows while it is walked
		for ends = []int{0}; len(ends) > 0; {
			at := ends[0]
			ends = ends[1:]
			for _, f := range frags {
				if f.id != id || f.offset != at || len(f.data) == 0 || !agrees(f, payload) {
					continue
				}
				end := at + len(f.data)
				if !f.more && end >= header.UDPMinimumSize+len(payload) {
					return true
				}
				if f.more && !reached[end] {
					reached[end] = true
					ends = append(ends, end)
				}
			}
		}
	}
	return false
}

// agrees says whether f has the bytes that payload has at its place.
func agrees(f sentFragment, payload []byte) bool {
	for i, b := range f.data {
		if at := f.offset + i - header.UDPMinimumSize; at >= 0 && at < len(payload) && payload[at] != b {
			return false
		}
	}
	return true
}

// reassemble sends fragments by way of frame, one by one, and returns the datagrams that arrived.
func reassemble(t *testing.T, frags []sentFragment, frame func(f sentFragment) []byte, end []byte) (arrived [][]byte) {
	last := make(chan struct{})
	w := newWire(t, Config{Link: Link{VnetHdr: vnetHdrLen}}, handlerOf(func(ctx context.Context, a flow.Arrival) {
		c, err := a.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if string(b[:n]) == "end" {
				close(last)
				return
			}
			arrived = append(arrived, bytes.Clone(b[:n]))
		}
	}))
	for _, f := range frags {
		w.send(vnetHdr{}, frame(f))
	}
	w.sync()
	w.send(vnetHdr{}, end)
	select {
	case <-last:
	case <-time.After(patience):
		t.Fatalf("the datagram behind the fragments did not arrive: %v", w.Counters())
	}
	w.close()
	if n := len(w.link.parts.parts); n > maxIncomplete {
		t.Errorf("%d datagrams are incomplete", n)
	}
	for _, p := range w.link.parts.parts {
		if len(p.seen) > maxFragments {
			t.Errorf("a datagram in %d fragments", len(p.seen))
		}
	}
	return arrived
}

// fragmentSeeds are inputs of the reassembly targets.
func fragmentSeeds(f *testing.F) {
	const more, eights, far = 1, 2, 4
	whole := []byte{0, 0, 4, more | eights, 1, 0, 4, 4, eights, 1}
	f.Add(uint16(56), whole)
	f.Add(uint16(40), whole)                                                                                                // more than the datagram says that it is
	f.Add(uint16(56), slices.Concat(whole[5:], whole[:5]))                                                                  // out of order
	f.Add(uint16(56), slices.Concat(whole[:5], []byte{0, 0, 4, more | eights, 2}, whole[5:]))                               // the first one again, other bytes
	f.Add(uint16(56), slices.Concat(whole[:5], []byte{0, 2, 4, more | eights, 2}, whole[5:]))                               // overlap
	f.Add(uint16(56), slices.Concat(whole[:5], []byte{0, 4, 5, eights, 2}, whole[5:]))                                      // two ends
	f.Add(uint16(56), []byte{0, 0, 4, more | eights, 1, 1, 4, 4, eights, 2, 1, 0, 4, more | eights, 2, 0, 4, 4, eights, 1}) // two datagrams
	f.Add(uint16(8), []byte{0, 0, 1, more | eights, 1, 0, 1, 1, eights, 1})                                                 // header and payload
	f.Add(uint16(56), []byte{0, 0, 4, more | eights, 1, 0, 255, 255, eights | far, 1})                                      // beyond the end
	f.Add(uint16(4), []byte{0, 0, 12, 0, 1})                                                                                // atomic
	f.Add(uint16(0), bytes.Repeat([]byte{0, 3, 1, more | eights, 1, 1, 9, 13, more, 1}, 50))
}

// FuzzReassembly4 holds that what comes out of IPv4 fragments is what some of them say, without overlaps, or nothing, and
// that what is kept of the others is bounded.
func FuzzReassembly4(f *testing.F) {
	fragmentSeeds(f)
	end := l2(ethernet4, packet4(guest4.String(), "203.0.113.7", 17, nil, append(datagram(9, 9, 0)[:4], []byte("\x00\x0b\x00\x00end")...)))
	f.Fuzz(func(t *testing.T, size uint16, in []byte) {
		frags := parseFragments(in, int(size)%4096)
		arrived := reassemble(t, frags, func(f sentFragment) []byte {
			return frag4(header.UDPProtocolNumber, uint16(f.id), f.offset&0xfff8, f.more, f.data)
		}, end)
		checkArrived(t, frags, arrived)
	})
}

// FuzzReassembly6 is the same for IPv6, where the fragment header is an extension.
func FuzzReassembly6(f *testing.F) {
	fragmentSeeds(f)
	end := l2(ethernet6, packet6(guest6.String(), "2001:db8::7", 17, append(datagram(9, 9, 0)[:4], []byte("\x00\x0b\x00\x00end")...)))
	f.Fuzz(func(t *testing.T, size uint16, in []byte) {
		frags := parseFragments(in, int(size)%4096)
		arrived := reassemble(t, frags, func(f sentFragment) []byte {
			return frag6(uint8(header.UDPProtocolNumber), uint32(f.id), f.offset&0xfff8, f.more, f.data)
		}, end)
		checkArrived(t, frags, arrived)
	})
}

func checkArrived(t *testing.T, frags []sentFragment, arrived [][]byte) {
	t.Helper()
	for i := range frags {
		frags[i].offset &= 0xfff8 // as the header says
	}
	for _, payload := range arrived {
		if !canMake(frags, payload) {
			t.Errorf("%d bytes arrived that no fragments make: %x", len(payload), payload)
		}
	}
}

// A datagram in pieces that fit arrives whole, in any order and beside another one.
func TestReassembly(t *testing.T) {
	const more, eights = 1, 2
	for name, in := range map[string][]byte{
		"with bytes left over": {0, 0, 4, more | eights, 1, 0, 4, 4, eights, 1},
		"in order":             {0, 0, 4, more | eights, 1, 0, 4, 4, eights, 1},
		"out of order":         {0, 4, 4, eights, 1, 0, 0, 4, more | eights, 1},
		"with another":         {0, 0, 4, more | eights, 1, 1, 0, 4, more | eights, 2, 0, 4, 4, eights, 1},
	} {
		t.Run(name, func(t *testing.T) {
			size := 56
			if name == "with bytes left over" {
				size = 40
			}
			frags := parseFragments(in, size)
			end := l2(ethernet4, packet4(guest4.String(), "203.0.113.7", 17, nil, append(datagram(9, 9, 0)[:4], []byte("\x00\x0b\x00\x00end")...)))
			arrived := reassemble(t, frags, func(f sentFragment) []byte {
				return frag4(header.UDPProtocolNumber, uint16(f.id), f.offset, f.more, f.data)
			}, end)
			if len(arrived) != 1 || len(arrived[0]) != size {
				t.Errorf("%d datagrams arrived: %x", len(arrived), arrived)
			}
			checkArrived(t, frags, arrived)
		})
	}
}
