// Package capture reads packet captures and says which flows are in them and what each claims to be: the sniffers of
// the live data path, over a file.
//
// # The order of a packet
//
// A frame comes out of the file (file.go, pcap.go, pcapng.go), loses its link layer (link.go, wireless.go), its IP
// headers (ip.go), its fragmentation (fragment.go) and any tunnels around it (tunnel.go), and arrives as a TCP segment,
// a UDP datagram or an ICMP echo (transport.go). The table (table.go) finds its flow. TCP octets are put back in order
// (assemble.go) before the sniffers see them (tcp.go); datagrams go there as they are (udp.go). Messages on the DNS ports
// become questions with their answers (dns.go, question.go).
//
// A packet inside a tunnel (GRE, IP in IP, VXLAN, GENEVE, Teredo, GTP-U) belongs to the inner flow only; the tunnel
// itself is not reported.
//
// # What is reported
//
// One network-connect event per flow (claim.go), as soon as its claim is known and else at its end or the end of the
// file, with the time of the flow's first packet and without a verdict; one dns-query event per question, when its answer
// was seen and else at the end. A flow that carries DNS has no line of its own. A hello later in the same stream
// (STARTTLS, inside a CONNECT) adds its name to Names; later requests on an HTTP connection are not looked at, as on the
// live path. Another QUIC connection on the same ports that claims another name is a line of its own.
//
// # A capture is not a connection
//
// Three things differ from the live path, where the stack terminates every flow itself. Which end is the client must be
// found out: from SYN and SYN-ACK, else from which side's first octets make a claim, else from the ports. Packets may be
// missing, doubled or out of order: the first copy of an octet counts, as it did for the receiver, and what follows a
// hole that is never filled is not looked at. And checksums are not verified, because captures taken on the sending host
// rarely have valid ones.
//
// # Bounds
//
// The file is as hostile as its packets. Lengths in it are never allocated before they were compared with a bound, and
// the bounds are constants: [MaxRecord], [MaxFlows], [MaxHeld], [MaxFragments] and [MaxQuestions]. Where one is
// reached the oldest item is reported with what is known and forgotten, and [Stats] counts it.
//
// The decoders are written here rather than taken from gopacket because a capture must be read to its end whatever is
// in it: frames cut by the snap length, link types that library does not know (Cisco HDLC, NFLOG), files whose blocks
// would make its reader keep memory in proportion to the file. The tests use gopacket to write captures, so the two check
// each other.
package capture
