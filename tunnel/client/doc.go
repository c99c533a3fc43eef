// Package client is the user's end of a tunnel: what a hosted sandbox reaches through it is decided and dialled here.
//
// A [Handler] serves what the edge asks for over a session. The edge is not trusted: whatever it says of a flow may be a lie,
// but for the address, because that is what is dialled. So the user's own list ([Policy]) is judged on that address, for each
// flow, here; a rule for a name lets a flow pass only when this machine's own resolver gave that name exactly that address,
// lately, for a question of the sandbox or now. The judgement is repeated for the address of the socket itself, just before it
// connects, and no name ever reaches a dialer.
//
//	edge -> session -> Dial  -> limits -> judge (policy, evidence, lookup) -> ask -> socket of the user's machine
//	                   Query -> limits -> judge -> localdns -> strip -> evidence
//
// Loopback, link-local and metadata addresses, the machine's own ones, the gateways of its containers and the edge itself are
// guarded: only a rule for exactly them opens them (package flow/policy). Private networks are not: they are what a tunnel is
// for.
//
// Every flow and every question is told to a sink in the words of the event log, with the id that the flow has on the hosted
// side, and the flows that are open can be listed and ended ([Handler.Flows], [Handler.Kill]): that is what a display shows.
// Whoever scans is paused. All bounds stand in [Limits] and limits.go, each with its counter.
//
// A [Handler] starts no goroutine that outlives a call, but for questions to the user, which [Handler.Close] ends.
package client
