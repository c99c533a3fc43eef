// Package edge is the hosted end of tunnels: it lets clients in, and gives the flows of sandboxes to them.
//
//	UDP  -> QUIC listener --+-- weir-enroll/1 -> creds        one token, one certificate, and out
//	TCP  -> WebSocket ------+-- weir/1 -------> session -> registry: space -> clients
//	                                                           ^
//	handoff (one socket for each sandbox) -> Sandbox: quotas --+-- choice of the client -> session.OpenStream ...
//
// A sandbox is of a space, which the edge knows from who joined it, and reaches the clients of that space and no other. Among
// those the choice is: the one that the open names; else those whose advertised routes cover the destination most
// specifically; among equals the one that a hash of sandbox and destination falls on, so that a program talks to one client
// for as long as that is there (rendezvous hashing: the others keep theirs when one goes). A client that does not answer a
// ping while an open hangs is passed by. What a client advertises gives it no right: it judges each flow itself.
//
// Where there is no client there is no way out. An open waits a moment if one was there just now, as when a laptop changes its
// network, and then fails with [tunnel.NoClient].
//
// A client that connects again takes the place of its older sessions: the session with the greater generation wins, and the
// other process is told so. TCP flows of a session that is lost end with [tunnel.Lost]; UDP flows are opened anew on the
// client's next session, where its machine still has their sockets.
//
// Everything that a client or a stranger can do is bounded by constants of this package and counted in [Counters]: handshakes of
// one address and of all, connections that have not introduced themselves, sessions of a client, of a space and in all. So is
// what a sandbox can do: opens and UDP octets in a second. How the sandboxes of one client share its connection is package
// session's to see to.
package edge
