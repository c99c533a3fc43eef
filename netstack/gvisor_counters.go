package netstack

import "gvisor.dev/gvisor/pkg/tcpip"

// Counters of what gVisor threw away before it became a flow.
const (
	countUnknownProtocol = "drop-unknown-protocol" // neither TCP, UDP nor ICMP; answered with an ICMP error
	countIPMalformed     = "drop-ip-malformed"     // broken IP packets that passed the filter
	countIPFragments     = "drop-ip-fragments"     // of those, fragments: overlapping, empty, too large
	countIPDestination   = "drop-ip-destination"   // destinations that are nobody's: loopback, IPv4 mapped into IPv6
	countIPParameter     = "drop-ip-parameter"     // options and headers answered with an ICMP parameter problem
	countICMPInvalid     = "drop-icmp-invalid"     // ICMP messages with a bad checksum or too short
	countTCPInvalid      = "drop-tcp-invalid"      // segments of known connections that are broken
	countL4Malformed     = "drop-l4-malformed"     // segments of no connection that are broken
)

// addStackCounters adds gVisor's own counts to out, where they are not 0.
func (s *Stack) addStackCounters(out map[string]uint64) {
	stats := s.stack.Stats()
	unknown := uint64(0)
	byProtocol := stats.NICs.UnknownL4ProtocolRcvdPacketCounts
	for _, proto := range byProtocol.Keys() {
		if c, ok := byProtocol.Get(proto); ok {
			unknown += c.Value()
		}
	}
	v4, v6 := stats.ICMP.V4, stats.ICMP.V6
	in := v4.PacketsReceived
	if n := sum(in.Redirect, in.SrcQuench, in.Timestamp, in.TimestampReply, in.InfoRequest, in.InfoReply); n > 0 {
		out[countICMPType] += n // gVisor knows these types and does nothing about them
	}
	for name, n := range map[string]uint64{
		countUnknownProtocol: unknown,
		countIPMalformed:     stats.IP.MalformedPacketsReceived.Value(),
		countIPFragments:     stats.IP.MalformedFragmentsReceived.Value(),
		countIPDestination:   stats.IP.InvalidDestinationAddressesReceived.Value(),
		countIPParameter:     sum(v4.PacketsSent.ParamProblem, v6.PacketsSent.ParamProblem),
		countICMPInvalid:     sum(v4.PacketsReceived.Invalid, v6.PacketsReceived.Invalid),
		countTCPInvalid:      sum(stats.TCP.InvalidSegmentsReceived, stats.TCP.ChecksumErrors),
		countL4Malformed:     stats.NICs.MalformedL4RcvdPackets.Value(),
	} {
		if n > 0 {
			out[name] = n
		}
	}
}

func sum(counts ...*tcpip.StatCounter) (n uint64) {
	for _, c := range counts {
		n += c.Value()
	}
	return n
}
