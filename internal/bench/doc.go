//go:build linux

// Package bench measures weir's doors, and the peers that do the same job, side by side.
//
// The measuring process is in a playground (package playground): two network namespaces of its own, so that no other network
// is touched. A server runs on the loopback of the "host" namespace. Every subject runs the same client, a copy of the
// measuring binary, and the client reaches the server on the address that the subject has for the host's loopback:
//
//	host               127.0.0.1                        no sandbox at all
//	netstack, tproxy,  host.weir.internal (10.77.0.1)   weir run, enforcing a rule, sniffing, writing events to a file
//	both
//	tunnel-netstack,   the host's own address           weir run --route tunnel, an edge and a client, all on this machine; over
//	tunnel-tproxy                                       QUIC, and over QUIC in WebSocket
//	pasta              the gateway's address            MTU 65520, its default
//	slirp4netns        10.0.2.2                         MTU 1500, its default
//	gvisor-tap-vsock   10.0.2.1                         rootlesskit with that network driver; MTU 1500 and 65520, its default
//
// All subjects live at the same time and take turns with every metric, a different one first in each round, so that whatever
// else the machine does hits them alike. The result is the median of the rounds.
//
// What a row is called is not what was asked for but what was found running (see identify in identity.go): weir's event log
// says which door it has, rootlesskit's API which network driver, the process table what else carries the packets; and the
// client's network namespace is the host's own for host and for nothing else. A subject that is not what it should be is not
// measured. When the client of a weir ends, the flows that it opened are compared with the log: one event per flow, or the
// result says that it is wrong.
//
//	Bench ── orders, a line of JSON each ──▶ client (in the subject) ── flows ──▶ server (on the host)
//	      ◀── answers ──────────────────────
//
// bench.go opens and closes all that; measure.go has the loops; subject.go, peers.go, running.go and identity.go what a
// subject is, how it is started, spoken to and recognised; client.go, load.go and server.go are the two ends; process.go and
// machine.go what the kernel says; result.go, targets.go, table.go, page.go what becomes of the numbers.
package bench
