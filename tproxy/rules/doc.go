//go:build linux

// Package rules is what the tproxy door asks of the kernel inside a sandbox's network namespace: addresses, routes, an
// nftables ruleset, and the sockets that belong there. It runs once, in the process that owns the namespace, before the
// program starts; afterwards nobody inside has the capability to change any of it.
//
// # How packets come to the door
//
// The namespace has no link to the outside. Its loopback device has the sandbox's address, and a route says that every
// other address is local, too:
//
//	local default dev lo src 10.77.0.2
//
// So whatever the program sends leaves by lo and comes back in by lo, where the prerouting hook sees it first:
//
//	to 127.0.0.0/8, or to the sandbox's own address     pass: the program talks to itself, or is answered
//	not from the sandbox's own address                  drop, and say so: the source is forged
//	to multicast, broadcast, class E                    drop, and say so
//	TCP, UDP                                            to the socket of their flow, or else to the door's listener, address
//	                                                    and port unchanged (TPROXY)
//	ICMP that says that nobody takes an answer          drop
//	everything else                                     drop, and say so
//
// The chain's policy is drop. The listener's accepted sockets have the program's destination as their own address, since
// every address is local; what they send back takes the same way. Were the rules gone, the packets would meet no socket:
// there is still no way out.
//
// What is dropped is said over NFLOG, to a socket that is opened here: reading from it needs no capability.
package rules
