package impair

import (
	"sync/atomic"
	"time"
)

// Settings are what happens to the packets of one direction. The zero value is a perfect network.
type Settings struct {
	Loss      float64       // share of the packets that are lost, 0 to 1
	Duplicate float64       // share that come twice
	Delay     time.Duration // of every packet
	Jitter    time.Duration // on top of it, 0 to Jitter, evenly spread; does not change the order
	Reorder   float64       // share that come Lag later than they would, and are overtaken
	Lag       time.Duration // default 5 ms

	Rate  int64 // bits per second; 0 is without limit
	Queue int   // octets that wait for their turn at Rate, what comes beyond is lost; default 256 KiB

	Blackhole bool // nothing arrives
	BlockUDP  bool // no UDP arrives

	MTU    int  // longer packets are lost; 0 is without limit
	Silent bool // the sender is not told of it by ICMP
}

// Defaults of Settings.
const (
	defaultLag   = 5 * time.Millisecond
	defaultQueue = 256 << 10
)

// Direction is one of the two that a link has.
type Direction int

// The directions: from the first end to the second, and back.
const (
	Up Direction = iota
	Down
)

// Counts are what became of the packets of one direction so far.
type Counts struct {
	Sent, Octets                                uint64 // written at the other end
	Lost, Blocked, TooLong, Full, Stranger, Odd uint64 // by Loss; Blackhole and BlockUDP; MTU; Queue; no way back through the NAT; no IP packet
	Duplicated, Reordered                       uint64
}

type counters struct {
	sent, octets                                atomic.Uint64
	lost, blocked, tooLong, full, stranger, odd atomic.Uint64
	duplicated, reordered                       atomic.Uint64
}

func (c *counters) read() Counts {
	return Counts{
		Sent: c.sent.Load(), Octets: c.octets.Load(), Lost: c.lost.Load(), Blocked: c.blocked.Load(), TooLong: c.tooLong.Load(),
		Full: c.full.Load(), Stranger: c.stranger.Load(), Odd: c.odd.Load(), Duplicated: c.duplicated.Load(), Reordered: c.reordered.Load(),
	}
}
