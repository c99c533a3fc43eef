// Package netstack is door 1 of weir: a user-space TCP/IP stack on the far end of a sandbox's only network device.
//
// # Theory of operation
//
// The sandbox owns a network namespace with one TAP (or veth). Every frame the kernel in there sends is read by one
// goroutine, [Stack.Serve], from the device's file descriptor. A frame takes this way:
//
//	readv -> vnet header -> filter -> gVisor -> TCP SYN, UDP datagram, ICMP echo -> flow.Arrival -> flow.Handler
//
// The link endpoint (link*.go) speaks virtio-net headers, so that 64 KiB segments pass in one system call in both
// directions although the program inside sees an MTU of 1500 bytes. The filter (filter.go) throws away what the network
// would not carry: foreign MACs, spoofed sources, source routes, multicast. Each reason has a name and a counter, and no
// frame, however broken, stops the read loop. ARP and neighbour solicitations for the gateway are answered by the link
// itself (neigh.go); gVisor has no neighbour table here, because there is exactly one neighbour.
//
// gVisor runs in promiscuous mode with spoofing allowed: it answers for whatever address the program dialled. Nothing is
// forwarded; a flow ends in this process and a host socket carries its bytes on. TCP is accepted late (tcp.go): a SYN
// becomes an Arrival, the gate dials, and only then the handshake is finished, so that a closed port looks closed. What
// is accepted is a [net.Conn] of our own (tcpconn.go) with fast paths between gVisor's buffers and a host socket that
// copy nothing in user space (splice.go).
//
// Datagrams do not become gVisor endpoints. UDP (udp.go) and ICMP echo (icmp.go) share one kind of bounded table
// (datagram_table.go) of flows, each a net.Conn with a queue (datagram_conn.go); what the host answers goes straight to
// the device. The table ends flows that are idle, lets the quietest make room when it is full, and remembers refusals for
// a moment, so that a program that shouts at a closed door costs little. Nobody's ping is answered but the gateway's own.
// DHCP requests for the gateway (dhcp.go) get the sandbox's one address, from a server with a stack of its own.
//
// One Stack serves one sandbox: attribution is the file descriptor, and every limit is the sandbox's own.
package netstack
