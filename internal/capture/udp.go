package capture

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/weir-dev/weir/flow/sniff"
)

// maxAgain bounds the Initial packets of further QUIC connections that are looked at on one UDP flow.
const maxAgain = 16

// exchange is what is known of a UDP flow's datagrams.
type exchange struct {
	dir   [2]datagrams
	again *sniff.QUIC // another connection on the same ports
	dcid  []byte      // destination connection ID of the connection read last
	tries int
}

// datagrams are those of one side.
type datagrams struct {
	quic   *sniff.QUIC
	n      int // datagrams seen
	octets int // fed to quic
	first  sniff.Hint
	done   bool
}

func (x *exchange) release() {
	x.dir[0], x.dir[1] = datagrams{}, datagrams{}
}

// udp takes one UDP datagram.
func (t *table) udp(p packet) {
	sport, dport, b, ok := datagram(p.body)
	if !ok {
		t.stats.Undecoded++
		return
	}
	src, dst := netip.AddrPortFrom(p.src, sport), netip.AddrPortFrom(p.dst, dport)
	if (isDNSPort(sport) || isDNSPort(dport)) && t.message(protoUDP, p.at, src, dst, b) {
		return
	}
	key, side := keyOf(protoUDP, src, dst)
	f := t.find(key, p.at)
	if f == nil {
		f = t.open(key, side, p.at)
		f.exchange = new(exchange)
	}
	if f.reported {
		t.reconnected(f, side, b)
		return
	}
	x := f.exchange
	x.dir[side].feed(b)
	if x.dir[side].done && fromClient(&x.dir[side].first) {
		f.know(side)
	}
	if x.settled(f) {
		x.claim(f)
		if dcid, ok := sniff.IsInitial(b); ok {
			x.dcid = slices.Clone(dcid)
		}
		t.report(f)
		return
	}
	t.account(f, x.dir[0].octets+x.dir[1].octets)
}

// claim takes the client's hint over into the flow.
func (x *exchange) claim(f *flow) {
	f.guess()
	f.sniffed = x.dir[f.client].first
}

func (x *exchange) settled(f *flow) bool {
	if f.sure {
		return x.dir[f.client].done
	}
	return x.dir[0].done && x.dir[1].done
}

// feed takes the next datagram of one side. The first ones need not be QUIC (a probe, a STUN check), so until a QUIC
// connection has begun each gets its chance.
func (d *datagrams) feed(b []byte) {
	if d.done || len(b) == 0 {
		return
	}
	d.n++
	q := d.quic
	if q == nil {
		q = new(sniff.QUIC)
	}
	h, status := q.Feed(b)
	switch status {
	case sniff.Done:
		d.first, d.done = h, true
	case sniff.More:
		d.quic = q
		d.octets += len(b)
	default:
		if d.quic == nil && d.first.Protocol == "" {
			if other, status := sniff.Datagram(b); status == sniff.Done {
				h = other
			}
			d.first = h
		}
		d.quic, d.octets = nil, 0
		d.done = d.first.Source != ""
	}
	if d.n >= sniff.MaxDatagrams {
		d.done = true
	}
	if d.done {
		d.quic, d.octets = nil, 0
	}
}

// reconnected looks at datagrams after the claim: another QUIC connection on the same ports that claims another name is a
// flow of its own.
func (t *table) reconnected(f *flow, side int, b []byte) {
	x := f.exchange
	if side != f.client || x.tries >= maxAgain {
		return
	}
	dcid, ok := sniff.IsInitial(b)
	if !ok {
		return
	}
	if !bytes.Equal(dcid, x.dcid) {
		x.again, x.dcid = new(sniff.QUIC), slices.Clone(dcid)
	}
	if x.again == nil {
		return
	}
	x.tries++
	h, status := x.again.Feed(b)
	if status == sniff.More {
		return
	}
	x.again = nil
	if status != sniff.Done || claimed(&h) == claimed(&f.sniffed) && h.Malformed == f.sniffed.Malformed {
		return
	}
	at := f.last
	t.remove(f)
	f = t.open(f.key, side, at)
	f.exchange = &exchange{dcid: x.dcid, tries: x.tries}
	f.know(side)
	f.sniffed = h
	t.report(f)
}

// icmp takes an ICMP echo message; others belong to the flows that they speak of.
func (t *table) icmp(p packet) {
	id, request, ok := echo(p)
	if !ok {
		return
	}
	src, dst := netip.AddrPortFrom(p.src, id), netip.AddrPortFrom(p.dst, id)
	key, side := keyOf(p.proto, src, dst)
	f := t.find(key, p.at)
	if f == nil {
		f = t.open(key, side, p.at)
	}
	if request {
		f.know(side)
	} else {
		f.know(1 - side)
	}
}
