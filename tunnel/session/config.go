package session

import (
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/tunnel/wire"
)

// Bounds of a session.
const (
	// MaxFlows is how many streams an edge may have open towards one client: flows, DNS queries and what waits for its STATUS.
	MaxFlows = 4096

	// maxFromClient is how many streams a client may have open: the control stream, and probes.
	maxFromClient = 8

	// HandshakeTimeout bounds HELLO and WELCOME, headerTimeout the header of a stream and whatever else is sent at once.
	HandshakeTimeout = 5 * time.Second
	headerTimeout    = 5 * time.Second

	// creditTimeout is how long an edge waits for the client to let it open one more stream.
	creditTimeout = 2 * time.Second

	// DialTimeout is how long a client tries when the edge does not say.
	DialTimeout = 30 * time.Second

	// QueryTimeout is how long a client looks for the answer to a DNS question.
	QueryTimeout = 10 * time.Second

	// stallTimeout ends a TCP flow whose destination takes nothing for so long.
	stallTimeout = 5 * time.Minute
)

// Transports of a session.
const (
	QUIC      = "quic"
	WebSocket = "websocket"
)

// EdgeConfig is what an edge wants of a session. The zero value is ready.
type EdgeConfig struct {
	// Transport is what the session runs on: [QUIC] or [WebSocket]. It is for [tunnel.Stats].
	Transport string

	// Session is an id that the client is told, for its log. At most 64 octets.
	Session string

	// Renew makes a certificate from a PKCS #10 request, in the form that the client's store takes. Nil refuses.
	Renew func(csr []byte) (chain []byte, err error)

	// RenewAfter is when the client is told to ask for its next certificate; 0 leaves it to the client.
	RenewAfter time.Duration

	// Routes, when set, is called with the client's routes whenever they change, but not for those of its HELLO. It must
	// not block.
	Routes func([]wire.Route)

	Log logrus.FieldLogger
}

// ClientConfig is what a client wants of a session. The zero value is ready.
type ClientConfig struct {
	// Transport is what the session runs on: [QUIC] or [WebSocket]. It is for [tunnel.Stats].
	Transport string

	// Generation tells processes of one client apart: the greater one wins.
	Generation uint64

	// Routes are what the client says that it reaches.
	Routes []wire.Route

	// Software and OS are for people on the hosted side. At most 128 octets each.
	Software, OS string

	Log logrus.FieldLogger
}

// Role is an end of a session.
type Role int

// The roles.
const (
	ClientRole Role = iota
	EdgeRole
)

// Sizes of packets to begin with, in octets of UDP payload. They are also the least that is ever used, so they fit every path
// that the transport is offered on: 1500 octets less what tunnels on the way may take, 1280 octets less the headers of IPv6
// and UDP. In WebSocket there is no path: the largest that quic-go sends is right.
const (
	packetIPv4      = 1252
	packetIPv6      = 1232
	packetWebSocket = 1452

	// packetEdge is what the edge begins with. The client that fails with its own size tries the least that QUIC allows (RFC
	// 9000 section 14), which is of no use while the edge answers in larger ones. It finds the path's size within some round
	// trips.
	packetEdge = 1200
)

// Windows of flow control (RFC 9000 section 4), in octets. A stream's grows while it is read; that of the connection is there
// from the beginning, since flows that nobody reads count against it (stalls).
const (
	streamWindow    = 512 << 10
	maxStreamWindow = 8 << 20
	clientWindow    = 64 << 20
	edgeWindow      = 32 << 20
)

// QUICConfig returns the transport parameters of weir/1 for one end. transport is [QUIC] or [WebSocket]; ipv6 says whether
// the path to the other end is IPv6. What is returned is the caller's.
func QUICConfig(role Role, transport string, ipv6 bool) *quic.Config {
	c := &quic.Config{
		Versions:                         []quic.Version{quic.Version1},
		HandshakeIdleTimeout:             HandshakeTimeout,
		MaxIdleTimeout:                   15 * time.Second,
		KeepAlivePeriod:                  5 * time.Second,
		InitialStreamReceiveWindow:       streamWindow,
		MaxStreamReceiveWindow:           maxStreamWindow,
		InitialConnectionReceiveWindow:   clientWindow,
		MaxConnectionReceiveWindow:       clientWindow,
		MaxIncomingStreams:               MaxFlows,
		MaxIncomingUniStreams:            -1,
		EnableDatagrams:                  true,
		EnableStreamResetPartialDelivery: true,
		InitialPacketSize:                packetIPv4,
	}
	if role == EdgeRole {
		c.MaxIncomingStreams = maxFromClient
		c.InitialConnectionReceiveWindow, c.MaxConnectionReceiveWindow = edgeWindow, edgeWindow
	}
	switch {
	case transport == WebSocket:
		c.InitialPacketSize = packetWebSocket
		c.DisablePathMTUDiscovery = true
	case role == EdgeRole:
		c.InitialPacketSize = packetEdge
	case ipv6:
		c.InitialPacketSize = packetIPv6
	}
	return c
}
