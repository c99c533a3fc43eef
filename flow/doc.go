// Package flow is the middle of weir: from "a flow arrived" to its line in the event log.
//
// # Theory of operation
//
// A door (netstack, tproxy) intercepts packets and fills an [Arrival]; a [Gate], the one [Handler], takes it through the
// same steps whatever the door was:
//
//	recall -> decide by address -> dial -> accept -> hold the first bytes -> judge the claim -> relay -> record
//
// stream.go is that way for TCP, datagram.go for UDP and echo; inbound.go is for connections from outside to a published
// port, which are not judged. visit.go is what both share: one flow, what is known of it, and the questions to the policy.
// record.go writes its network-connect and network-close.
//
// The order is what keeps promises. An address that evidence or an address rule permits is dialled before the handshake
// inside is finished, so that refused is refused; no byte of the client leaves before its claim is judged; and where only a
// claim can permit the flow, nothing is dialled before it did. Evidence comes from the resolver by way of [Names], verdicts
// from flow/policy, claims from flow/sniff; the gate obeys and joins, it decides nothing itself.
package flow
