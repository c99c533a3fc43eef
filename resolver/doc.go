// Package resolver is the DNS of a sandbox, and the memory of which name was given which address.
//
// A program that is judged by names must get its names from where weir can see them. So the only resolver inside the
// sandbox is a [Server] on the gateway address, and each question takes the same way through it:
//
//	parse      one question, class IN, opcode QUERY; all else is refused in the words of the protocol
//	special    localhost, host.weir.internal, .onion and the canaries of other resolvers are answered here
//	judge      [Server.Decide] judges the name that was asked; a blocked one is NXDOMAIN and never leaves the host
//	charge     the budget of the registrable domain: above it the question is REFUSED
//	ask        an [Upstream] gets a question made anew: nothing of the sandbox's message but name, type and flag bits
//	chain      the CNAMEs of the answer are walked from the name that was asked; a denied member blocks the answer
//	filter     addresses that a public name must not have (rebinding) and ECH keys are taken out
//	learn      what is left is evidence: [Memory] binds the name that was asked to the addresses it was given
//	answer     truncated to what the client can take, with the question as it was spelled
//
// Evidence is learned before the answer is written, so that the first packet of the flow already finds it. Only our own
// upstream's answers are evidence. What other servers say to a sandbox that asks them ([Server.Watch]) is heard: it can
// speak against a flow, never for it.
//
// The host's resolvers (internal/stub) are the upstream of the direct route; a tunnel brings another one. Neither caches: the
// host's resolver does, and an answer older than its TTL would only be a second truth.
package resolver
