package sniff

import (
	"bytes"
	"strings"
)

// httpHead reads the head of the first HTTP/1 request (RFC 9112) line by line, to its end, because a second Host line
// may be the last one. It is strict where servers and proxies are known to read differently: then there is no one name
// to judge, and the claim is malformed.
type httpHead struct {
	line  []byte // the part of a line that has come
	cr    bool   // the octet before was CR
	begun bool   // the request line is behind us

	connect bool
	scheme  string // of a target in absolute form
	target  claim  // from the target, if it has an authority
	host    string // value of the Host line
	hosts   int    // number of Host lines
	rest    int    // octets of the last feed behind the line that was read last
}

func (p *httpHead) feed(b []byte, h *Hint) Status {
	if !p.begun {
		h.Protocol = ProtocolHTTP
		if len(p.line) == 0 {
			b = bytes.TrimLeft(b, "\r\n")
		}
	}
	for len(b) > 0 {
		piece, whole := b, false
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			piece, whole = b[:i+1], true
		}
		b = b[len(piece):]
		p.rest = len(b)
		if good, bad := p.octets(piece); bad != "" {
			return p.refuse(append(p.line, piece[:good]...), h, bad)
		}
		if len(p.line) > 0 || !whole {
			p.line = append(p.line, piece...)
			piece = p.line
		}
		if !whole {
			break
		}
		p.line = p.line[:0]
		if status := p.take(bytes.TrimSuffix(piece, []byte("\r\n")), h); status != More {
			return status
		}
	}
	return More
}

func (p *httpHead) buffered() int { return len(p.line) }
func (p *httpHead) behind() int   { return p.rest }

// octets looks for what may stand in no line: a CR or LF that is not half of a CRLF, NUL and other controls. Servers
// take them for ends of lines, for space or for nothing. The first result is how many octets are good.
func (p *httpHead) octets(b []byte) (int, string) {
	for i, c := range b {
		switch {
		case p.cr != (c == '\n'):
			return i, "bare CR or LF in the head"
		case c < ' ' && c != '\t' && c != '\r' && c != '\n', c == 0x7f:
			return i, "control character in the head"
		}
		p.cr = c == '\r'
	}
	return len(b), ""
}

// refuse ends the reading of a head that is wrong: malformed if it is the head of an HTTP request for sure, otherwise a
// line of some other protocol.
func (p *httpHead) refuse(line []byte, h *Hint, bad string) Status {
	if p.begun || surelyHTTP(line) {
		return h.malformed(bad)
	}
	return Unknown
}

// take takes one line without its CRLF.
func (p *httpHead) take(line []byte, h *Hint) Status {
	switch {
	case !p.begun:
		return p.requestLine(line, h)
	case len(line) == 0:
		return p.finish(h)
	}
	return p.field(line, h)
}

// requestLine takes the request line (RFC 9112 section 3): method, target and version with one space between them.
func (p *httpHead) requestLine(line []byte, h *Hint) Status {
	method, rest, _ := strings.Cut(string(line), " ")
	target, version, three := strings.Cut(rest, " ")
	p.connect = method == "CONNECT"
	switch {
	case !three && method == "GET" && strings.HasPrefix(target, "/") && !strings.Contains(target, "\t"):
		return Done // HTTP/0.9, which names no host
	case !three, !isName(method), target == "", strings.Contains(target, "\t"), !isHTTP1(version):
		return p.refuse(line, h, "bad request line")
	}
	p.begun = true
	var bad string
	switch {
	case p.connect:
		h.Protocol = ProtocolHTTPConnect
		if p.target, bad = claimAuthority(target); bad == "" && p.target.port == 0 {
			bad = "no port in the target of CONNECT"
		}
	case target[0] == '/', target == "*":
	default:
		p.scheme, p.target, bad = absoluteForm(target)
	}
	if bad != "" {
		return h.malformed(bad)
	}
	return More
}

// absoluteForm reads scheme "://" authority from a target in absolute form (RFC 9112 section 3.2.2).
func absoluteForm(target string) (string, claim, string) {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || scheme == "" {
		return "", claim{}, "bad request target"
	}
	for i := 0; i < len(scheme); i++ {
		if c := scheme[i]; !isAlnum(c) && c != '+' && c != '-' && c != '.' {
			return "", claim{}, "bad request target"
		}
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	c, bad := claimAuthority(rest)
	return strings.ToLower(scheme), c, bad
}

// field takes one header line (RFC 9112 section 5).
func (p *httpHead) field(line []byte, h *Hint) Status {
	if line[0] == ' ' || line[0] == '\t' {
		return h.malformed("folded header line")
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 {
		return h.malformed("header line without a name")
	}
	if !isName(string(name)) {
		return h.malformed("bad name of a header line")
	}
	if len(name) != 4 || !bytes.EqualFold(name, []byte("host")) {
		return More
	}
	if p.hosts++; p.hosts > 1 {
		return h.malformed("two Host lines")
	}
	p.host = string(bytes.Trim(value, " \t"))
	return More
}

// finish weighs what the whole head named.
func (p *httpHead) finish(h *Hint) Status {
	var host claim
	if p.host != "" {
		var bad string
		if host, bad = claimAuthority(p.host); bad != "" {
			return h.malformed(bad)
		}
	}
	switch {
	case p.target.empty():
		h.claimed(host, SourceHTTPHost)
		return Done
	case host.empty():
	case p.connect && !host.sameHost(p.target), !p.connect && !host.agrees(p.target, defaultPort(p.scheme)):
		return h.malformed("target and Host name two hosts")
	}
	h.claimed(p.target, SourceHTTPHost)
	return Done
}

func defaultPort(scheme string) uint16 {
	switch scheme {
	case "http", "ws":
		return 80
	case "https", "wss":
		return 443
	}
	return 0
}

func isHTTP1(version string) bool {
	const want = "HTTP/1."
	return len(version) == len(want)+1 && version[:len(want)] == want && '0' <= version[len(want)] && version[len(want)] <= '9'
}

// surelyHTTP reports whether a line that is no proper request line was meant as one: its last word is a version, or it
// has a method of HTTP, then space, then the beginning of a target. Lines of other protocols that come near: SIP and RTSP ("OPTIONS sip:..."), Redis
// ("GET key"), NATS ("CONNECT {").
func surelyHTTP(line []byte) bool {
	if last := line[bytes.LastIndexAny(line, " \t")+1:]; len(last) > 5 && strings.EqualFold(string(last[:5]), "HTTP/") {
		return true
	}
	n := bytes.IndexAny(line, " \t")
	if n < 0 || !knownMethod(line[:n]) || n+1 == len(line) {
		return false
	}
	rest := line[n+1:]
	return line[n] == '\t' || rest[0] == '/' || rest[0] == ' ' || rest[0] == '\t' ||
		len(rest) >= 4 && strings.EqualFold(string(rest[:4]), "http")
}

func knownMethod(m []byte) bool {
	switch string(m) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH":
		return true
	}
	return false
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// isName reports whether s is a token (RFC 9110 section 5.6.2), as methods and field names are.
func isName(s string) bool {
	for i := range len(s) {
		if !isToken(s[i]) {
			return false
		}
	}
	return s != ""
}

// isToken reports whether c is a tchar (RFC 9110 section 5.6.2).
func isToken(c byte) bool {
	return isAlnum(c) || c != 0 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
