package sniff

// Request codes of the PostgreSQL frontend protocol ("Message Formats": StartupMessage and the requests sent in its place).
const (
	pgCancel = 80877102
	pgSSL    = 80877103
	pgGSSENC = 80877104

	pgRequest    = 8     // length of SSLRequest and GSSENCRequest
	pgMaxStartup = 10000 // what servers accept
)

// matchPostgres recognises the first message of a PostgreSQL client: a length, then a request code or protocol version
// 3.x. A startup message goes on with the name of a parameter, which tells it from a Kafka metadata request.
func matchPostgres(b []byte) match {
	if b[0] != 0 || len(b) > 1 && b[1] != 0 {
		return no
	}
	if len(b) < pgRequest {
		return maybe
	}
	r := reader{b: b}
	length, code := r.uint(4), r.uint(4)
	if length < pgRequest || length > pgMaxStartup {
		return no
	}
	switch {
	case (code == pgSSL || code == pgGSSENC) && length == pgRequest, code == pgCancel && length > pgRequest:
		return yes
	case code>>16 != 3 || length == pgRequest:
		return no
	case len(b) == pgRequest:
		return maybe
	case b[pgRequest] <= ' ' || b[pgRequest] >= 0x7f:
		return no
	}
	return yes
}

// postgres reads what matchPostgres has recognised.
type postgres struct{ rest int }

func (p *postgres) feed(b []byte, h *Hint) Status {
	*h, p.rest = Hint{Protocol: ProtocolPostgres}, len(b)
	r := reader{b: b}
	r.uint(4)
	if code := r.uint(4); code == pgSSL || code == pgGSSENC {
		h.Upgrade, h.Consumed = true, pgRequest
		p.rest -= pgRequest
	}
	return Done
}

func (p *postgres) buffered() int { return 0 }
func (p *postgres) behind() int   { return p.rest }

// matchSSH recognises the identification string (RFC 4253 section 4.2) of SSH 2, and of 1.x which it once spoke too.
func matchSSH(b []byte) match {
	return matchPrefixes(b, "SSH-2.0-", "SSH-1.")
}

func matchPrefixes(b []byte, prefixes ...string) match {
	best := no
	for _, p := range prefixes {
		best = max(best, matchPrefix(b, p))
	}
	return best
}

func matchPrefix(b []byte, prefix string) match {
	n := min(len(b), len(prefix))
	switch {
	case string(b[:n]) != prefix[:n]:
		return no
	case n < len(prefix):
		return maybe
	}
	return yes
}

// matchSOCKS recognises the first message of SOCKS 5 (RFC 1928 section 3: version, number of methods, methods) and of
// SOCKS 4 (version, CONNECT or BIND, port, address, user ID). With version 5 the far end is named only in the second
// message, after the server has spoken.
func matchSOCKS(b []byte) match {
	switch b[0] {
	case 4:
		switch {
		case len(b) > 1 && b[1] != 1 && b[1] != 2:
			return no
		case len(b) < 9:
			return maybe
		}
		return yes
	case 5:
		const assigned, private = 9, 0x80 // methods, IANA registry
		switch {
		case len(b) > 1 && (b[1] == 0 || b[1] > 16):
			return no
		case len(b) > 2 && b[2] > assigned && b[2] < private:
			return no
		case len(b) < 3:
			return maybe
		}
		return yes
	}
	return no
}

// h2Preface opens every HTTP/2 connection (RFC 9113 section 3.4).
const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func matchH2(b []byte) match { return matchPrefix(b, h2Preface) }

// Bounds of what matchHTTP looks at: octets of empty lines before the request line (RFC 9112 section 2.2) and octets of
// the method. What is longer may still be HTTP, and the end of the line tells.
const (
	maxBlank  = 8
	maxMethod = 32
)

// matchHTTP recognises what may be an HTTP/1 request line by its method and the first octet of the target. Many
// protocols of lines look alike up to there; the rest of the line tells, see requestLine.
func matchHTTP(b []byte) match {
	blank := 0
	for blank < len(b) && (b[blank] == '\r' || b[blank] == '\n') {
		blank++
	}
	method := b[blank:]
	n := 0
	for n < len(method) && isToken(method[n]) {
		n++
	}
	switch {
	case blank > maxBlank, n > maxMethod:
		return yes
	case n == len(method):
		return maybe
	case n == 0:
		return no
	case method[n] == '\t':
		return when(knownMethod(method[:n]))
	case method[n] != ' ':
		return no
	case n+1 == len(method):
		return maybe
	}
	c := method[n+1]
	return when(c == '/' || c == '*' || c == '[' || c == ':' || c == '_' || isAlnum(c) || knownMethod(method[:n]))
}

func when(ok bool) match {
	if ok {
		return yes
	}
	return no
}
