package capture

import (
	"github.com/weir-dev/weir/flow/sniff"
)

// maxReorder is how many packets of a connection whose beginning was not captured are waited for before the lowest octet
// seen is taken for the first.
const maxReorder = 32

// maxUpgrades bounds the preludes ("may I speak TLS?") that are followed on one connection.
const maxUpgrades = 4

// maxLate bounds the hellos that are noted after the first octets of one connection.
const maxLate = 4

// connection is a TCP connection until its claim is known.
type connection struct {
	dir     [2]direction
	packets int
	heard   [2]bool // which sides were seen

	// retry is the sequence number of a SYN that differs from the first: a new connection if the server answers it.
	retry     uint32
	retrySide int
	hasRetry  bool
}

// segment takes one TCP segment.
func (t *table) segment(s segment) {
	key, side := keyOf(protoTCP, s.src, s.dst)
	f := t.find(key, s.at)
	if f != nil && s.has(flagSYN) && f.reopened(side, &s) {
		t.remove(f)
		f = nil
	}
	if f == nil {
		f = t.open(key, side, s.at)
		f.stream = new(connection)
	}
	if s.flags&(flagFIN|flagRST) != 0 {
		f.closed = true
	}
	if s.has(flagSYN) && !f.hasISN[side] {
		f.isn[side], f.hasISN[side] = s.seq, true
	}
	if s.has(flagSYN|flagACK) && !f.hasISN[1-side] {
		f.isn[1-side], f.hasISN[1-side] = s.ack-1, true
	}
	if f.reported {
		return
	}
	f.stream.take(f, side, &s)
	t.advance(f, false)
	if c := f.stream; f.settled() {
		t.report(f)
	} else {
		t.account(f, c.dir[0].cost()+c.dir[1].cost())
	}
}

// reopened reports whether a SYN or SYN-ACK belongs to a new connection on the same ports, not to f.
func (f *flow) reopened(side int, s *segment) bool {
	if s.has(flagACK) {
		c := f.stream
		return c != nil && c.hasRetry && c.retrySide == 1-side && s.ack == c.retry+1
	}
	if f.hasISN[side] && f.isn[side] == s.seq {
		return false
	}
	if f.reported {
		return true
	}
	a := &f.stream.dir[side].asm
	if !f.hasISN[side] && a.mayBegin(s.seq+1) {
		return false
	}
	if f.closed || !f.stream.heard[1-side] {
		return true
	}
	f.stream.retry, f.stream.retrySide, f.stream.hasRetry = s.seq, side, true
	return false
}

// take puts a segment's octets in their place and learns who is the client.
func (c *connection) take(f *flow, side int, s *segment) {
	c.packets++
	c.heard[side] = true
	own, peer := &c.dir[side], &c.dir[1-side]
	switch {
	case s.has(flagSYN | flagACK):
		f.know(1 - side)
		own.asm.place(s.seq + 1)
		peer.asm.acked(s.ack, true)
	case s.has(flagSYN):
		f.know(side)
		own.asm.syn(s.seq, s.data)
		return
	case s.has(flagACK):
		peer.asm.acked(s.ack, false)
	}
	if f.sure && side != f.client && !c.mayBeDNS(f) {
		own.asm.release() // the server's octets claim nothing
		return
	}
	if !own.done && !s.has(flagRST) {
		own.asm.add(s.seq, s.data)
	}
}

func (c *connection) mayBeDNS(f *flow) bool {
	return isDNSPort(f.key.a.Port()) || isDNSPort(f.key.b.Port())
}

// advance hands octets that are in order to the sniffers and takes over what they found. last says that no packet will
// follow.
func (t *table) advance(f *flow, last bool) {
	c := f.stream
	for side := range c.dir {
		d := &c.dir[side]
		if c.packets >= maxReorder || last {
			d.asm.placeAtLowest()
		}
		if last {
			d.asm.commitEarly()
		}
		for b := d.asm.pop(); b != nil; b = d.asm.pop() {
			if c.mayBeDNS(f) {
				b = t.dnsOctets(f, side, b)
			}
			d.feed(b)
		}
		if last && !f.dns {
			d.feed(d.dns.rest())
		}
		if fromClient(&d.first) || len(d.late) > 0 {
			f.know(side)
		}
	}
	if f.settled() || last {
		f.rememberStart()
		f.guess()
		d := &c.dir[f.client]
		f.sniffed, f.late = d.first, d.late
	}
}

// rememberStart keeps where the streams began in place of sequence numbers of SYNs that were not seen, so that one that
// comes late is recognised.
func (f *flow) rememberStart() {
	for side := range f.isn {
		if a := &f.stream.dir[side].asm; a.placed && !f.hasISN[side] {
			f.isn[side], f.hasISN[side] = a.start-1, true
		}
	}
}

// settled reports whether the claim of a TCP flow is as known as it will get.
func (f *flow) settled() bool {
	d := &f.stream.dir
	switch {
	case f.dns:
		return false
	case f.sure:
		return d[f.client].done
	}
	return d[0].done && d[1].done
}

// direction is the octets of one side of a connection on their way through the sniffers.
type direction struct {
	asm     assembler
	dns     dnsStream
	sniffer *sniff.Stream
	watch   *sniff.Watch
	fed     int  // octets given to sniffer
	asked   int  // preludes seen
	done    bool // more octets would change nothing

	first sniff.Hint
	late  []sniff.Hint
}

func (d *direction) cost() int {
	n := d.asm.cost + len(d.dns.buf)
	if d.sniffer != nil {
		n += d.sniffer.Buffered()
	}
	return n
}

// feed takes the next octets.
func (d *direction) feed(b []byte) {
	for len(b) > 0 && !d.done && d.watch == nil {
		b = d.sniff(b)
	}
	if len(b) == 0 || d.done {
		return
	}
	if h, status := d.watch.Feed(b); status != sniff.More {
		if status == sniff.Done {
			d.late = append(d.late, h)
		}
		if status == sniff.Unknown || len(d.late) == maxLate {
			d.stop()
		}
	}
}

// sniff hands octets to the first sniffer and returns those that are for what comes after it. A later hello cannot begin
// before the octet that gives the first answer.
func (d *direction) sniff(b []byte) (rest []byte) {
	if d.sniffer == nil {
		d.sniffer = new(sniff.Stream)
	}
	at := d.fed
	h, status := d.sniffer.Feed(b)
	d.fed += len(b)
	switch {
	case status == sniff.More:
		return nil
	case status == sniff.Done && h.Upgrade && d.asked < maxUpgrades:
		d.asked++
		d.first = h
		d.sniffer, d.fed = nil, 0
		return b[min(max(h.Consumed-at, 0), len(b)):]
	}
	if status == sniff.Done || d.asked == 0 {
		d.first = h
	}
	d.sniffer = nil
	if status == sniff.Done && !tunnels(h.Protocol) {
		d.stop()
		return nil
	}
	d.watch = new(sniff.Watch)
	return b
}

// tunnels reports whether a TLS connection to the real destination may follow in the same stream.
func tunnels(protocol string) bool {
	return protocol == sniff.ProtocolHTTPConnect || protocol == sniff.ProtocolSOCKS
}

func (d *direction) stop() {
	d.done, d.watch, d.sniffer = true, nil, nil
	d.asm.release()
}

// dnsOctets reads DNS messages out of one side of a connection on a DNS port. It returns the octets so far when they are
// something else.
func (t *table) dnsOctets(f *flow, side int, b []byte) []byte {
	src, dst := f.endpoint(side), f.endpoint(1-side)
	rest := f.stream.dir[side].dns.feed(b, func(message []byte) bool {
		if !t.message(protoTCP, f.last, src, dst, message) {
			return false
		}
		f.dns = true
		return true
	})
	if f.dns {
		return nil
	}
	return rest
}

// mayBegin reports whether a stream whose octets came before their SYN can begin at seq.
func (a *assembler) mayBegin(seq uint32) bool {
	switch {
	case a.placed:
		return seq == a.start
	case len(a.held) > 0:
		return a.held[0].seq-seq <= maxAhead
	}
	return true
}
