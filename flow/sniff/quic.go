package sniff

import "bytes"

// maxAttempts is the number of connections of one 5-tuple that a [QUIC] knows at a time, the oldest is forgotten.
const maxAttempts = 4

// QUIC looks at the client's datagrams of one UDP 5-tuple. The zero value is ready. It is not safe for concurrent use.
//
// Feed the client's datagrams to Feed until its answer is final. A 5-tuple may carry another connection later, or at the
// same time; so ask [QUIC.Next] about every later datagram for which [IsInitial] is true.
type QUIC struct {
	attempts []*attempt
	fed      int // datagrams, while the answer is More
	hint     Hint
	status   Status
}

// Feed takes one datagram from the client. [More] asks for the next: the ClientHello is not complete (it may take several
// datagrams in any order, and a 0-RTT packet may come first), or an Initial packet did not open and is passed over as
// a server would do. [Unknown] says that the first datagram has no long header of a known version; Protocol is "quic" all
// the same if it has one of an unknown version, which the server may answer with a Version Negotiation packet. After
// [MaxDatagrams] the claim is malformed.
func (q *QUIC) Feed(datagram []byte) (Hint, Status) {
	if q.status != More {
		return q.hint, q.status
	}
	q.fed++
	found := q.take(datagram)
	switch {
	case found.hint != nil:
		q.hint, q.status = *found.hint, Done
		return q.hint, q.status
	case q.fed == 1 && found.first != knownVersion:
		q.status = Unknown
		if found.first == otherVersion {
			q.hint.Protocol = ProtocolQUIC
		}
		return q.hint, q.status
	}
	q.hint.Protocol = ProtocolQUIC
	if q.fed == MaxDatagrams {
		q.status = q.hint.malformed("no whole ClientHello in the first datagrams")
	}
	return q.hint, q.status
}

// Next takes a datagram from the client after Feed has given its final answer. fresh is false when it belongs to what
// was judged: a packet of a connection whose hello was reported, or no Initial packet at all. When fresh is true the
// datagram must not pass as it is, and the other results say what it is: [More] a part of another ClientHello, [Done] the
// claim of another connection, or of a known one that has changed its hello (then it is malformed), [Unknown] an Initial
// packet that opens with no key that the server could have.
func (q *QUIC) Next(datagram []byte) (hint Hint, status Status, fresh bool) {
	if q.status == More {
		hint, status = q.Feed(datagram)
		return hint, status, true
	}
	found := q.take(datagram)
	switch {
	case found.hint != nil:
		return *found.hint, Done, true
	case found.started:
		return Hint{Protocol: ProtocolQUIC}, More, true
	case found.closed:
		return Hint{Protocol: ProtocolQUIC}, Unknown, true
	}
	return q.hint, q.status, false
}

// firstPacket is what a datagram begins with.
type firstPacket uint8

const (
	noLongHeader firstPacket = iota
	otherVersion
	knownVersion
)

// found is what a datagram had for us.
type found struct {
	first   firstPacket
	hint    *Hint // news: a hello has become complete, or malformed
	started bool  // a part of a hello that is not complete
	closed  bool  // an Initial packet that did not open
}

// take walks the coalesced packets of a datagram (RFC 9000 section 12.2).
func (q *QUIC) take(datagram []byte) (f found) {
	var owner *attempt
	for rest := datagram; len(rest) > 0; {
		p, after, ok := nextPacket(rest)
		if !ok {
			break
		}
		if len(rest) == len(datagram) {
			f.first = otherVersion
			if p.known {
				f.first = knownVersion
			}
		}
		if !p.known {
			break
		}
		rest = after
		if p.kind != typeInitial {
			continue
		}
		a, opened := q.open(p)
		switch {
		case a == nil:
			f.closed = true
			continue
		case owner != nil && owner != a:
			a.fail("packets of two connections in one datagram")
		default:
			a.take(opened)
		}
		owner = a
		if a.news {
			a.news = false
			f.hint = &a.hint
		}
		f.started = f.started || !a.done
	}
	if owner != nil && !owner.done {
		if owner.datagrams++; owner.datagrams >= MaxDatagrams {
			owner.fail("no whole ClientHello in the first datagrams")
			owner.news, f.hint = false, &owner.hint
		}
	}
	return f
}

// open finds the connection of an Initial packet by trying keys: of a connection that is known (the client has moved on
// to the connection ID that the server chose, RFC 9000 section 7.2), or of a new one that begins with this packet, which
// is also what a client does after Retry (section 17.2.5.2).
func (q *QUIC) open(p longPacket) (*attempt, opened) {
	for _, a := range q.attempts {
		if o, ok := a.open(p); ok {
			return a, o
		}
	}
	a := &attempt{dcid: bytes.Clone(p.dcid), largest: -1}
	o, ok := a.open(p)
	if !ok {
		return nil, opened{}
	}
	if len(q.attempts) == maxAttempts {
		q.attempts = append(q.attempts[:0], q.attempts[1:]...)
	}
	q.attempts = append(q.attempts, a)
	return a, o
}

// attempt is one connection: all Initial packets under the keys of one connection ID.
type attempt struct {
	dcid      []byte
	keys      []versionKeys
	largest   int64 // largest packet number, -1 before the first
	datagrams int   // that had a part of the hello
	crypto    cryptoStream
	hello     int // length of the first ClientHello, 0 while it is incomplete
	hint      Hint
	done      bool // hint is final, unless the client contradicts it later
	news      bool // hint has changed and was not reported yet
}

// versionKeys are the keys of an attempt in one version: a client may change it on the way (RFC 9368 section 2.3).
type versionKeys struct {
	version uint32
	*initialKeys
}

// opened is an Initial packet without its protection.
type opened struct {
	first  byte
	number int64
	frames []byte
}

func (a *attempt) open(p longPacket) (o opened, ok bool) {
	keys := a.keysFor(p.version)
	if keys == nil {
		return o, false
	}
	o.first, o.number, o.frames, ok = keys.open(p, a.largest)
	return o, ok
}

func (a *attempt) keysFor(version uint32) *initialKeys {
	for _, k := range a.keys {
		if k.version == version {
			return k.initialKeys
		}
	}
	v, ok := quicVersionOf(version)
	if !ok {
		return nil
	}
	keys, err := deriveInitial(v, a.dcid)
	if err != nil {
		return nil
	}
	a.keys = append(a.keys, versionKeys{version, keys})
	return keys
}

// take takes an opened packet. A connection whose hello was reported is still read: the server may have lost the
// datagrams with that hello, and then it would take another one in their place.
func (a *attempt) take(o opened) {
	if a.hint.Malformed != "" {
		return
	}
	a.largest = max(a.largest, o.number)
	const reserved = 0x0c // RFC 9000 section 17.2
	if o.first&reserved != 0 {
		a.fail("reserved bits are set in an Initial packet")
		return
	}
	if bad := takeFrames(o.frames, &a.crypto); bad != "" {
		a.fail(bad)
		return
	}
	if a.hello == 0 {
		a.firstHello()
	}
	if a.hello != 0 && a.hint.Malformed == "" {
		a.secondHello() // which may lie in the same packet
	}
}

func (a *attempt) firstHello() {
	h := Hint{Protocol: ProtocolQUIC}
	status, bad := wholeHello(a.crypto.whole(), helloKind{source: SourceQUICSNI}, &h)
	switch {
	case bad != "":
		a.fail(bad)
	case status == Done:
		a.hello = helloLen(a.crypto.whole())
		a.hint, a.done, a.news = h, true, true
	}
}

// secondHello reads the ClientHello that answers a HelloRetryRequest. It must claim what the first one did
// (RFC 8446 section 4.1.2). Nothing else follows a ClientHello in Initial packets.
func (a *attempt) secondHello() {
	h := Hint{Protocol: ProtocolQUIC}
	status, bad := wholeHello(a.crypto.whole()[a.hello:], helloKind{source: SourceQUICSNI}, &h)
	switch {
	case bad != "":
		a.fail(bad)
	case status == Done && (h.Host != a.hint.Host || h.HostIP != a.hint.HostIP):
		a.fail("second ClientHello with another name")
	}
}

// fail makes the claim of the connection malformed for good.
func (a *attempt) fail(bad string) {
	a.hint.Protocol = ProtocolQUIC
	a.hint.malformed(bad)
	a.done, a.news = true, true
}
