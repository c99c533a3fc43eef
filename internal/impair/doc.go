// Package impair is a bad network between two links: what tc netem does, without the kernel module and the privileges that
// it takes, and with a NAT and an MTU besides.
//
// A [Link] reads IP packets at one end and writes them at the other, so it treats QUIC, kernel TCP and whatever else there
// is alike. Each packet takes the same way, and each direction has [Settings] of its own, which may change at any time:
//
//	read ─▶ watch ─▶ blackhole, block ─▶ too long? ─▶ NAT ─▶ lose ─▶ duplicate ─▶ rate and queue ─▶ delay ─▶ write
//	                                         └─ ICMP "packet too big" to the sender
//
// What befalls a packet is drawn from a generator with a seed: the same packets in the same order meet the same fate. The
// ends are anything that has one packet to a Read and a Write; [OpenTUN] makes one of the kernel's.
package impair
