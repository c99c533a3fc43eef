package session

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// paceWindow is how often the rate is looked at.
	paceWindow = 20 * time.Millisecond

	// paceFloor is what datagrams may always have, in octets per second: a few calls, or a few players.
	paceFloor = 128 << 10

	// The part of what a session can send that is for datagrams: at least, and where streams send nothing. The latter is more
	// than all, since the former may not have been all.
	paceLeast = 0.4
	paceMost  = 1.25

	// paceProbe is how often the part of the datagrams is cut back.
	paceProbe = time.Second
)

// pace leaves most of what a session sends to streams, while these have something to send: quic-go puts datagrams into each
// packet before it looks at any stream, so that a flood would leave them nothing.
//
// What the session can send is the most that it has sent in one of the last windows. Where streams do not use their part,
// because their receivers do not let them, the datagrams' part grows with each window until it is everything; since nothing
// would be seen of streams then, it is cut back every paceProbe.
type pace struct {
	ctx   context.Context
	total func() uint64 // octets of packets that the session has sent
	fair  *fairness

	most   float64 // what the session can send, in octets per second
	part   float64 // what of it is for datagrams
	probed time.Time
	rate   float64 // octets per second that are for datagrams
	tokens float64
	last   time.Time // when tokens were counted

	window    time.Time // when it began
	before    uint64    // what the session had sent then
	datagrams int       // octets since then
}

func newPace(conn *quic.Conn, fair *fairness) *pace {
	total := func() uint64 { return conn.ConnectionStats().BytesSent }
	now := time.Now()
	return &pace{ctx: conn.Context(), total: total, fair: fair, part: paceLeast, rate: paceFloor, last: now, window: now, before: total()}
}

// sent says that so many octets of datagrams were sent, and returns when more may be.
func (p *pace) sent(octets int) {
	now := time.Now()
	p.datagrams += octets
	wanted := p.fair.wants(now)
	if now.Sub(p.window) >= paceWindow {
		p.measure(now, wanted)
	}
	p.tokens = min(p.tokens+p.rate*now.Sub(p.last).Seconds(), p.rate*paceWindow.Seconds()) - float64(octets)
	p.last = now
	if !wanted {
		p.tokens = max(p.tokens, 0)
		return
	}
	if p.tokens < 0 {
		linger(p.ctx, time.Duration(-p.tokens/p.rate*float64(time.Second)))
	}
}

// measure looks at the window that ends now.
func (p *pace) measure(now time.Time, wanted bool) {
	total := p.total()
	span := now.Sub(p.window).Seconds()
	all, ours := float64(total-p.before)/span, float64(p.datagrams)/span
	p.most = max(all, 0.95*p.most)
	switch {
	case !wanted, all-ours > p.most/4, now.Sub(p.probed) > paceProbe:
		p.part, p.probed = paceLeast, now
	default:
		p.part = min(1.25*p.part, paceMost)
	}
	p.rate = max(p.part*p.most, paceFloor)
	p.window, p.before, p.datagrams = now, total, 0
}
