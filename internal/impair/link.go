package impair

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
)

// maxPacket is the longest IP packet, in octets.
const maxPacket = 65535

// Config is what a Link is made of.
type Config struct {
	// A and B are the two ends: one packet to a Read or Write. The link closes both.
	A, B io.ReadWriteCloser

	// Seed is of the generator that draws what befalls the packets.
	Seed uint64

	// Outside, if valid, is the IPv4 address of a NAT between A and B: what comes from A seems to come from it.
	Outside netip.Addr

	// Router is the address that ICMP messages come from; default 192.0.0.8 (RFC 7600).
	Router netip.Addr

	// Watch, if not nil, sees each packet as it is read, before anything is done about it. It must not keep or change it.
	Watch func(d Direction, packet []byte)
}

// Link carries packets between two ends, badly. Make it with New.
type Link struct {
	config Config
	nat    *nat
	ways   [2]*way
	work   sync.WaitGroup
	once   sync.Once
	done   chan struct{}
}

// way is one direction.
type way struct {
	direction Direction
	from, to  io.ReadWriter
	settings  atomic.Pointer[Settings]
	random    *rand.Rand // of the reader's goroutine
	queue     *queue
	counters  counters
}

// New carries packets between the ends until Close.
func New(c Config) *Link {
	if !c.Router.IsValid() {
		c.Router = netip.AddrFrom4([4]byte{192, 0, 0, 8})
	}
	l := &Link{config: c, done: make(chan struct{})}
	if c.Outside.IsValid() {
		l.nat = newNAT(c.Outside)
	}
	for d, ends := range [2][2]io.ReadWriter{Up: {c.A, c.B}, Down: {c.B, c.A}} {
		w := &way{direction: Direction(d), from: ends[0], to: ends[1], random: rand.New(rand.NewPCG(c.Seed, uint64(d)))}
		w.queue = newQueue(w.write)
		w.settings.Store(&Settings{})
		l.ways[d] = w
	}
	for _, w := range l.ways {
		l.work.Go(func() { l.carry(w) })
		l.work.Go(func() { w.queue.run(l.done) })
	}
	return l
}

// Set changes both directions for the packets that come from now on. Those on their way keep their time.
func (l *Link) Set(up, down Settings) {
	l.ways[Up].settings.Store(&up)
	l.ways[Down].settings.Store(&down)
}

// SetBoth changes both directions in the same way.
func (l *Link) SetBoth(s Settings) { l.Set(s, s) }

// Rebind has the NAT forget which of its ports are whose for UDP, as one does that was idle or restarted: flows go on from
// other ports, and what comes back to the old ones is lost. It returns how many were forgotten.
func (l *Link) Rebind() int {
	if l.nat == nil {
		return 0
	}
	return l.nat.rebind()
}

// Counts returns what became of the packets of one direction.
func (l *Link) Counts(d Direction) Counts { return l.ways[d].counters.read() }

// Close closes both ends and returns when no packet is on its way any more. It may be called more than once.
func (l *Link) Close() error {
	var err error
	l.once.Do(func() {
		close(l.done)
		err = errors.Join(l.config.A.Close(), l.config.B.Close())
	})
	l.work.Wait()
	if err != nil {
		return fmt.Errorf("close link: %w", err)
	}
	return nil
}

// carry reads the packets of one direction until its end is closed.
func (l *Link) carry(w *way) {
	buf := make([]byte, maxPacket)
	for {
		n, err := w.from.Read(buf)
		if err != nil {
			return
		}
		if l.config.Watch != nil {
			l.config.Watch(w.direction, buf[:n])
		}
		l.packet(w, buf[:n])
	}
}

// packet decides what becomes of one packet. Each draws the same numbers whatever the settings are, so that the fate of a
// packet does not hang on that of others.
func (l *Link) packet(w *way, raw []byte) {
	s := w.settings.Load()
	lose, double, late, jitter := w.random.Float64(), w.random.Float64(), w.random.Float64(), w.random.Float64()
	p, ok := parse(raw)
	switch {
	case !ok:
		w.counters.odd.Add(1)
		return
	case s.Blackhole, s.BlockUDP && p.protocol == protocolUDP:
		w.counters.blocked.Add(1)
		return
	case s.MTU > 0 && len(raw) > s.MTU:
		w.counters.tooLong.Add(1)
		if !s.Silent {
			l.tooBig(w, p, s.MTU)
		}
		return
	case l.nat != nil && !l.nat.translate(w.direction, p):
		w.counters.stranger.Add(1)
		return
	case lose < s.Loss:
		w.counters.lost.Add(1)
		return
	}
	copies := 1
	if double < s.Duplicate {
		w.counters.duplicated.Add(1)
		copies = 2
	}
	for range copies {
		w.send(s, raw, late < s.Reorder, jitter)
	}
}

// send passes a packet on at once where nothing delays it, which is what a fast network does, or by the queue.
func (w *way) send(s *Settings, raw []byte, late bool, jitter float64) {
	if late {
		w.counters.reordered.Add(1)
	}
	if s.Delay == 0 && s.Jitter == 0 && s.Rate == 0 && !late && w.queue.empty() {
		w.write(raw)
		return
	}
	if !w.queue.put(s, raw, late, jitter) {
		w.counters.full.Add(1)
	}
}

// write is of the reader and of the queue; both may write at one time, and each packet is one write.
func (w *way) write(raw []byte) {
	if _, err := w.to.Write(raw); err == nil {
		w.counters.sent.Add(1)
		w.counters.octets.Add(uint64(len(raw)))
	}
}

// tooBig tells the sender that a packet was longer than the link can carry.
func (l *Link) tooBig(w *way, p packet, mtu int) {
	if message := p.tooBig(l.config.Router, mtu); message != nil {
		w.from.Write(message)
	}
}
