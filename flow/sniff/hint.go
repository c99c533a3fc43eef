package sniff

import "net/netip"

// Values of [Hint.Protocol].
const (
	ProtocolTLS         = "tls"
	ProtocolHTTP        = "http"
	ProtocolHTTPConnect = "http-connect" // HTTP CONNECT, over HTTP/1 or HTTP/2: Host is the far end that is asked for
	ProtocolH2C         = "h2c"          // HTTP/2 in plaintext with prior knowledge, RFC 9113 section 3.3
	ProtocolQUIC        = "quic"
	ProtocolPostgres    = "postgres"
	ProtocolSSH         = "ssh"
	ProtocolSOCKS       = "socks"
	ProtocolDTLS        = "dtls"
	ProtocolSTUN        = "stun"
)

// Values of [Hint.Source]; they are the name_source of the event log.
const (
	SourceSNI      = "sni"
	SourceQUICSNI  = "quic-sni"
	SourceHTTPHost = "http-host"
)

// Bounds of what is kept.
const (
	// MaxALPN is the number of application protocols kept in [Hint.ALPN].
	MaxALPN = 16

	// MaxHello is the longest ClientHello that is parsed, in octets with its handshake header.
	MaxHello = 64 << 10

	// MaxStream is the number of octets of a connection that a [Stream] looks at, and with it the longest request head: a
	// hello of [MaxHello] and the headers of its records. A claim that is not complete by then is malformed.
	MaxStream = 64<<10 + 8<<10

	// MaxDatagrams is the number of datagrams a [QUIC] takes before it gives up.
	MaxDatagrams = 32

	// MaxCrypto bounds the CRYPTO stream that a [QUIC] puts together, in octets.
	MaxCrypto = 64 << 10

	// MaxWatch is the number of plaintext octets a [Watch] lets pass before it gives up.
	MaxWatch = 16 << 10
)

// Hint is what the first bytes of a flow claim.
type Hint struct {
	// Protocol is one of the Protocol constants, "" if no sniffer knows the bytes.
	Protocol string

	// Host is the claimed name in the normal form of internal/hostname, "" if there is none.
	Host string

	// HostIP is set instead of Host when the claim is an IP literal ("Host: 192.0.2.1", "CONNECT [2001:db8::1]:443").
	HostIP netip.Addr

	// Port is the port in an authority, 0 if there was none.
	Port uint16

	// Source is one of the Source constants, "" if nothing was claimed.
	Source string

	// ALPN has the application protocols the client offers (RFC 7301), in its order, at most [MaxALPN] of at most 255
	// octets each. They are raw octets from the wire: escape them at every exit.
	ALPN []string

	// ECH says that the outer hello has an encrypted_client_hello extension: Host may be the public name of a provider,
	// not the server that is meant. GREASE looks the same, so this alone proves nothing.
	ECH bool

	// Malformed says why the claim cannot be used, "" if it can. Host and HostIP are then unset.
	Malformed string

	// MayWait is set only with [More]: the client has sent all it can without an answer of the server (HTTP/2 up to
	// SETTINGS; gRPC clients wait for the server's), so holding its bytes for long would only delay both. A claim that is
	// there already may be judged: a ClientHello is, in a record that goes on.
	MayWait bool

	// Upgrade says that the first Consumed octets ask the server to turn to TLS (Postgres SSLRequest): what follows them
	// is a new first byte, for a new [Stream].
	Upgrade bool

	// Consumed is the length of that prelude, 0 without Upgrade.
	Consumed int
}

// Status says whether a [Hint] is final.
type Status uint8

const (
	// More asks for more bytes. The Hint may already name the Protocol.
	More Status = iota
	// Done says that the Hint is final.
	Done
	// Unknown says that no sniffer knows these bytes. It is final, and nothing was claimed.
	Unknown
)

func (s Status) String() string {
	switch s {
	case More:
		return "more"
	case Done:
		return "done"
	}
	return "unknown"
}
