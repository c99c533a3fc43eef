package sniff

import (
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Frame types and flags of HTTP/2 (RFC 9113 section 6).
const (
	h2Data         = 0x0
	h2Headers      = 0x1
	h2Settings     = 0x4
	h2PushPromise  = 0x5
	h2Continuation = 0x9

	h2EndHeaders = 0x4
	h2Padded     = 0x8
	h2Priority   = 0x20

	h2FrameHeader = 9
	h2MaxFrame    = 1 << 14 // until the server has allowed more
	h2TableSize   = 4096
	h2MaxFields   = 256 << 10 // octets of names and values that a header block may unfold to
)

// h2 reads an HTTP/2 connection with prior knowledge (RFC 9113 section 3.3) up to the end of its first request's
// header block.
type h2 struct {
	preface  int    // octets of the preface that are behind us
	settings bool   // the first SETTINGS is behind us
	frame    []byte // the part of a frame that has come
	stream   int    // of the header block, 0 before it
	block    []byte // header block fragments
	rest     int    // octets of the last feed behind the frame that was read last
}

func (p *h2) feed(b []byte, h *Hint) Status {
	h.Protocol = ProtocolH2C
	if skip := min(len(h2Preface)-p.preface, len(b)); skip > 0 { // matchH2 has seen it
		p.preface += skip
		b = b[skip:]
	}
	h.MayWait = false
	for len(b) > 0 {
		need := h2FrameHeader
		if len(p.frame) >= h2FrameHeader {
			need += p.length()
		}
		n := min(need-len(p.frame), len(b))
		p.frame = append(p.frame, b[:n]...)
		b = b[n:]
		p.rest = len(b)
		switch {
		case len(p.frame) < h2FrameHeader:
		case p.length() > h2MaxFrame:
			return h.malformed("HTTP/2 frame of more than 16384 octets")
		case len(p.frame) == h2FrameHeader+p.length():
			if status := p.take(h); status != More {
				return status
			}
			p.frame = p.frame[:0]
		}
	}
	h.MayWait = p.settings && p.stream == 0 && len(p.frame) == 0
	return More
}

func (p *h2) buffered() int { return len(p.frame) + len(p.block) }
func (p *h2) behind() int   { return p.rest }

// length is that of the payload of the frame whose header is there.
func (p *h2) length() int { return int(p.frame[0])<<16 | int(p.frame[1])<<8 | int(p.frame[2]) }

// take takes one whole frame. SETTINGS come first (RFC 9113 section 3.4), nothing may stand between the fragments of a
// header block (section 6.10), and no request has data before its headers.
func (p *h2) take(h *Hint) Status {
	r := reader{b: p.frame}
	r.u24()
	typ, flags, stream := r.u8(), r.u8(), r.uint(4)&0x7fffffff
	switch {
	case !p.settings:
		if typ != h2Settings || stream != 0 {
			return h.malformed("HTTP/2 does not begin with SETTINGS")
		}
		p.settings = true
		return More
	case p.stream != 0:
		if typ != h2Continuation || stream != p.stream {
			return h.malformed("HTTP/2 header block is interrupted")
		}
		p.block = append(p.block, r.b...)
	case typ == h2Headers:
		fragment, ok := headersFragment(&r, flags)
		if !ok || stream%2 == 0 {
			return h.malformed("bad HTTP/2 HEADERS frame")
		}
		p.stream, p.block = stream, append(p.block, fragment...)
	case typ == h2Data, typ == h2PushPromise, typ == h2Continuation:
		return h.malformed("HTTP/2 frame out of order")
	default:
		return More
	}
	if flags&h2EndHeaders == 0 {
		return More
	}
	return decodeFields(p.block, h)
}

// headersFragment takes padding and priority off a HEADERS frame (RFC 9113 section 6.2).
func headersFragment(r *reader, flags int) ([]byte, bool) {
	padding := 0
	if flags&h2Padded != 0 {
		padding = r.u8()
	}
	if flags&h2Priority != 0 {
		r.take(5)
	}
	fragment := r.take(len(r.b) - padding)
	return fragment, !r.bad
}

// fields is what is kept of a header block.
type fields struct {
	pseudo map[string]string
	host   string
	hosts  int
	plain  bool // a field that is no pseudo-header was there
	size   int
	bad    string
}

// decodeFields decodes the header block of a request (RFC 7541) and weighs what it names (RFC 9113 section 8.3.1).
func decodeFields(block []byte, h *Hint) Status {
	f := fields{pseudo: map[string]string{}}
	d := hpack.NewDecoder(h2TableSize, nil)
	d.SetEmitFunc(func(field hpack.HeaderField) {
		if f.take(field); f.bad != "" {
			d.SetEmitEnabled(false)
		}
	})
	_, err := d.Write(block)
	if err == nil {
		err = d.Close()
	}
	switch {
	case f.bad != "":
		return h.malformed(f.bad)
	case err != nil:
		return h.malformed("bad HTTP/2 header block")
	}
	return f.finish(h)
}

func (f *fields) take(field hpack.HeaderField) {
	name := field.Name
	f.size += len(name) + len(field.Value) + 32 // RFC 9113 section 6.5.2
	switch {
	case f.size > h2MaxFields:
		f.bad = "HTTP/2 header block is too large"
	case name == "" || name != strings.ToLower(name):
		f.bad = "bad field name in the HTTP/2 header block"
	case name[0] == ':':
		if _, twice := f.pseudo[name]; twice || f.plain {
			f.bad = "HTTP/2 pseudo-header stands twice or late"
			return
		}
		f.pseudo[name] = field.Value
	case name == "host":
		if f.hosts++; f.hosts > 1 {
			f.bad = "two Host lines"
		}
		f.host = field.Value
		fallthrough
	default:
		f.plain = true
	}
}

func (f *fields) finish(h *Hint) Status {
	var authority, host claim
	var bad string
	if v := f.pseudo[":authority"]; v != "" {
		if authority, bad = claimAuthority(v); bad != "" {
			return h.malformed(bad)
		}
	}
	if f.host != "" {
		if host, bad = claimAuthority(f.host); bad != "" {
			return h.malformed(bad)
		}
	}
	if _, extended := f.pseudo[":protocol"]; f.pseudo[":method"] == "CONNECT" && !extended {
		h.Protocol = ProtocolHTTPConnect
		if authority.port == 0 {
			return h.malformed("no port in the target of CONNECT")
		}
	}
	if !authority.empty() && !host.empty() && !host.agrees(authority, defaultPort(f.pseudo[":scheme"])) {
		return h.malformed("target and Host name two hosts")
	}
	if authority.empty() {
		authority = host
	}
	h.claimed(authority, SourceHTTPHost)
	return Done
}
