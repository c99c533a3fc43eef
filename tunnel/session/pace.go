package session

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// paceQueue is how many datagrams quic-go holds before SendDatagram waits.
	paceQueue = 32

	// After so many datagrams, or as many as the path takes in so long, streams have their turn: the first beside streams that
	// have more than they can send.
	paceShort     = 64
	paceShortTime = 5 * time.Millisecond
	paceLong      = 320
	paceLongTime  = 50 * time.Millisecond

	// The streams' part of what a session sends, while they have more than they can send, and while they send a little now and
	// then or are not let by their receivers.
	streamsMost  = 0.6
	streamsLeast = 0.02

	// paceWaits is what SendDatagram takes at least when it waits for room, and paceFast when the path takes so many packets that
	// streams are let by them where nobody has written to one.
	paceWaits = 4 * time.Microsecond
	paceFast  = 20 * time.Microsecond

	// paceWindow is how often the streams are looked at, paceProbe how often they get their most for a moment, since nothing is
	// seen of those that get little.
	paceWindow = 20 * time.Millisecond
	paceProbe  = time.Second

	// paceMemory is how long it takes until somebody who writes to a stream is new.
	paceMemory = 500 * time.Millisecond

	// pacePause bounds a pause.
	pacePause = 250 * time.Millisecond
)

// pace leaves a part of what a session sends to streams: quic-go puts datagrams into each packet before it looks at any stream,
// so that a flood would leave them nothing, not even the header of a flow or what was lost of an earlier one.
//
// While SendDatagram waits for room, the time that it takes is that of a packet on the path. After a number of datagrams
// nothing is sent for as long as those in the queue take, and then as long as the streams' part. While it does not wait there is
// room for everybody.
type pace struct {
	ctx   context.Context
	total func() uint64 // octets of packets that the session has sent
	fair  *fairness

	count  int           // datagrams since the last pause
	packet time.Duration // what one takes on the path
	wanted bool          // somebody had written to a stream when it was looked at last

	backlog bool    // streams have more than they can send
	part    float64 // the streams' part
	probed  time.Time

	window time.Time // when it began
	before uint64    // what the session had sent then
	octets int       // of datagrams since then
}

func newPace(conn *quic.Conn, fair *fairness) *pace {
	total := func() uint64 { return conn.ConnectionStats().BytesSent }
	return &pace{ctx: conn.Context(), total: total, fair: fair, part: streamsLeast, window: time.Now(), before: total()}
}

// sent says that so many datagrams with so many octets were given to quic-go, which took so long, and returns when more may be.
func (p *pace) sent(datagrams, octets int, took time.Duration) {
	now := time.Now()
	p.octets += octets
	if p.count += datagrams; p.count > paceQueue { // the queue may be full again
		p.packet += (took/time.Duration(datagrams) - p.packet) / 4
	}
	if now.Sub(p.window) >= paceWindow {
		p.look(now)
	}
	wanted := p.fair.wants(now)
	first := wanted && !p.wanted // whoever writes for the first time is not to wait for a whole turn
	p.wanted = wanted
	if p.count < p.turn() && !first || p.packet < paceWaits || p.packet < paceFast && !wanted {
		return
	}
	pause := paceQueue + float64(p.count)*p.part/(1-p.part)
	p.count = 0
	linger(p.ctx, min(time.Duration(pause*float64(p.packet)), pacePause))
}

// turn is how many datagrams are sent between two pauses.
func (p *pace) turn() int {
	most, span := paceLong, paceLongTime
	if p.backlog {
		most, span = paceShort, paceShortTime
	}
	return max(most, int(span/max(p.packet, 1)))
}

// look looks at what the streams did in the window that ends now.
func (p *pace) look(now time.Time) {
	total := p.total()
	all, span := int(total-p.before), now.Sub(p.window)
	p.backlog = p.fair.busy(now) > span/2
	switch {
	case !p.backlog:
		p.part = streamsLeast
	case all-p.octets > all/4 || now.Sub(p.probed) > paceProbe:
		p.part, p.probed = streamsMost, now
	default:
		p.part = max(p.part*0.8, streamsLeast)
	}
	p.window, p.before, p.octets = now, total, 0
}
