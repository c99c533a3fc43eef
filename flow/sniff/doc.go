// Package sniff reads the name that a flow claims out of the client's first bytes.
//
// A name in the first bytes (the server name of TLS and QUIC, the Host of HTTP) is a claim and nothing more: whoever
// wrote the program inside the sandbox chose it. This package says what the bytes claim, exactly; what the claim is
// worth is the business of the policy. From that follow its laws:
//
//   - A claim is never invented. What does not parse strictly is not repaired into a name: the [Hint] then says in
//     Malformed why the claim is unusable, and the policy denies such flows in enforce mode.
//   - One reading only. Wherever two parsers could read two names out of the same bytes (two Host lines, two names in
//     server_name, overlapping CRYPTO frames that differ) the answer is Malformed.
//   - The answer does not depend on how bytes are cut: into TCP segments, TLS records, QUIC frames or datagrams.
//   - Nothing is delayed that need not be. Bytes that no sniffer knows are [Unknown] at the first octet that shows it.
//   - Where a server finds a name, the sniffer finds the same one or says Malformed: never none, never another. The tests
//     hold it against the parsers of crypto/tls, net/http and x/net/http2.
//   - Everything is bounded: [MaxStream], [MaxDatagrams], [MaxCrypto], [MaxWatch].
//
// # Streams
//
// A [Stream] is fed the client's bytes of one TCP connection. It keeps them until one sniffer of the list in stream.go
// recognises them; then that sniffer alone goes on. TLS (tls.go, hello.go) and HTTP/1 (http.go) keep their place between
// calls, so that feeding single bytes costs no more than feeding them at once.
//
// # Datagrams
//
// A [QUIC] is fed the client's datagrams of one UDP 5-tuple. It derives the Initial keys from the connection ID as any
// observer can (RFC 9001 section 5.2, RFC 9369 section 3.3), opens the Initial packets, puts the CRYPTO stream together
// and hands the ClientHello to the same parser that TLS uses. [Datagram] classifies the first datagram of other
// protocols.
//
// # Later hellos
//
// Protocols that start in plaintext and then turn to TLS (STARTTLS and its kin) show their ClientHello late. A [Watch]
// reads along after the flow was judged and reports such a hello.
package sniff
