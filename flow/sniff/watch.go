package sniff

// Watch reads along in a connection that began in plaintext and reports the ClientHello of a later turn to TLS
// (STARTTLS and its kin). The zero value is ready. It is not safe for concurrent use.
type Watch struct {
	n int
}

// Feed takes the bytes the client sent since the call before: [More] means keep watching, [Done] that a hello was found,
// [Unknown] that watching is over.
func (w *Watch) Feed(b []byte) (Hint, Status) { return Hint{}, Unknown }
