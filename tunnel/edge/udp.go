package edge

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

const (
	// udpPerSecond is how many octets of datagrams a sandbox may send in a second, udpBurst how many at once. How those of one
	// client's connection share it is the session's to see to.
	udpPerSecond = 192 << 20
	udpBurst     = 4 << 20

	// udpOverhead is what a datagram costs beside its octets: an empty one is a packet, too.
	udpOverhead = 64
)

// allowUDP says how many of the datagrams there is a budget for, from the first on.
func (s *Sandbox) allowUDP(datagrams [][]byte) int {
	now, cost := time.Now(), 0
	for _, d := range datagrams {
		cost += len(d) + udpOverhead
	}
	if s.udp.AllowN(now, cost) {
		return len(datagrams)
	}
	for i, d := range datagrams {
		if !s.udp.AllowN(now, len(d)+udpOverhead) {
			return i
		}
	}
	return len(datagrams)
}

// rehomeFor is how long a UDP flow waits for its client's next session: as long as that keeps the flow's socket.
const rehomeFor = 10 * time.Second

// rehomeAgain is how soon a flow that nobody is there for asks again.
const rehomeAgain = 100 * time.Millisecond

// rehomed is a UDP flow that outlives the session it began on. What is sent meanwhile is lost, as on any network.
type rehomed struct {
	s      *Sandbox
	open   tunnel.Open
	by     tunnel.Identity
	ctx    context.Context // until Close
	cancel context.CancelFunc
	moving atomic.Bool // there is no session now

	mu     sync.Mutex
	d      tunnel.Datagrams
	closed bool
}

var _ tunnel.Batched = (*rehomed)(nil)

func newRehomed(s *Sandbox, o tunnel.Open, d tunnel.Datagrams) *rehomed {
	r := &rehomed{s: s, open: o, by: d.By(), d: d}
	r.open.Via = r.by.Client // another client would send from another address
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *rehomed) current() tunnel.Datagrams {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.d
}

// By implements tunnel.Datagrams.
func (r *rehomed) By() tunnel.Identity { return r.by }

// MaxDatagram implements tunnel.Datagrams.
func (r *rehomed) MaxDatagram() int { return r.current().MaxDatagram() }

// Close implements tunnel.Datagrams.
func (r *rehomed) Close() error {
	r.mu.Lock()
	d := r.d
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	return d.Close()
}

// Send implements tunnel.Datagrams.
func (r *rehomed) Send(b []byte) error { return r.SendBatch([][]byte{b}) }

// SendBatch implements tunnel.Batched.
func (r *rehomed) SendBatch(datagrams [][]byte) error {
	n := r.s.allowUDP(datagrams)
	if n < len(datagrams) {
		r.s.edge.counters.UDPLimited.Add(uint64(len(datagrams) - n))
	}
	if n == 0 || r.moving.Load() {
		return nil
	}
	d := r.current()
	var err error
	if b, ok := d.(tunnel.Batched); ok {
		err = b.SendBatch(datagrams[:n])
	} else {
		for i := 0; i < n && err == nil; i++ {
			err = d.Send(datagrams[i])
		}
	}
	if sessionEnded(err) {
		return nil // who receives opens it anew, or says how it ended
	}
	return err
}

// sessionEnded reports whether a flow failed because its session did.
func sessionEnded(err error) bool { return err != nil && elsewhere(err) }

// Receive implements tunnel.Datagrams.
func (r *rehomed) Receive(b []byte) (int, error) {
	for {
		d := r.current()
		n, err := d.Receive(b)
		if !sessionEnded(err) {
			return n, err
		}
		if err := r.move(d, err); err != nil {
			return 0, err
		}
	}
}

// ReceiveBatch implements tunnel.Batched.
func (r *rehomed) ReceiveBatch(take func([][]byte) error) error {
	for {
		d := r.current()
		err := receiveBatch(d, take)
		if !sessionEnded(err) {
			return err
		}
		if err := r.move(d, err); err != nil {
			return err
		}
	}
}

func receiveBatch(d tunnel.Datagrams, take func([][]byte) error) error {
	if b, ok := d.(tunnel.Batched); ok {
		return b.ReceiveBatch(take)
	}
	buf := make([]byte, 65507)
	for {
		n, err := d.Receive(buf)
		if err == nil {
			err = take([][]byte{buf[:n]})
		}
		if err != nil {
			return err
		}
	}
}

// move opens the flow on the client's next session. When that does not come it returns why the flow has ended.
func (r *rehomed) move(old tunnel.Datagrams, why error) error {
	if tunnel.CodeOf(why) == tunnel.Revoked {
		return why
	}
	r.moving.Store(true)
	defer r.moving.Store(false)
	old.Close()
	ctx, cancel := context.WithTimeout(r.ctx, rehomeFor)
	defer cancel()
	d, err := r.again(ctx)
	if err != nil {
		if r.ctx.Err() != nil {
			return net.ErrClosed
		}
		if errors.Is(err, context.DeadlineExceeded) || elsewhere(err) {
			return why
		}
		return err
	}
	r.s.edge.counters.Rehomed.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		d.Close()
		return net.ErrClosed
	}
	r.d = d
	return nil
}

// again opens the flow until it is open, there is a reason not to, or ctx ends. An open waits by itself only where a client has
// just gone, and each one is of the sandbox's share.
func (r *rehomed) again(ctx context.Context) (tunnel.Datagrams, error) {
	tick := time.NewTicker(rehomeAgain)
	defer tick.Stop()
	for {
		d, err := r.s.openDatagrams(ctx, r.open)
		if err == nil || !elsewhere(err) {
			return d, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}
