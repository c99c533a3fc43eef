package netstack

import (
	"bytes"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// rawConn is the guest's side of a TCP connection without a stack: a test says which segments it consists of.
type rawConn struct {
	w     *wire
	dst   netip.AddrPort
	sport uint16
	iss   uint32 // the first byte of data is iss+1
	ack   uint32 // what the guest has seen of the door's sequence numbers
	got   chan rawSegment
}

// rawSegment is a segment of the door.
type rawSegment struct {
	flags   header.TCPFlags
	seq     uint32
	ack     uint32
	payload []byte
}

// openRaw performs a handshake and fails when the door answers it in another way.
func (w *wire) openRaw(sport uint16, dst string, options []byte) (*rawConn, error) {
	c := &rawConn{w: w, dst: netip.MustParseAddrPort(dst), sport: sport, iss: uint32(sport) << 8, got: make(chan rawSegment, 4096)}
	w.mu.Lock()
	w.watch = c.receive
	w.mu.Unlock()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c.send(0, flagSYN, options, nil)
		s, ok := c.next(time.Second)
		if !ok {
			continue
		}
		if s.flags != flagSYN|header.TCPFlagAck || s.ack != c.iss+1 {
			return nil, fmt.Errorf("the SYN to %s was answered with %q", dst, s.flags)
		}
		c.ack = s.seq + 1
		c.send(1, header.TCPFlagAck, nil, nil)
		return c, nil
	}
	return nil, fmt.Errorf("the SYN to %s was not answered", dst)
}

// send sends a segment; offset counts from the SYN, so data begins at 1.
func (c *rawConn) send(offset uint32, flags header.TCPFlags, options, payload []byte) {
	c.sendWindow(offset, flags, 65535, options, payload)
}

func (c *rawConn) sendWindow(offset uint32, flags header.TCPFlags, window uint16, options, payload []byte) {
	b := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(options)+len(payload))
	header.TCP(b).Encode(&header.TCPFields{
		SrcPort: c.sport, DstPort: c.dst.Port(), SeqNum: c.iss + offset, AckNum: c.ack,
		DataOffset: uint8(header.TCPMinimumSize + len(options)), Flags: flags, WindowSize: window,
	})
	b = append(append(b, options...), payload...)
	if dst := c.dst.Addr().String(); c.dst.Addr().Is4() {
		c.w.send(vnetHdr{}, l2(ethernet4, packet4(guest4.String(), dst, 6, nil, withSum(guest4.String(), dst, 6, b, header.TCPChecksumOffset))))
	} else {
		c.w.send(vnetHdr{}, l2(ethernet6, packet6(guest6.String(), dst, 6, withSum(guest6.String(), dst, 6, b, header.TCPChecksumOffset))))
	}
}

// receive sees every frame of the door and keeps the connection's own segments.
func (c *rawConn) receive(frame []byte) {
	ip := frame[header.EthernetMinimumSize:]
	var b []byte
	switch {
	case header.IPVersion(ip) == header.IPv4Version && header.IPv4(ip).Protocol() == 6:
		b = header.IPv4(ip).Payload()
	case header.IPVersion(ip) == header.IPv6Version && header.IPv6(ip).NextHeader() == 6:
		b = header.IPv6(ip).Payload()
	}
	if len(b) < header.TCPMinimumSize || header.TCP(b).DestinationPort() != c.sport || header.TCP(b).SourcePort() != c.dst.Port() {
		return
	}
	seg := header.TCP(b)
	select {
	case c.got <- rawSegment{seg.Flags(), seg.SequenceNumber(), seg.AckNumber(), bytes.Clone(seg.Payload())}:
	default:
	}
}

// next is the door's next segment.
func (c *rawConn) next(timeout time.Duration) (rawSegment, bool) {
	select {
	case s := <-c.got:
		return s, true
	case <-time.After(timeout):
		return rawSegment{}, false
	}
}

// read collects the door's data, acknowledging it, until there are n bytes, or says what came instead.
func (c *rawConn) read(n int, offset uint32) ([]byte, error) {
	var data []byte
	for end := time.Now().Add(patience); len(data) < n; {
		s, ok := c.next(time.Until(end))
		switch {
		case !ok:
			return data, fmt.Errorf("%d of %d bytes came", len(data), n)
		case s.flags.Contains(flagRST):
			return data, fmt.Errorf("reset after %d bytes", len(data))
		case s.seq != c.ack: // a retransmission, or a hole
			continue
		}
		data = append(data, s.payload...)
		c.ack += uint32(len(s.payload))
		c.send(offset, header.TCPFlagAck, nil, nil)
	}
	return data, nil
}
