//go:build linux

// Package batch carries datagrams over sockets of the kernel, many with one system call.
//
// A datagram of 1200 bytes costs the kernel some hundred nanoseconds to copy and a multiple of that to walk through its
// layers and to be handed over by a system call of its own. Three things take the multiple away:
//
//   - sendmmsg(2) and recvmmsg(2) take a list of messages;
//   - datagrams of one size that follow each other are sent as one message with UDP_SEGMENT (udp(7)): it passes the layers
//     once, and is cut by the device, or by the receiving socket;
//   - a socket with UDP_GRO gets those that the kernel has joined as one message, with the size of the cuts beside it.
//
// None of this changes what the two ends see. A datagram is never joined with another, cut, or reordered: what goes in as
// a list comes out as the same list. A kernel or a device that refuses to segment is asked no more, for that socket and
// that size, and gets one message per datagram.
//
// A list is a [][]byte whose elements are payloads, empty ones included; they belong to whoever calls, and are not kept.
package batch
