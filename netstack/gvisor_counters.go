package netstack

// Counters of what gVisor threw away before it became a flow.
const (
	countUnknownProtocol = "drop-unknown-protocol" // neither TCP, UDP nor ICMP; answered with an ICMP error
	countIPMalformed     = "drop-ip-malformed"     // broken IP packets that passed the filter
	countIPFragments     = "drop-ip-fragments"     // of those, fragments: overlapping, empty, too large
	countIPDestination   = "drop-ip-destination"   // destinations that are nobody's
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
	for name, n := range map[string]uint64{
		countUnknownProtocol: unknown,
		countIPMalformed:     stats.IP.MalformedPacketsReceived.Value(),
		countIPFragments:     stats.IP.MalformedFragmentsReceived.Value(),
		countIPDestination:   stats.IP.InvalidDestinationAddressesReceived.Value(),
	} {
		if n > 0 {
			out[name] = n
		}
	}
}
