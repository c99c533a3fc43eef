package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// minPathMTU4 is the narrowest IPv4 path that the sandbox is believed to have inside, as Linux believes it of others
// (net.ipv4.route.min_pmtu). IPv6 has no narrower ones than its minimum MTU. Without a bound one forged error would have
// a download cut into segments of one byte.
const minPathMTU4 = 552

// checkICMP4 says why an ICMPv4 message (RFC 792) of the sandbox is dropped, or "". b is what is known of the message,
// or of its first fragment. Besides echo requests there are errors about what was sent into the sandbox: a port that
// nobody listens on, a narrower link behind the first. Nothing else means anything to us: redirects, router discovery,
// timestamps, address masks and answers to questions that nobody asked.
func checkICMP4(b []byte, fragment bool) string {
	if len(b) < header.ICMPv4MinimumSize {
		return dropRunt
	}
	switch m := header.ICMPv4(b); m.Type() {
	case header.ICMPv4Echo:
		return ""
	case header.ICMPv4DstUnreachable:
		if fragment || m.Code() == header.ICMPv4FragmentationNeeded && m.MTU() < minPathMTU4 {
			return dropICMPError
		}
		return ""
	}
	return countICMPType
}

// checkICMP6 is checkICMP4 for ICMPv6 (RFC 4443).
func checkICMP6(b []byte, fragment bool) string {
	if len(b) < header.ICMPv6MinimumSize {
		return dropRunt
	}
	switch header.ICMPv6(b).Type() {
	case header.ICMPv6EchoRequest:
		return ""
	case header.ICMPv6DstUnreachable:
		if fragment {
			return dropICMPError
		}
		return ""
	case header.ICMPv6PacketTooBig:
		if fragment || binary.BigEndian.Uint32(b[4:]) < header.IPv6MinimumMTU {
			return dropICMPError
		}
		return ""
	}
	return countICMPType
}
