//go:build linux

// Package tproxy is the second door: the kernel's TCP and UDP, intercepted by nftables TPROXY.
//
// In a sandbox (package rules has the set-up) every connection that the program opens ends at a listener of ours in its
// own namespace: the accepted socket has the program's destination as its local address, so there is no table to look it
// up in. From there on a flow is an ordinary *net.TCPConn, which the gate relays to another one by splice(2); no packet
// and no byte comes through this process.
//
//	program ── kernel TCP ── lo ── prerouting: TPROXY ── listener ─▶ Door ─▶ flow.Handler
//
// A UDP flow's first datagram arrives at a listener, too, with its destination beside it (IP_RECVORIGDSTADDR). When the
// flow is accepted it gets a socket of its own in the namespace, bound to the destination and connected to the program's
// port: the kernel gives it the later datagrams, and its replies have the right source. A burst may be under way while that
// happens: before the flow reads what its own socket has first, all that lies in the listener's is taken from there.
//
// Where the kernel has NFQUEUE, a SYN waits in a queue until the gate has judged and dialled: then it goes on to the
// listener, or is refused the way the upstream refused. Without it the kernel finishes the handshake first, and a refusal is
// a RST after it.
//
// What else differs from the netstack door: ICMP and other protocols are dropped and counted.
package tproxy
