package websocket

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Path is where the edge's HTTP server has the tunnel.
const Path = "/weir/v1/ws"

// Bounds of what is sent and taken.
const (
	MaxPacket   = 1500      // octets of a QUIC packet; quic-go makes none above 1452
	MaxMessage  = 64 << 10  // octets of a WebSocket message
	QueueLen    = 512       // packets that wait for the socket, those that are being written included
	lengthOctet = 2         // octets before each packet
	keptBuffer  = 256 << 10 // octets of buffer that a queue keeps while it is empty
)

// errMalformed is what a message is that is no list of packets.
var errMalformed = errors.New("malformed message")

// appendPacket appends packet to a message.
func appendPacket(message, packet []byte) []byte {
	message = binary.BigEndian.AppendUint16(message, uint16(len(packet)))
	return append(message, packet...)
}

// nextPacket returns the first packet of a message that check has let pass, and what is behind it.
func nextPacket(message []byte) (packet, rest []byte) {
	n := lengthOctet + int(binary.BigEndian.Uint16(message))
	return message[lengthOctet:n:n], message[n:]
}

// check returns how many packets a message has, or why it is none. Packets of no octets are let pass, and are for nobody.
func check(message []byte) (packets int, err error) {
	for ; len(message) > 0; packets++ {
		if len(message) < lengthOctet {
			return 0, fmt.Errorf("%w: half a length", errMalformed)
		}
		n := int(binary.BigEndian.Uint16(message))
		if n > MaxPacket {
			return 0, fmt.Errorf("%w: a packet of %d octets", errMalformed, n)
		}
		if lengthOctet+n > len(message) {
			return 0, fmt.Errorf("%w: %d octets of a packet of %d", errMalformed, len(message)-lengthOctet, n)
		}
		message = message[lengthOctet+n:]
	}
	return packets, nil
}

// cut returns the longest list of whole packets at the start of batch that one message may hold, and their number.
func cut(batch []byte) (message, rest []byte, packets int) {
	end := 0
	for end < len(batch) {
		n := lengthOctet + int(binary.BigEndian.Uint16(batch[end:]))
		if end+n > MaxMessage {
			break
		}
		end += n
		packets++
	}
	return batch[:end], batch[end:], packets
}
