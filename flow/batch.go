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
