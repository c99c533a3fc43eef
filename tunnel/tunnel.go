package tunnel

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ALPN identifiers (RFC 7301) of the tunnel and of the enrolment that comes before the first one.
const (
	ALPN       = "weir/1"
	EnrollALPN = "weir-enroll/1"
)

// DefaultSpace is the space of those who never named one.
const DefaultSpace = "default"

// Identity is who a client is, as its certificate says: never what the client says of itself in the tunnel.
type Identity struct {
	Space  string // the tenant
	Client string // the name of the client, unique in its space
}

// String returns SPACE/CLIENT.
func (i Identity) String() string { return i.Space + "/" + i.Client }

// Owner is whose flow it is, as the edge knows it: from the socket that the flow came by, never from what came over it.
type Owner struct{ Space, App, Sandbox string }

// Open asks for a flow: a TCP connection or an exchange of UDP datagrams with one address.
type Open struct {
	Owner

	// Flow is the id of the flow in the event log of the hosted side ("7f3a9c-12"), so that both logs speak of the same.
	Flow string

	// Network is "tcp" or "udp".
	Network string

	// Addr is the destination as the program addressed it.
	Addr netip.AddrPort

	// Names are those that the program was given Addr for, by this route, or that it claims in its first bytes; at most
	// [MaxNames] in normal form. Hostile text: the client believes none that it has not resolved itself.
	Names []string

	// Via names the client that is to carry the flow; empty leaves the choice to the edge. It stays on the hosted side.
	Via string
}

// MaxNames bounds the names of one flow.
const MaxNames = 8

// Query asks the user's machine's own resolver, the way a program on that machine would.
type Query struct {
	Owner
	Via     string // as in Open
	Message []byte // one DNS message (RFC 1035 section 4.1) without a length
}

// Opener opens flows. One session is one, and so is the space of a sandbox, which chooses the session.
//
// Errors are or wrap an [*Error]. All methods may be called from many goroutines.
type Opener interface {
	// OpenStream returns when the client has connected. The connection is the caller's to close.
	OpenStream(ctx context.Context, o Open) (Stream, error)

	// OpenDatagrams returns when the client has a socket for the flow. What is returned is the caller's to close.
	OpenDatagrams(ctx context.Context, o Open) (Datagrams, error)

	// Query returns the answer of the client's resolver, a DNS message, and which client gave it.
	Query(ctx context.Context, q Query) (answer []byte, by Identity, err error)
}

// Stream is one end of a TCP flow. Read returns io.EOF when the far end has ended its stream, and an *Error when it was
// reset ([Reset]) or the tunnel has gone ([Lost]).
type Stream interface {
	net.Conn

	// CloseWrite ends the stream in this direction (half-close).
	CloseWrite() error

	// Abort ends both directions at once, with the code for the other side. Close after it does nothing.
	Abort(code Code)

	// By is the client that carries the flow.
	By() Identity
}

// Datagrams is the hosted end of a UDP flow.
type Datagrams interface {
	// Send carries one datagram of 0 to 65507 octets. It never blocks: what there is no room for is lost and counted, as on
	// any network. One that is longer than MaxDatagram goes on the flow's stream instead, whole and in order with those
	// that go there, too. The error says that the flow has ended, and how.
	Send(datagram []byte) error

	// Receive waits for a datagram and copies it into b, which has room for 65507 octets.
	Receive(b []byte) (n int, err error)

	// MaxDatagram is the length up to which a datagram fits into one packet of the path now, in octets. It changes.
	MaxDatagram() int

	// Close ends the flow. It may be called more than once.
	Close() error

	// By is the client that carries the flow.
	By() Identity
}

// Batched is a [Datagrams] that passes many at a time, for a few system calls and wake-ups instead of many. A session's flow is
// one, and so is a data path's.
type Batched interface {
	Datagrams

	// SendBatch is Send for each of the datagrams, in order. They are the caller's again when it returns.
	SendBatch(datagrams [][]byte) error

	// ReceiveBatch calls take with all the datagrams that have come, at most 64 KiB of them, again and again until the flow
	// ends or take fails, and returns how. They are take's while it runs. While none come no buffer is held.
	ReceiveBatch(take func(datagrams [][]byte) error) error
}

// Handler is the user's end: what is done for the edge, after the user's own policy has let it. Errors are or wrap an
// [*Error], which tells the edge no more than it has to know.
type Handler interface {
	// Dial connects to the flow's destination. For "udp" one Read or Write of the connection is one datagram. The session
	// closes it. Where it is an [Upstream], the session says how the flow ended, and errors of Read and Write that are or wrap
	// an [*Error] carry the code for the other side: the user has ended the flow, say. io.EOF of a Read for "udp" is the end
	// of the flow without an error, after idle time.
	Dial(ctx context.Context, o Open) (net.Conn, error)

	// Query answers a DNS message with one.
	Query(ctx context.Context, q Query) (answer []byte, err error)
}

// Upstream is a connection of a [Handler] that wants to know more than net.Conn can tell it.
type Upstream interface {
	net.Conn

	// CloseWrite ends the stream towards the destination (half-close); only for "tcp".
	CloseWrite() error

	// Abort ends the connection because the flow has ended with this code on the other side: after [Reset] the destination
	// sees a RST; after [Lost] the socket of a UDP flow waits a while for the edge to open the flow again. Close after it does
	// nothing.
	Abort(code Code)

	// SyscallConn gives access to the socket itself, for batches; Carried is to be told of octets that went past Read and Write.
	SyscallConn() (syscall.RawConn, error)
	Carried(sent, received int)
}

// Stats are what became of one session so far.
type Stats struct {
	Transport                       string // "quic" or "websocket"
	RTT                             time.Duration
	Flows                           int    // open now
	Sent, Received                  uint64 // octets of packets
	PacketsSent, PacketsLost        uint64
	DatagramsDropped, DatagramsLong uint64 // those without room, those that went on a stream
	MaxDatagram                     int    // octets
}
