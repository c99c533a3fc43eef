package sniff

import "bytes"

// Watch reads along in a connection after its first bytes were judged and reports a ClientHello that comes later: the
// turn to TLS of SMTP, IMAP, POP3, FTP, LDAP, XMPP, MySQL, RDP and others, and the second hello of TLS itself after a
// HelloRetryRequest, which must not change the name. The zero value is ready. It is not safe for concurrent use.
//
// It knows none of these protocols. A ClientHello may begin at any octet, whatever command stood before it and however
// the bytes are cut: a record header, the type, the length and the version of the message are about 50 bits that
// plaintext does not show by chance. What follows them must then parse, or the claim is malformed.
//
// Nor does it stop at the first hello: an argument of a command may hold the image of one.
//
// Feed it from where the judgement ended: from the first byte on when the [Stream] said [Unknown] (a command and a hello
// may share a segment), from behind its hello or head otherwise; the bytes that were held count too.
//
// Limit: a hello after more than [MaxWatch] octets of plaintext is not seen.
type Watch struct {
	passed int    // octets that were no part of a hello
	tail   []byte // end of them, where a hello may have begun
	hello  *tlsHello
	fed    int // octets since the hello began
	hint   Hint
	over   bool
}

// Feed takes the bytes that the client sent since the call before. [More] without a Protocol: keep watching, the bytes
// may pass. [More] with Protocol "tls": a hello has begun in them and they must be held until the answer is [Done].
// Done is news, not the end: feed on, another hello may follow, until the answer is [Unknown]. Two hellos with two names
// in one piece are malformed, and a malformed one ends the watch. b is the caller's: nothing of it is kept.
func (w *Watch) Feed(b []byte) (Hint, Status) {
	var news *Hint
	for len(b) > 0 && !w.over {
		if w.hello == nil {
			b = w.look(b)
			continue
		}
		h, rest, status := w.read(b)
		if status == More {
			return h, More
		}
		if news != nil && (h.Host != news.Host || h.HostIP != news.HostIP) {
			h.malformed("two ClientHellos with two names")
		}
		w.over = w.over || h.Malformed != ""
		news, b = &h, rest
	}
	switch {
	case news != nil:
		return *news, Done
	case w.over:
		return Hint{}, Unknown
	}
	return Hint{}, More
}

// look looks for the beginning of a hello and returns the octets from there on.
func (w *Watch) look(b []byte) []byte {
	w.passed += len(b)
	if len(w.tail) > 0 {
		w.tail = append(w.tail, b...)
		b = w.tail
	}
	before := w.passed - len(b)
	for at := 0; ; at++ {
		i := bytes.IndexByte(b[at:], recordHandshake)
		if i < 0 || before+at+i >= MaxWatch {
			break
		}
		at += i
		switch beginsHello(b[at:]) {
		case yes:
			w.passed = before + at
			w.hello, w.fed, w.hint, w.tail = new(tlsHello), 0, Hint{}, nil
			return b[at:]
		case maybe:
			w.tail = append(w.tail[:0], b[at:]...)
			return nil
		}
	}
	w.tail = nil
	w.over = w.passed >= MaxWatch
	return nil
}

// read puts the hello together and returns the octets behind it.
func (w *Watch) read(b []byte) (Hint, []byte, Status) {
	piece := b[:min(len(b), MaxStream-w.fed)]
	w.fed += len(piece)
	status := w.hello.feed(piece, &w.hint)
	if status == More && w.fed == MaxStream {
		status = w.hint.malformed("the claim is not complete within the first octets that are looked at")
	}
	if status != More {
		b = b[len(piece)-w.hello.rest:]
		w.hello = nil
	}
	return w.hint, b, status
}

// beginsHello recognises the record header, and the handshake type, length and version of a ClientHello, through as many
// records as they are spread over.
func beginsHello(b []byte) match {
	shape := [...]struct{ low, high byte }{{typeClientHello, typeClientHello}, {0, 1}, {0, 255}, {0, 255}, {3, 3}, {0, 4}}
	for seen := 0; ; {
		for i, s := range [...]struct{ low, high byte }{{recordHandshake, recordHandshake}, {3, 3}, {0, 4}, {0, maxRecord >> 8}} {
			if i == len(b) {
				return maybe
			}
			if b[i] < s.low || b[i] > s.high {
				return no
			}
		}
		if len(b) < recordHeader {
			return maybe
		}
		length := int(b[3])<<8 | int(b[4])
		if length == 0 || length > maxRecord {
			return no
		}
		b = b[recordHeader:]
		for range length {
			if len(b) == 0 {
				return maybe
			}
			if b[0] < shape[seen].low || b[0] > shape[seen].high {
				return no
			}
			b = b[1:]
			if seen++; seen == len(shape) {
				return yes
			}
		}
	}
}
