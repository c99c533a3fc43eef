// Package gro gives quic-go a UDP socket that receives many packets with one pass through the kernel.
//
// A sender with UDP_SEGMENT (udp(7)) hands some twenty packets to the kernel as one message. Without UDP_GRO the receiving
// kernel cuts it before the socket and queues, copies and reports each packet by itself, which is half of what a packet costs;
// with it the message arrives as it was sent, or as the network card has joined it, and is cut here. quic-go does not ask for
// that, but takes its packets from whatever has a ReadBatch; [Wrap] is one.
//
// Nothing else changes: order, boundaries, addresses, ECN bits and packet info are those of the packets, because the kernel
// joins only what agrees in them.
package gro
