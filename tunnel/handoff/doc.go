// Package handoff is how a data path reaches the edge process.
//
// A data path parses what the enemy sends, so it has no keys and no way to other hosts but sockets of its own; the edge has
// the keys and the clients' connections, and parses nothing that a program sent. Between the two are UNIX sockets, all made
// by the edge (a data path under lockdown makes none):
//
//	data path                                      edge
//	   | ---- open, query, fin, close, abort -------> |    one control socket for each sandbox, SOCK_SEQPACKET
//	   | <--- opened + descriptor, failed, answer,    |
//	   |      end ----------------------------------- |
//	   | <==== octets of one TCP flow ==============> |    one SOCK_STREAM pair for each TCP flow
//	   | <==== batches of datagrams, notices =======> |    one SOCK_SEQPACKET pair for each UDP flow
//
// Octets never pass through the control socket, and a TCP flow's socket carries nothing else, so the data path splices it like
// any socket of the kernel's. What such a socket cannot say is how a stream ended: there is no RST among UNIX sockets. So each
// side says on the control socket what the end is going to mean before it makes one: a fin precedes the half-close, a close the
// close, and an abort or an end with a code the end of both directions. An end that nobody announced means that the other
// process has died: the flow is lost.
//
// The edge trusts nothing that comes over these sockets. Whose flow it is stands in no message: the edge knows it of the
// control socket. Messages are bounded and read into one buffer, descriptors that come along are refused, opens in flight and
// open flows are counted against [Options], ids grow and are never used again, and a data path that does not read its control
// socket is cut off. What it writes waits in kernel buffers of fixed size, and what it does not read stays with the client,
// whose stream is not read either.
package handoff
