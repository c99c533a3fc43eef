package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// wire is a door whose other end has no stack: a test writes frames as they come and reads what the door answers. Every
// answer is held to the one rule that they share: it is for the guest, from the gateway.
type wire struct {
	*Stack
	t      testing.TB
	file   *os.File
	served chan error

	closeOnce sync.Once
	readDone  chan struct{}

	mu      sync.Mutex
	answers []string // what the door sent, described, the markers aside
	wrong   []string // what it must not have sent
	markers map[uint16]chan struct{}
	watch   func(frame []byte) // sees each answer, when it is not nil
	next    uint16
}

// newWire starts a door that hands its flows to h. It ends with the test.
func newWire(t testing.TB, cfg Config, h flow.Handler) *wire {
	t.Helper()
	door, inside := framePair(t)
	cfg.Link.File, cfg.Link.Kind = door, "pair"
	cfg.Addr4, cfg.Gateway4, cfg.Addr6, cfg.Gateway6 = guest4, gateway4, guest6, gateway6
	cfg.GuestMAC, cfg.GatewayMAC = guestMAC, gatewayMAC
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Stack: s, t: t, file: inside, served: make(chan error, 1), markers: map[uint16]chan struct{}{}}
	w.readDone = make(chan struct{})
	go func() {
		defer close(w.readDone)
		w.read()
	}()
	go func() { w.served <- s.Serve(context.Background(), h) }()
	t.Cleanup(w.close)
	return w
}

// close ends the door and complains of what it sent amiss.
func (w *wire) close() {
	w.closeOnce.Do(func() {
		w.Stack.Close()
		w.file.Close()
		<-w.readDone
		if err := <-w.served; !errors.Is(err, ErrClosed) {
			w.t.Errorf("Serve = %v, want ErrClosed", err)
		}
		for _, what := range w.wrong {
			w.t.Errorf("the door sent %s", what)
		}
	})
}

// send writes one frame behind the vnet header hdr, where the link has one. An empty frame without one is left out: it
// would be the end of the pair.
func (w *wire) send(hdr vnetHdr, frame []byte) {
	if w.link.vnet {
		b := make([]byte, vnetHdrLen, vnetHdrLen+len(frame))
		hdr.put(b)
		frame = append(b, frame...)
	}
	if len(frame) > 0 {
		w.file.Write(frame)
	}
}

// sync returns once the door has dealt with every frame sent before: frames are read in order, and it answers a ping to
// the gateway while it reads it.
func (w *wire) sync() {
	w.t.Helper()
	w.mu.Lock()
	w.next++
	ident, seen := w.next, make(chan struct{})
	w.markers[ident] = seen
	w.mu.Unlock()
	for end := time.Now().Add(patience); ; {
		w.send(vnetHdr{}, l2(header.IPv4ProtocolNumber, packet4(guest4.String(), gateway4.String(), header.ICMPv4ProtocolNumber, nil,
			icmp4(8, 0, uint32(ident)<<16|markerSeq, nil))))
		select {
		case <-seen:
			return
		case err := <-w.served:
			w.served <- err
			w.t.Fatalf("the door is shut: %v", err)
		case <-time.After(200 * time.Millisecond): // a ping may get lost among too many: gVisor limits its answers
		}
		if time.Now().After(end) {
			w.t.Fatal("the door answers no more")
		}
	}
}

// markerSeq tells the pings of sync from those of tests.
const markerSeq = 0xbeef

// read takes what the door sends until the pair is closed.
func (w *wire) read() {
	b := make([]byte, 1<<17)
	for {
		n, err := w.file.Read(b)
		if err != nil || n == 0 {
			return
		}
		frame := b[:n]
		if w.link.vnet {
			frame = frame[vnetHdrLen:]
		}
		w.mu.Lock()
		if ident, ok := marker(frame); ok {
			if c := w.markers[ident]; c != nil {
				close(c)
				delete(w.markers, ident)
			}
		} else {
			what, err := describeAnswer(frame)
			if err != nil {
				w.wrong = append(w.wrong, fmt.Sprintf("%v\n%s", err, hex.Dump(frame)))
			}
			if len(w.answers) < 1000 {
				w.answers = append(w.answers, what)
			}
			if w.watch != nil {
				w.watch(frame)
			}
		}
		w.mu.Unlock()
	}
}

// marker says whether a frame answers a ping of sync, and which.
func marker(frame []byte) (uint16, bool) {
	const at = header.EthernetMinimumSize + header.IPv4MinimumSize
	if len(frame) != at+header.ICMPv4MinimumSize || frame[at] != 0 || binary.BigEndian.Uint16(frame[at+6:]) != markerSeq {
		return 0, false
	}
	return binary.BigEndian.Uint16(frame[at+4:]), frame[header.EthernetMinimumSize+9] == 1
}

// seen returns the answers so far.
func (w *wire) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.answers)
}

// describeAnswer says what a frame of the door is, and what is wrong about it: whatever the sandbox sends, what comes
// back is for its own hardware address and its own IP address, whole, with a header that is right.
func describeAnswer(frame []byte) (string, error) {
	if len(frame) < header.EthernetMinimumSize {
		return "runt", fmt.Errorf("a frame of %d bytes", len(frame))
	}
	eth, body := header.Ethernet(frame), frame[header.EthernetMinimumSize:]
	if !bytes.Equal(frame[:6], guestMAC) || !bytes.Equal(frame[6:12], gatewayMAC) {
		return "frame", fmt.Errorf("a frame from %x to %x", frame[6:12], frame[:6])
	}
	switch eth.Type() {
	case header.ARPProtocolNumber:
		a := header.ARP(body)
		if len(body) < header.ARPSize || a.Op() != header.ARPReply || !bytes.Equal(a.ProtocolAddressSender(), gateway4.AsSlice()) ||
			!bytes.Equal(a.HardwareAddressSender(), gatewayMAC) {
			return "arp", fmt.Errorf("an ARP message that is no answer about the gateway")
		}
		return "arp", nil
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(body)
		if !ip.IsValid(len(body)) || !ip.IsChecksumValid() {
			return "ipv4", fmt.Errorf("a broken IPv4 header")
		}
		if dst := addrPort(ip.DestinationAddress(), 0).Addr(); dst != guest4 && dst != broadcast4 {
			return "ipv4", fmt.Errorf("a packet to %s", dst)
		}
		return describeTransport(ip.Protocol(), ip.Payload()), nil
	case header.IPv6ProtocolNumber:
		ip := header.IPv6(body)
		if !ip.IsValid(len(body)) {
			return "ipv6", fmt.Errorf("a broken IPv6 header")
		}
		if dst := addrPort(ip.DestinationAddress(), 0).Addr(); dst != guest6 && !dst.IsLinkLocalUnicast() {
			return "ipv6", fmt.Errorf("a packet to %s", dst)
		}
		return describeTransport(ip.NextHeader(), ip.Payload()), nil
	}
	return "frame", fmt.Errorf("a frame of type %#x", eth.Type())
}

// describeTransport says what a packet of the door carries: "icmp TYPE/CODE", "tcp FLAGS", "udp".
func describeTransport(proto uint8, b []byte) string {
	switch tcpip.TransportProtocolNumber(proto) {
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		if len(b) >= 2 {
			return fmt.Sprintf("icmp %d/%d", b[0], b[1])
		}
	case header.TCPProtocolNumber:
		if len(b) >= header.TCPMinimumSize {
			return "tcp " + strings.ReplaceAll(header.TCP(b).Flags().String(), " ", "")
		}
	case header.UDPProtocolNumber:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", proto)
}

// icmp4 is an ICMPv4 message; rest is the second word of its header.
func icmp4(typ, code uint8, rest uint32, body []byte) []byte {
	m := append([]byte{typ, code, 0, 0}, binary.BigEndian.AppendUint32(nil, rest)...)
	m = append(m, body...)
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, 0))
	return m
}

// icmp6 is an ICMPv6 message between two addresses.
func icmp6(src, dst string, typ, code uint8, rest uint32, body []byte) []byte {
	m := append([]byte{typ, code, 0, 0}, binary.BigEndian.AppendUint32(nil, rest)...)
	m = append(m, body...)
	return withSum(src, dst, header.ICMPv6ProtocolNumber, m, 2)
}

// withSum sets the checksum, at offset at, of a transport packet between two addresses.
func withSum(src, dst string, proto tcpip.TransportProtocolNumber, b []byte, at int) []byte {
	addr := func(s string) tcpip.Address { return tcpip.AddrFromSlice(netip.MustParseAddr(s).AsSlice()) }
	b[at], b[at+1] = 0, 0
	sum := header.PseudoHeaderChecksum(proto, addr(src), addr(dst), uint16(len(b)))
	binary.BigEndian.PutUint16(b[at:], ^checksum.Checksum(b, sum))
	return b
}

// udp6 is a datagram of the guest to dst with its checksum.
func udp6(dst string, dport uint16, n int) []byte {
	return withSum(guest6.String(), dst, header.UDPProtocolNumber, datagram(9, dport, n), 6)
}

// ext6 is an IPv6 extension header of words*8 bytes, zeros, and what follows it.
func ext6(next uint8, words int, rest []byte) []byte {
	return append(append([]byte{next, byte(words - 1)}, make([]byte, words*8-2)...), rest...)
}

// options6 is a hop-by-hop or destination options header that holds one option without data, and what follows it.
func options6(next, option uint8, rest []byte) []byte {
	return append([]byte{next, 0, option, 4, 0, 0, 0, 0}, rest...)
}

// frag4 is a fragment of an IPv4 packet of the guest to 203.0.113.7; offset is in bytes.
func frag4(proto tcpip.TransportProtocolNumber, id uint16, offset int, more bool, payload []byte) []byte {
	pkt := packet4(guest4.String(), "203.0.113.7", proto, nil, payload)
	h := header.IPv4(pkt)
	h.SetID(id)
	flags := uint8(0)
	if more {
		flags = header.IPv4FlagMoreFragments
	}
	h.SetFlagsFragmentOffset(flags, uint16(offset))
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	return l2(header.IPv4ProtocolNumber, pkt)
}

// frag6 is likewise for IPv6, to 2001:db8::7; next is the header behind the fragment header.
func frag6(next uint8, id uint32, offset int, more bool, payload []byte) []byte {
	return l2(header.IPv6ProtocolNumber, packet6(guest6.String(), "2001:db8::7", 44, fragHeader6(next, id, offset, more, payload)))
}

// fragHeader6 is an IPv6 fragment header and what follows it.
func fragHeader6(next uint8, id uint32, offset int, more bool, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{next, 0}, uint16(offset))
	if more {
		b[3] |= 1
	}
	return append(binary.BigEndian.AppendUint32(b, id), payload...)
}
