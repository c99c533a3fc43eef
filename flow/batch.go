package flow

import "net"

// BatchConn is what the connection that [Arrival.Accept] returns for "udp" and "icmp" may be besides: one that carries
// many datagrams at a time. A door that implements it is spared a call, and a change of goroutines, for each of them.
//
// Every element of a list of datagrams is one, empty ones included; a list is in the order in which they came, and valid
// only during the call that has it. While Forward runs nothing else may read.
type BatchConn interface {
	net.Conn

	// WriteBatch sends the datagrams to the program, and returns how many octets it was done with. Those that the program's
	// kernel has no room for are lost, as on any network. The error is that of a Write.
	WriteBatch(datagrams [][]byte) (octets int64, err error)

	// Forward hands the program's datagrams to sink, each exactly once and in order, until the flow ends or the sink fails.
	// That is the error; sink is not called any more when Forward returns.
	Forward(sink BatchSink) error
}

// BatchUpstream is what the connection of a [Dialer] for "udp" may be besides: one that takes and gives many datagrams at a
// time, as a *batch.Socket does, which the gate makes of every UDP socket of the kernel.
type BatchUpstream interface {
	// Send sends the datagrams in order. It waits for room where wait is set; else it stops at the first one for which there
	// is none. n is how many it is done with, those that were lost on the way included, octets what was sent of them. An
	// error ends the flow.
	Send(datagrams [][]byte, wait bool) (n int, octets int64, err error)

	// Receive hands what comes to f, in order, until f or the upstream fails, and returns that error. The datagrams are
	// valid until f returns.
	Receive(f func(datagrams [][]byte) error) error
}

// Limited is what such a connection may be besides: one whose path carries datagrams up to a length best. Longer ones are
// carried all the same, but not as packets.
type Limited interface {
	// MaxDatagram is that length now, in octets. It may change at any time, and is cheap to ask for.
	MaxDatagram() int
}

// Limiter is what the connection that [Arrival.Accept] returns for "udp" may be besides: one by which the program learns of
// that length, as it would of the MTU of any path. A datagram that is longer and that must not be cut (DF, or IPv6) is answered
// with an ICMP fragmentation needed or an ICMPv6 packet too big (RFC 1191, RFC 8201) and not delivered; one that came in
// fragments is delivered whole.
type Limiter interface {
	// LimitDatagrams has every datagram from now on compared with what max returns. It is called at most once.
	LimitDatagrams(max func() int)
}

// Awaiter is what such a connection may be besides: one that can wait for a datagram without a buffer.
type Awaiter interface {
	// Await returns when a Read has something to return at once, be it an error, or fails with one itself.
	Await() error
}

// BatchSink takes the datagrams that a [BatchConn] forwards. It has one call at a time, but not always by the same goroutine.
type BatchSink interface {
	// TryBatch takes datagrams, from the first on, without waiting for anything, and returns how many it took. The others
	// are to be given to WriteBatch. A door may call it on the goroutine that reads all its packets. An error ends the flow.
	TryBatch(datagrams [][]byte) (n int, err error)

	// WriteBatch takes all of them, and may wait: for room in a socket, or for a judgement.
	WriteBatch(datagrams [][]byte) error
}
