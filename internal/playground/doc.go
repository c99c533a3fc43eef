//go:build linux

// Package playground is a small internet on one machine, made without privileges: what weir demo shows and the end-to-end
// tests run against.
//
// A process that enters it (see [Enter]) lives on a "host": a network namespace with one uplink, a default route and a
// resolv.conf. At the other end of the uplink is a second namespace, the "internet": it holds every address that the
// world was given, a DNS server that knows the world's names, and whatever servers are opened. Sockets belong to the
// namespace they were made in, so one process serves the internet and runs programs on the host.
//
//	 host namespace                       internet namespace
//	┌─────────────────────┐  veth  ┌──────────────────────────────┐
//	│ weir run -- CMD     │────────│ 198.51.100.53   DNS          │
//	│ 192.0.2.2           │ uplink │ any address     HTTP, TLS .. │
//	│ 2001:db8::2         │        │                              │
//	└─────────────────────┘        └──────────────────────────────┘
//
// Nothing of it reaches a real network. [World.Sent] counts the packets on the uplink, for tests that have to prove that
// nothing left.
package playground
